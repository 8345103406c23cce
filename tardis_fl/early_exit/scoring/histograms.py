"""Histograms of scores by right and wrong: the sums that a shared threshold can be chosen from, without any sample.

Of each sample only m_k counts, the largest score up to early exit k: exit k or an earlier one
answers just where m_k reaches the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NUM_BINS = 1000
COUNTS, SINGLE = ("reached", "right_here", "right_next"), ("right_last", "num_samples")


@dataclass(frozen=True)
class Histograms:
    """Sums over samples; histograms of the same bins add up.

    Column b < bins counts values in [b / bins, (b + 1) / bins), the last column those that are 1.

    Attributes:
        reached: (exits - 1, bins + 1) samples by m_k, the largest score up to exit k.
        right_here: Of these, those on which exit k is right.
        right_next: Of these, those on which exit k + 1 is right.
        right_last: Samples on which the last exit is right.
        num_samples: All samples.
    """

    reached: Integers
    right_here: Integers
    right_next: Integers
    right_last: int
    num_samples: int

    def __post_init__(self) -> None:
        shapes = {np.shape(array) for array in (self.reached, self.right_here, self.right_next)}
        if len(shapes) != 1 or np.ndim(self.reached) != 2 or np.shape(self.reached)[1] < 2:
            raise ValueError(
                f"histograms: got arrays of the shapes {sorted(shapes)}; wanted three of the same shape (exits - 1, bins + 1)"
            )
        wrong = [
            field.name
            for field in fields(self)
            if not np.issubdtype(np.asarray(getattr(self, field.name)).dtype, np.integer)
        ]
        if wrong:
            raise ValueError(
                f"histograms: {', '.join(wrong)}: got {np.asarray(getattr(self, wrong[0])).dtype}; wanted integers"
            )
        if (
            (self.right_here < 0).any()
            or (self.right_next < 0).any()
            or (np.maximum(self.right_here, self.right_next) > self.reached).any()
        ):
            raise ValueError(
                "histograms: a bin counts more right answers than samples, or fewer than none"
            )
        if (
            self.reached.sum(axis=1) != self.num_samples
        ).any() or not 0 <= self.right_last <= self.num_samples:
            raise ValueError(
                f"histograms: rows of {self.reached.sum(axis=1).tolist()} samples, {self.right_last} right at last; wanted {self.num_samples} in each"
            )

    @property
    def num_bins(self) -> int:
        return self.reached.shape[1] - 1

    def __add__(self, other: Histograms) -> Histograms:
        if self.reached.shape != other.reached.shape:
            raise ValueError(
                f"histograms of {self.reached.shape} and {other.reached.shape} counts don't add up; wanted the same exits and bins"
            )
        return Histograms(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )

    @classmethod
    def zero(cls, num_exits: int, num_bins: int = NUM_BINS) -> Histograms:
        """Returns the histograms of no samples."""
        empty = np.zeros((num_exits - 1, num_bins + 1), dtype=np.int64)
        return cls(empty, empty, empty, 0, 0)

    def to_arrays(self) -> dict[str, Integers]:
        """Returns the counts as arrays of int64 by name, for a message; the two single numbers as arrays (1,)."""
        return {
            field.name: np.atleast_1d(np.asarray(getattr(self, field.name), dtype=np.int64))
            for field in fields(self)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.int64]]) -> Histograms:
        """Reads what `to_arrays` made.

        Raises:
            ValueError: An array is missing, or they don't fit together.
        """
        missing = [field.name for field in fields(cls) if field.name not in arrays]
        if missing:
            raise ValueError(
                f"histograms: got the arrays {', '.join(arrays) or 'none'}; {', '.join(missing)} is missing"
            )
        single = {name: np.asarray(arrays[name]) for name in SINGLE}
        if any(array.shape != (1,) for array in single.values()):
            raise ValueError(
                f"histograms: got {' and '.join(SINGLE)} of the shapes {[array.shape for array in single.values()]}; wanted (1,)"
            )
        return cls(
            *(np.asarray(arrays[name]) for name in COUNTS),
            *(array[0].item() for array in single.values()),
        )


def edges(num_bins: int) -> Floats:
    """Returns the edges of the bins (bins + 1,), from 0 to 1."""
    return np.arange(num_bins + 1) / num_bins


def score_histograms(
    scores: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], bins: int = NUM_BINS
) -> Histograms:
    """Counts one client's samples.

    Args:
        scores: Of the early exits (exits - 1, N), in [0, 1].
        correct: Whether each exit is right (exits, N).
        bins: Of equal width over [0, 1].

    Raises:
        ValueError: Shapes don't fit, a score is outside [0, 1] or NaN, or there are no bins.
    """
    scores, correct = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=bool)
    if scores.ndim != 2 or correct.shape != (len(scores) + 1, scores.shape[1]):
        raise ValueError(
            f"scores of the shape {scores.shape}, correct of {correct.shape}; wanted (exits - 1, N) and (exits, N)"
        )
    if bins < 1:
        raise ValueError(f"bins: got {bins}; wanted at least 1")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores: got some outside [0, 1], or NaN; wanted values in [0, 1]")
    where = (
        np.searchsorted(edges(bins), np.maximum.accumulate(scores, axis=0), side="right") - 1
    )  # by comparison, as `decide` does

    def count(marked: npt.NDArray[np.bool_]) -> Integers:
        return np.stack(
            [
                np.bincount(row[mark], minlength=bins + 1)
                for row, mark in zip(where, marked, strict=True)
            ]
        ).astype(np.int64)

    everyone = np.ones_like(correct[:-1])
    return Histograms(
        count(everyone),
        count(correct[:-1]),
        count(correct[1:]),
        int(correct[-1].sum()),
        scores.shape[1],
    )
