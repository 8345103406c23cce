"""The interface of callbacks.

A callback of your own is a class, named as MODULE:CLASS in the configuration:

    callbacks:
      - use: my_package.watching:Plot
        options: {every: 5}

or an object that is given to `tardis_fl.run(config, callbacks=[...])`. It overrides the methods that
it needs. Progress bar, run folder, early stopping and JSON lines are written with this interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tardis_fl.config.schema import Config
    from tardis_fl.federation.records import Failure, RoundRecord, Snapshot, Work

    TakeSnapshot = Callable[[], Snapshot]


class StopTraining(Exception):
    """Raised by a callback: the round that ended is the last; then follow final epochs and deployment.

    Where it is raised at the end of a final epoch of the server, that epoch is the last one.
    """


@dataclass(frozen=True)
class RunStart:
    """What a callback gets to know before the first round.

    Attributes:
        config: The resolved configuration.
        rounds: Records of the rounds that an interrupted run had completed; empty in a new run.
        final_epochs: The same for the server's final epochs.
    """

    config: Config
    rounds: Sequence[RoundRecord] = ()
    final_epochs: Sequence[RoundRecord] = ()


class Callback:
    """Is called as a run goes on, from the thread that trains.

    A callback may not change anything that it is given. What its methods raise ends the run, but
    for `StopTraining`.
    """

    def on_run_begin(self, start: RunStart) -> None:
        """The first round is about to begin, or the first after an interruption."""

    def on_progress(self, work: Work, num_samples: int) -> None:
        """So many samples have gone through a kind of work since the last call."""

    def on_failure(self, failure: Failure) -> None:
        """A client failed in some stage of a round."""

    def on_notice(self, text: str) -> None:
        """Something happened that a person should know, such as a node that joined."""

    def on_round_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """A round is complete.

        Args:
            record: Clients, failures, losses, accuracies, bytes and seconds of the round.
            snapshot: Returns the state from which the run can go on. Its tensors are the live ones:
                they are to be written or copied before this method returns.

        Raises:
            StopTraining: No further round is wanted.
        """

    def on_epoch_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """One of the server's final epochs is complete; see `on_round_end`."""

    def on_run_end(self, error: BaseException | None) -> None:
        """The training is over.

        Args:
            error: What ended it; None where it is complete.
        """
