"""Confidence: how safe it is to answer a sample at an exit, and users' own functions for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""Maps logits (B, classes) to scores (B,) in [0, 1], up = safer to answer."""

NEVER_EXIT = 1.01
"""A threshold that no score reaches."""
ROUNDING = 1e-6


def max_softmax_score(logits: Tensor) -> Tensor:
    """Returns the largest class probability of each sample, (B,) float64: the default of TARDIS Early Exit."""
    return torch.softmax(logits.double(), -1).amax(-1)


class PerSampleScore:
    """A score for batches, made of a user's confidence function.

    The function takes the logits of one sample (classes,), as in TARDIS Early Exit, and returns its
    confidence, or one for each class, of which the largest counts (such as `nn.Softmax(dim=0)`). It
    is never handed a whole batch that it could mix up; only a function that wants a batch dimension
    (such as one with `dim=1`) gets (B, classes) and returns (B,).

    Args:
        confidence_function: The function.
    """

    def __init__(self, confidence_function: Callable[[Tensor], Tensor]) -> None:
        self.confidence_function = confidence_function

    def __call__(self, logits: Tensor) -> Tensor:
        """Maps logits (B, classes) to what the function says of each sample, (B,) if it is as it should be."""
        try:
            confidences = torch.vmap(self.confidence_function)(logits)
        except (RuntimeError, IndexError, ValueError):
            confidences = _without_vmap(self.confidence_function, logits)
        return confidences.amax(-1) if confidences.shape == logits.shape else confidences


def checked_scores(score: Score, logits: Tensor) -> Tensor:
    """Scores logits (B, classes), and returns (B,) in [0, 1].

    Raises:
        ValueError: The scores have another shape, are NaN, or lie outside [0, 1].
    """
    scores = score(logits)
    if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"confidence function: got {got} for logits of shape {tuple(logits.shape)}; wanted one value a sample, ({len(logits)},)"
        )
    if len(scores) == 0:
        return scores
    low, high = (float(value) for value in scores.detach().aminmax())
    if low != low or high != high:
        raise ValueError(
            f"confidence function: got NaN for {int(scores.isnan().sum())} of {len(scores)} samples; wanted values in [0, 1]"
        )
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"confidence function: got values from {low:.4g} to {high:.4g}; wanted [0, 1], up = safer to exit (put a softmax or sigmoid around it?)"
        )
    return scores


def checked_threshold(threshold: float, where: str) -> float:
    """Returns a threshold as float.

    Raises:
        ValueError: It is neither a number in [0, 1] nor NEVER_EXIT.
    """
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value <= 1 and value != NEVER_EXIT:
        raise ValueError(
            f"{where}: got {threshold!r}; wanted a number in [0, 1] (0: answer all; a sample is answered where its confidence >= threshold)"
        )
    return value


def _without_vmap(confidence_function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Calls a function that can't be vectorised sample by sample, or with the batch it wants."""
    try:
        return torch.stack([torch.as_tensor(confidence_function(row)) for row in logits])
    except (RuntimeError, IndexError, ValueError) as error:
        try:
            return confidence_function(logits)
        except Exception as batch_error:  # a user's function may raise anything
            raise ValueError(
                f"confidence function: it failed on the logits of one sample, of shape ({logits.shape[1]},): {error}; "
                f"and on a batch of them, of shape {tuple(logits.shape)}: {batch_error}"
            ) from batch_error
