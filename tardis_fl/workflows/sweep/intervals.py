"""Means over seeds with Student's t intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

NORMAL_975 = 1.959964
T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds.

    Attributes:
        values: One a seed.
        mean: Of the values; None without any.
        half_width: Of the 95 % interval of the mean; None with fewer than two values.
    """

    values: list[float]
    mean: float | None
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Returns the mean and the half width of its 95 % interval.

        The half width is t_{0.975, n-1} s / sqrt(n), where s is the sample standard deviation
        (Student 1908).
        """
        count = len(values)
        half = t_quantile(count - 1) * stdev(values) / count**0.5 if count > 1 else None
        return cls(list(values), fmean(values) if values else None, half)

    @property
    def interval(self) -> list[float] | None:
        """Ends of the 95 % interval of the mean; they can lie outside the range of values."""
        return (
            None
            if self.mean is None or self.half_width is None
            else [self.mean - self.half_width, self.mean + self.half_width]
        )


def t_quantile(degrees: int) -> float:
    """Returns t_{0.975} for a number of degrees of freedom.

    Up to 30 from the table in NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2. Beyond,
    the expansion of Abramowitz and Stegun 26.7.5 in 1 / degrees, to its second term; it is within
    0.001 there.
    """
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z = NORMAL_975
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
