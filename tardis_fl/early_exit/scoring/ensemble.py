"""Exit ensembles: the geometric mean of what the exits passed so far say."""

from __future__ import annotations

import torch
from torch import Tensor


class Ensemble:
    """Log-probabilities of the samples on their way, summed over the exits they passed.

    The geometric mean of class probabilities over exits is, up to a constant a sample, the mean of
    their log-probabilities, so that the mean serves as logits (zero time waste, Wolczyk et al.
    2021, combines exits this way).
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, logits: Tensor) -> Tensor:
        """Takes the next exit's logits (B, classes) in; returns the ensemble's logits (B, classes)."""
        log_probabilities = torch.log_softmax(logits.float(), -1)
        self._sum = log_probabilities if self._sum is None else self._sum + log_probabilities
        self._count += 1
        return self._sum / self._count

    def keep(self, rows: Tensor) -> None:
        """Goes on with these samples only."""
        if self._sum is not None:
            self._sum = self._sum[rows]


def ensemble_logits(logits: Tensor) -> Tensor:
    """Returns, for each exit, the logits of the ensemble of it and all shallower ones: (exits, N, classes) from the same."""
    ensemble = Ensemble()
    return torch.stack([ensemble.add(rows) for rows in logits])
