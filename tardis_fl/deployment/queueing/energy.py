"""What the devices' radios use: sending, receiving, idle, and the tails after each activity."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.queueing.system import Radio

Floats = npt.NDArray[np.float64]


@dataclass
class RadioUse:
    """Adds up what all devices' radios do.

    A tail's states follow each activity and end early where the next begins. Activities of one
    device that overlap count as one for its tails; what lies beyond the simulated time isn't
    counted.

    Args:
        radio: Powers and tails; None: nothing is counted.
        num_devices: Radios.
    """

    radio: Radio | None
    num_devices: int
    transmit_s: float = 0.0
    receive_s: float = 0.0
    _activities: list[tuple[npt.NDArray[np.int32], Floats, Floats]] = field(default_factory=list)

    def sent(
        self,
        devices: npt.NDArray[np.int32],
        begun: Floats,
        finished: Floats,
        seconds: Floats | float,
    ) -> None:
        """Counts messages: who sent them, from when to when (n,), and for how much of that the radio sent."""
        if self.radio is None:
            return
        self.transmit_s += (
            float(np.sum(seconds)) if isinstance(seconds, np.ndarray) else seconds * len(devices)
        )
        if self.radio.tails:
            self._activities.append((devices, begun, finished))

    def received(self, devices: npt.NDArray[np.int32], begun: Floats, seconds: float) -> None:
        """Counts answers that come in from `begun` (n,) on."""
        if self.radio is None:
            return
        self.receive_s += seconds * len(devices)
        if self.radio.tails:
            self._activities.append((devices, begun, begun + seconds))

    def joules(self, wall_s: float, end_s: float) -> tuple[float, float]:
        """Returns the energy of all radios over a time that ends at `end_s`, and the part that they would not have used without requests."""
        radio = self.radio
        if radio is None:
            return 0.0, 0.0
        tails = self._tail_seconds(end_s)
        active = self.transmit_s * (radio.transmit_w - radio.idle_w) + self.receive_s * (
            radio.receive_w - radio.idle_w
        )
        active += sum(
            seconds * (power - radio.idle_w)
            for (power, _), seconds in zip(radio.tails, tails, strict=True)
        )
        return active + radio.idle_w * wall_s * self.num_devices, active

    def _tail_seconds(self, end_s: float) -> list[float]:
        """Returns how long all radios are in each state of their tails, up to a time."""
        if self.radio is None or not self.radio.tails or not self._activities:
            return [0.0] * (len(self.radio.tails) if self.radio else 0)
        devices, begun, finished = (
            np.concatenate([activity[k] for activity in self._activities]) for k in range(3)
        )
        order = np.lexsort((begun, devices))
        devices, begun, finished = devices[order], begun[order], finished[order]
        span = (
            end_s + 1.0
        )  # keeps a device's times apart from the next one's in the running maximum
        until = np.maximum.accumulate(finished + devices * span) - devices * span
        last = np.append(devices[1:] != devices[:-1], True)
        gaps = np.where(last, end_s, np.append(begun[1:], end_s)) - until
        seconds, before = [], 0.0
        for _, length in self.radio.tails:
            seconds.append(float(np.clip(gaps - before, 0.0, length).sum()))
            before += length
        return seconds
