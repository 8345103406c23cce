"""Temperatures from sums over samples, which add up over clients: no sample is needed where they are fitted.

The negative log-likelihood of softmax(b z) is convex in the inverse temperature b, so its slope
changes its sign once: the sums at some temperatures between two bounds say between which of them
the minimum lies, and the next sums are asked for there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LOG_TEMPERATURE_RANGE = (-3.0, 3.0)  # 0.05 to 20
LOG_TOLERANCE = 1e-4
POINTS = 39  # three times a fortieth of the range is below the tolerance

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TemperatureSums:
    """Sums over samples at G inverse temperatures of each exit; those at the same ones add up.

    Attributes:
        loss: (exits, G) negative log-likelihood.
        slope: (exits, G) its derivative by the inverse temperature.
        num_samples: All samples.
    """

    loss: Floats
    slope: Floats
    num_samples: int

    def __post_init__(self) -> None:
        if np.ndim(self.loss) != 2 or np.shape(self.loss) != np.shape(self.slope):
            raise ValueError(
                f"temperature sums of the shapes {np.shape(self.loss)} and {np.shape(self.slope)}; wanted (exits, temperatures) twice"
            )
        if not (np.isfinite(self.loss).all() and np.isfinite(self.slope).all()):
            raise ValueError("temperature sums: got some that are not finite")
        if (self.loss < 0).any() or self.num_samples < 0:
            raise ValueError("temperature sums: got a loss, or a number of samples, below 0")

    def __add__(self, other: TemperatureSums) -> TemperatureSums:
        if self.loss.shape != other.loss.shape:
            raise ValueError(
                f"temperature sums of the shapes {self.loss.shape} and {other.loss.shape} don't add up; wanted the same exits and temperatures"
            )
        return TemperatureSums(
            self.loss + other.loss, self.slope + other.slope, self.num_samples + other.num_samples
        )

    @classmethod
    def zero(cls, num_exits: int, points: int = POINTS) -> TemperatureSums:
        """Returns the sums of no samples."""
        return cls(np.zeros((num_exits, points)), np.zeros((num_exits, points)), 0)

    def to_numbers(self) -> dict[str, int | list[float]]:
        """Returns the sums as flat lists by name, for a message."""
        return {
            "loss": self.loss.ravel().tolist(),
            "slope": self.slope.ravel().tolist(),
            "num_samples": self.num_samples,
        }

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any], num_exits: int) -> TemperatureSums:
        """Reads what `to_numbers` made.

        Raises:
            ValueError: Numbers are missing, or don't fit together.
        """
        missing = [name for name in ("loss", "slope", "num_samples") if name not in numbers]
        if missing:
            raise ValueError(f"temperature sums: {' and '.join(missing)} is missing")
        loss, slope = (
            np.asarray(numbers[name], dtype=np.float64).reshape(num_exits, -1)
            for name in ("loss", "slope")
        )
        return cls(loss, slope, int(numbers["num_samples"]))


def temperature_sums(
    logits: Tensor, labels: Tensor, inverse_temperatures: npt.ArrayLike
) -> TemperatureSums:
    """Sums one client's samples, in float64.

    Args:
        logits: (exits, N, classes).
        labels: (N,).
        inverse_temperatures: (exits, G).

    Raises:
        ValueError: There isn't a row of temperatures for each exit, or a label isn't among the
            classes.
    """
    inverse = np.asarray(inverse_temperatures, dtype=np.float64)
    if inverse.ndim != 2 or len(inverse) != len(logits):
        raise ValueError(
            f"inverse temperatures: got the shape {inverse.shape}; wanted ({len(logits)} exits, temperatures)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[2]:
        raise ValueError(
            f"labels: got {int(labels.min())} to {int(labels.max())}; wanted 0 to {logits.shape[2] - 1}"
        )
    loss, slope, index = np.zeros_like(inverse), np.zeros_like(inverse), labels[:, None].long()
    for exit, rows in enumerate(logits.double()):
        above = rows - rows.gather(
            1, index
        )  # (N, classes): how far each class lies above the right one
        for point, factor in enumerate(inverse[exit]):
            log_probabilities = torch.log_softmax(rows * float(factor), 1)
            loss[exit, point] = -log_probabilities.gather(1, index).sum()
            slope[exit, point] = (log_probabilities.exp() * above).sum()
    return TemperatureSums(np.maximum(loss, 0.0), slope, len(labels))


@dataclass(frozen=True)
class Brackets:
    """Between which temperatures each exit's lies.

    Attributes:
        low, high: (exits,) logarithms of temperatures.
    """

    low: Floats
    high: Floats

    @classmethod
    def whole(cls, num_exits: int) -> Brackets:
        """Returns the whole range for every exit."""
        low, high = LOG_TEMPERATURE_RANGE
        return cls(np.full(num_exits, low), np.full(num_exits, high))

    @property
    def logs(self) -> Floats:
        """Logarithms of temperatures between the bounds, evenly spaced and rising: (exits, POINTS)."""
        return np.linspace(self.low, self.high, POINTS + 2, axis=1)[:, 1:-1]

    @property
    def inverse_temperatures(self) -> Floats:
        """What sums are wanted at: (exits, POINTS)."""
        return np.exp(-self.logs)

    @property
    def is_narrow(self) -> bool:
        """Whether the temperatures are known."""
        return bool((self.high - self.low).max() <= LOG_TOLERANCE)

    def narrowed(self, sums: TemperatureSums) -> Brackets:
        """Returns the brackets, a fortieth as wide, that the sums at `inverse_temperatures` leave.

        Where the loss is lost in rounding at 0, all these temperatures are as good, and the largest
        is taken, as in a search by losses.

        Raises:
            ValueError: The sums are of other exits or temperatures.
        """
        if sums.loss.shape != self.logs.shape:
            raise ValueError(
                f"temperature sums: got the shape {sums.loss.shape}; wanted {self.logs.shape}"
            )
        rises = (sums.slope >= 0) | (
            sums.loss == 0
        )  # the minimum is at this temperature or a higher one
        first = np.where(rises.all(axis=1), POINTS, (~rises).argmax(axis=1))
        edges, rows = np.column_stack([self.low, self.logs, self.high]), np.arange(len(first))
        return Brackets(edges[rows, first], edges[rows, first + 1])

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The middle of each bracket."""
        return tuple(np.exp((self.low + self.high) / 2).tolist())
