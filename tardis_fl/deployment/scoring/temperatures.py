"""Temperatures and how well scores tell right from wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.early_exit.evaluation import FitTable
from tardis_fl.early_exit.scoring.temperature_sums import LOG_TEMPERATURE_RANGE, LOG_TOLERANCE

ECE_BINS = 15


def fit_temperatures(table: FitTable) -> list[float]:
    """Fits one temperature an exit by the negative log-likelihood of the fit role (Guo et al.

    2017, section 4.2).
    """
    if not isinstance(table, FitTable):
        raise TypeError(
            f"temperatures are fitted on the fit role only, got a table of the role {table.role!r}"
        )
    labels = torch.from_numpy(table.labels)
    return [fit_temperature(torch.from_numpy(logits), labels) for logits in table.logits]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Minimises the negative log-likelihood of softmax(logits / T) over T.

    The likelihood is concave in 1 / T, so a golden-section search over log T finds the one minimum.

    Args:
        logits: (N, classes).
        labels: (N,).

    Returns:
        T, between 0.05 and 20.
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / np.exp(log_temperature), labels))

    low, high = LOG_TEMPERATURE_RANGE
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > LOG_TOLERANCE:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def expected_calibration_error(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], num_bins: int = ECE_BINS
) -> float:
    """Returns the mean gap between confidence and accuracy over equal-width bins, weighted by samples (Guo et al. 2017, equation 3).

    Args:
        confidence: (N,) largest class probability.
        correct: (N,).
        num_bins: Bins over [0, 1].
    """
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=confidence, minlength=num_bins) - np.bincount(
        bins, weights=correct, minlength=num_bins
    )
    return float(np.abs(gaps).sum() / len(confidence))


def auroc(scores: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> float | None:
    """Returns the probability that a right answer scores above a wrong one, ties counted half; None where all are right or all wrong.

    By the rank sum of Mann and Whitney.
    """
    positives = int(correct.sum())
    negatives = len(correct) - positives
    if positives == 0 or negatives == 0:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks = last - (counts - 1) / 2  # of each distinct score, from 1
    rank_sum = mean_ranks[inverse][correct].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))
