"""Scores that nothing is fitted for but temperatures, so that clients can compute them too.

In [0, 1], higher = safer, one a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tardis_fl.early_exit.scoring.patience import patience_scores

PATIENCE = "patience"


def max_softmax(probabilities: Tensor) -> Tensor:
    """Returns the largest class probability."""
    return probabilities.amax(-1)


def margin(probabilities: Tensor) -> Tensor:
    """Returns the largest class probability less the second."""
    top = probabilities.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def entropy(probabilities: Tensor) -> Tensor:
    """Returns 1 - H(p) / log C (BranchyNet's entropy, turned so that up is safer)."""
    return (
        1 - torch.special.entr(probabilities).sum(-1) / math.log(probabilities.shape[-1])
    ).clamp(0, 1)


POLICIES: dict[str, Callable[[Tensor], Tensor]] = {
    "max_softmax": max_softmax,
    "margin": margin,
    "entropy": entropy,
}
"""Those that look at one exit's class probabilities alone."""


def score(policy: str, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Scores logits (..., classes); returns (...) float64 in [0, 1].

    It computes in float64 so that a score doesn't depend on how many samples are scored at a time.
    """
    return POLICIES[policy](torch.softmax(logits.double() / temperature, -1))


def early_scores(policy: str, logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Scores the early exits of logits (exits, N, classes) by a policy of `POLICIES` or patience: (exits - 1, N) float64.

    Args:
        policy: Its name.
        logits: Of all exits.
        temperatures: One an exit; patience doesn't look at them.
    """
    if policy == PATIENCE:
        return patience_scores(logits)[:-1]
    return torch.stack(
        [
            score(policy, rows, temperature)
            for rows, temperature in zip(logits[:-1], temperatures, strict=False)
        ]
    )
