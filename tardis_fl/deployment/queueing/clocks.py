"""Time in which a server works: slower links, outages and crashes as a piecewise-linear clock.

Work W(t) is how many seconds at full rate a server could have worked until t. A queue without
idling that is simulated in work, and whose results are turned back into time, is the queue with
that changing rate, exactly; it needs no loop over changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class WorkClock:
    """Turns time into work and back.

    Args:
        times: When the factor changes, ascending; before the first it is 1.
        factors: Of the full rate from each of these times on; the last is above 0.
    """

    def __init__(self, times: Sequence[float], factors: Sequence[float]) -> None:
        self._times = np.asarray(times, dtype=np.float64)
        self._factors = np.asarray(factors, dtype=np.float64)
        lengths = np.diff(self._times)
        self._work = self._times[0] + np.concatenate(
            [[0.0], np.cumsum(lengths * self._factors[:-1])]
        )
        self._moving = self._times[0] + np.concatenate(
            [[0.0], np.cumsum(lengths * (self._factors[:-1] > 0))]
        )

    @classmethod
    def of_windows(cls, windows: Sequence[tuple[float, float]]) -> WorkClock:
        """Returns the clock that stands still in each window (start, end)."""
        return cls.product([cls(window, (0.0, 1.0)) for window in windows])

    @classmethod
    def product(cls, clocks: Sequence[WorkClock]) -> WorkClock:
        """Returns the clock whose factor is the product of several."""
        times = np.unique(np.concatenate([clock._times for clock in clocks]))
        return cls(times, np.prod([clock.factor(times) for clock in clocks], axis=0))

    def factor(self, times: Floats) -> Floats:
        """Returns the factor at each time."""
        index = np.searchsorted(self._times, times, side="right") - 1
        return np.where(index < 0, 1.0, self._factors[np.maximum(index, 0)])

    def work(self, times: Floats) -> Floats:
        """Returns W(t); ascending, and constant where the server stands still."""
        index = np.searchsorted(self._times, times, side="right") - 1
        inside = np.maximum(index, 0)
        return np.where(
            index < 0,
            times,
            self._work[inside] + (times - self._times[inside]) * self._factors[inside],
        )

    def busy_seconds(self, begun: Floats, done: Floats) -> Floats:
        """Returns how long a server needs from one amount of work to another, without the time in which it stands still."""
        return self._moving_at(done) - self._moving_at(begun)

    def done(self, work: Floats) -> Floats:
        """Returns the first time at which so much work was possible: when a job is done."""
        return self._time(work, "left")

    def begun(self, work: Floats) -> Floats:
        """Returns the last time at which no more work was possible: when a job begins."""
        return self._time(work, "right")

    def _moving_at(self, work: Floats) -> Floats:
        index = np.searchsorted(self._work, work, side="right") - 1
        inside = np.maximum(index, 0)
        return np.where(
            index < 0,
            work,
            self._moving[inside]
            + (work - self._work[inside])
            / np.where(self._factors[inside] > 0, self._factors[inside], 1.0),
        )

    def _time(self, work: Floats, side: str) -> Floats:
        index = np.searchsorted(self._work, work, side=side) - 1  # type: ignore[call-overload]
        inside = np.maximum(index, 0)
        factor = np.where(self._factors[inside] > 0, self._factors[inside], 1.0)
        return np.where(index < 0, work, self._times[inside] + (work - self._work[inside]) / factor)
