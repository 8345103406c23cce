"""A learned score: how unlikely it is that the next tier mends an answer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit
from torch import Tensor

from tardis_fl.early_exit.evaluation import FitTable
from tardis_fl.early_exit.scoring.scores import entropy, margin

Floats = npt.NDArray[np.float64]
PENALTY = 1e-3  # L2, on the coefficients of standardised statistics
LARGEST_LOG_ODDS = 30.0


def gain_score(logits: Tensor, temperature: float, coefficients: tuple[float, ...]) -> Tensor:
    """Returns 1 less the probability that the next exit mends the answer, (...) float64 in [0, 1].

    Args:
        logits: (..., classes).
        temperature: Of the exit.
        coefficients: Constant, then one for each of `statistics`.
    """
    total = torch.full(logits.shape[:-1], coefficients[0], dtype=torch.float64)
    for weight, values in zip(coefficients[1:], statistics(logits, temperature), strict=True):
        total = total + weight * values
    return 1 - torch.from_numpy(
        np.asarray(expit(total.cpu().numpy()))
    )  # not PyTorch's, whose last bit depends on how many samples there are


def statistics(logits: Tensor, temperature: float) -> list[Tensor]:
    """Returns what the score looks at, each (...) float64: largest probability, margin, 1 - normalised entropy, log-odds of the largest."""
    probabilities = torch.softmax(logits.double() / temperature, -1)
    largest = probabilities.amax(-1)
    log_odds = torch.from_numpy(
        np.asarray(logit(largest.clamp(1e-13, 1 - 1e-13).cpu().numpy()))
    ).clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
    return [
        values.cpu()
        for values in (largest, margin(probabilities), entropy(probabilities), log_odds)
    ]


def fit_gain(table: FitTable, temperatures: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Fits a logistic regression for each early exit: is it wrong and the next exit right?

    Args:
        table: The fit role.
        temperatures: One an exit.

    Returns:
        For each early exit its coefficients, as `gain_score` takes them.

    Raises:
        TypeError: The table is of another role.
    """
    if not isinstance(table, FitTable):
        raise TypeError(
            f"scores are fitted on the fit role only, got a table of the role {table.role!r}"
        )
    correct = table.correct()
    return tuple(
        _logistic(
            np.stack(
                [
                    values.numpy()
                    for values in statistics(
                        torch.from_numpy(table.logits[exit]), temperatures[exit]
                    )
                ],
                axis=1,
            ),
            ~correct[exit] & correct[exit + 1],
        )
        for exit in range(table.num_exits - 1)
    )


def _logistic(columns: Floats, happened: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    """Fits a penalised logistic regression (Nelder and Wedderburn 1972); where all or none happened, the penalty keeps it finite."""
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    inputs = np.concatenate([np.ones((len(columns), 1)), (columns - mean) / spread], axis=1)
    sign = np.where(happened, 1.0, -1.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        agreement = sign * (inputs @ weights)
        slope = -sign / (1 + np.exp(np.clip(agreement, -500, 500)))
        return float(
            np.logaddexp(0, -agreement).mean() + PENALTY / 2 * weights @ weights
        ), inputs.T @ slope / len(sign) + PENALTY * weights

    found = minimize(
        loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    ).x
    weights = found[1:] / spread
    return (float(found[0] - weights @ mean), *weights.tolist())
