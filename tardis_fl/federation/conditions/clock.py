"""The virtual clock: how long a client's round would take on its own device and link.

This machine's own speed plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence

from tardis_fl.config.federation import GroupConfig
from tardis_fl.config.schema import Config
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.profiles import load_profiles

# a forward pass, and a backward pass that costs about two (Hobbhahn and Sevilla 2021, on the
# backward-forward FLOP ratio)
PASSES_OF_TRAINING = 3


class VirtualClock:
    """Seconds of a client's round: receive, compute, send.

    Computing takes multiply-accumulates x 2 x 3 over the rate of the group's device, where the
    profiles' rates are those of inference; a group without a device or a link spends no time on it.

    Args:
        config: The run's configuration.
        macs: Multiply-accumulates of each segment with its exit, for one sample.
    """

    def __init__(self, config: Config, macs: Sequence[int]) -> None:
        self._macs = macs
        self._depthwise = CATALOGUE[config.model.backbone].depthwise
        self._profiles = load_profiles(config.profiles)
        self._deadline_s = config.federation.deadline_s
        self.runs = any(group.device or group.link for group in config.groups)

    def client_seconds(
        self,
        group: GroupConfig,
        *,
        num_samples: int,
        bytes_down: int,
        bytes_up: int,
        num_exchanges: int = 1,
        slowdown: float = 1.0,
    ) -> float:
        """Returns the seconds from the request's sending to the reply's arrival.

        Args:
            group: The client's group.
            num_samples: Samples trained on, each pass counted.
            bytes_down: Bytes of the requests.
            bytes_up: Bytes of the replies.
            num_exchanges: Requests and replies.
            slowdown: Factor on computing (the fault `straggler`).
        """
        seconds = 0.0
        if group.device:
            macs = sum(self._macs[: group.depth]) * PASSES_OF_TRAINING * num_samples
            seconds += slowdown * self._profiles.device(group.device).seconds(
                macs, depthwise=self._depthwise
            )
        if group.link:
            link = self._profiles.link(group.link)
            seconds += (
                8 * bytes_down / link.down_bit_per_s
                + 8 * bytes_up / link.up_bit_per_s
                + 2 * num_exchanges * link.delay_s
            )
        return seconds

    def deadlines_missed(self, seconds: float) -> int:
        """Returns how many deadlines passed before an update arrived; 0 where it is in time."""
        if not self._deadline_s or seconds <= self._deadline_s:
            return 0
        return int(seconds // self._deadline_s)

    def round_seconds(self, arrivals: Sequence[float], *, someone_is_missing: bool) -> float | None:
        """Returns how long the server waits; None where no group has a device or a link.

        It waits for the last update, or for the deadline where a client is late or missing.

        Args:
            arrivals: Seconds at which the round's updates arrive.
            someone_is_missing: Whether a client that was asked sends no update.
        """
        if not self.runs:
            return None
        last = max(arrivals, default=0.0)
        if self._deadline_s is None:
            return last
        return self._deadline_s if someone_is_missing else min(last, self._deadline_s)
