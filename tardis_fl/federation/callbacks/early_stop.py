"""Stops the rounds when they no longer help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tardis_fl.errors import ConfigError
from tardis_fl.federation.callbacks.base import Callback, RunStart, StopTraining

if TYPE_CHECKING:
    from tardis_fl.federation.callbacks.base import TakeSnapshot
    from tardis_fl.federation.records import RoundRecord


class EarlyStop(Callback):
    """Ends the rounds where an exit's held-out accuracy has not improved for a while.

    Rounds that aren't evaluated don't count. A resumed run takes its rounds before the interruption
    into account. The learning rate's schedule is still that of all configured rounds.

    Args:
        patience: Evaluated rounds without an improvement after which the rounds end.
        min_delta: The least gain in accuracy, in [0, 1), that counts as an improvement.
        exit: Which exit is watched, from 0; -1 is the deepest.
    """

    def __init__(self, *, patience: int = 5, min_delta: float = 0.0, exit: int = -1) -> None:
        if patience < 1:
            raise ConfigError(f"patience: got {patience}; wanted a number of rounds, 1 or more")
        if not 0 <= min_delta < 1:
            raise ConfigError(f"min_delta: got {min_delta}; wanted a share, 0 or more and under 1")
        self.patience = patience
        self.min_delta = min_delta
        self.exit = exit
        self.best: float | None = None
        self.num_without_gain = 0

    def on_run_begin(self, start: RunStart) -> None:
        """Checks the exit, and looks at the rounds before an interruption."""
        num_exits = start.config.num_segments
        if not -num_exits <= self.exit < num_exits:
            wanted = f"0 to {num_exits - 1}, or -1 for the deepest"
            raise ConfigError(f"exit: got {self.exit}; wanted {wanted}")
        self.best, self.num_without_gain = None, 0
        for record in start.rounds:
            self._look_at(record)
        if self.num_without_gain >= self.patience:
            raise StopTraining

    def on_round_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """Stops the rounds where this was one too many without an improvement."""
        self._look_at(record)
        if self.num_without_gain >= self.patience:
            raise StopTraining

    def _look_at(self, record: RoundRecord) -> None:
        accuracies = record.validation_accuracy
        if accuracies is None:
            return
        accuracy = accuracies[self.exit]
        if self.best is None or accuracy > self.best + self.min_delta:
            self.best = accuracy
            self.num_without_gain = 0
        else:
            self.num_without_gain += 1
