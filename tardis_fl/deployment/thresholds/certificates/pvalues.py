"""P-values for "the risk is above epsilon", and how many samples it takes to reject that at all."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

Floats = npt.NDArray[np.float64]


def binomial(loss_sums: Floats, n: int, epsilon: float) -> Floats:
    """P-values of the exact binomial test, for losses of 0 and 1: BinomCDF(number of losses; n, epsilon).

    Args:
        loss_sums: (...) losses seen among the n samples, whole numbers.
        n: Samples.
        epsilon: The risk to reject.
    """
    return bdtr(np.round(loss_sums), n, epsilon)


def hoeffding_bentkus(loss_sums: Floats, n: int, epsilon: float) -> Floats:
    """P-values for losses in [0, 1] (Bates et al.

    2021, section 3.1.2; Angelopoulos et al. 2021, Learn then Test, proposition 2).

    min(exp(-n h(min(R, epsilon), epsilon)), e BinomCDF(ceil(n R); n, epsilon)) with h(a, b) = a
    log(a / b) + (1 - a) log((1 - a) / (1 - b)).

    Args:
        loss_sums: (...) sums of the n losses.
        n: Samples.
        epsilon: The risk to reject.
    """
    risk = np.clip(np.asarray(loss_sums, dtype=np.float64) / n, 0, epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(risk > 0, risk * np.log(risk / epsilon), 0) + (1 - risk) * np.log(
            (1 - risk) / (1 - epsilon)
        )
    whole = np.minimum(
        np.ceil(np.asarray(loss_sums) - 1e-9), n
    )  # a sum of floats may lie a rounding above a whole number
    return np.minimum(
        np.minimum(
            np.exp(-n * np.maximum(divergence, 0)), math.e * bdtr(np.maximum(whole, 0), n, epsilon)
        ),
        1,
    )


def smallest_n(epsilon: float, delta: float, method: str = "ltt") -> int:
    """Returns the fewest samples with which anything can be certified: no loss seen, (1 - epsilon)^n <= delta.

    230, 114 and 45 for an epsilon of 1, 2 and 5 % at a delta of 0.1. Conformal risk control needs 1
    / (n + 1) <= epsilon.

    Raises:
        ValueError: Epsilon or delta is outside (0, 1).
    """
    check_share("epsilon", epsilon)
    check_share("delta", delta)
    if method == "conformal":
        return max(1, math.ceil(1 / epsilon - 1 - 1e-9))
    n = max(1, math.ceil(math.log(delta) / math.log1p(-epsilon) - 1e-9))
    return n if bdtr(0, n, epsilon) <= delta else n + 1


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: got {value!r}; wanted a number between 0 and 1, both excluded")
