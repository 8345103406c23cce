"""Patience: how many exits in a row have said the same (PABEE, Zhou et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor


class Patience:
    """Predictions of the samples on their way, and for how many exits in a row they have stayed the same.

    Args:
        num_exits: Of the network.
    """

    def __init__(self, num_exits: int) -> None:
        self._others = num_exits - 1
        self._said: Tensor | None = None
        self._run: Tensor | None = None

    def add(self, logits: Tensor) -> Tensor:
        """Takes the next exit's logits (B, classes) in.

        Returns:
            (B,) float64 in [0, 1]: exits in a row before this one that agree with it, over all
            exits but one. 0 at the first exit.
        """
        says = logits.argmax(-1)
        if self._said is None or self._run is None:
            self._run = torch.zeros_like(says)
        else:
            self._run = torch.where(says == self._said, self._run + 1, 0)
        self._said = says
        return self._run.double() / self._others

    def keep(self, rows: Tensor) -> None:
        """Goes on with these samples only."""
        if self._said is not None and self._run is not None:
            self._said, self._run = self._said[rows], self._run[rows]


def patience_scores(logits: Tensor) -> Tensor:
    """Returns the scores of all exits (exits, N) from their logits (exits, N, classes)."""
    patience = Patience(len(logits))
    return torch.stack([patience.add(rows) for rows in logits])
