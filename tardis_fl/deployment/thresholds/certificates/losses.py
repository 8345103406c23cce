"""What answering at an early exit can cost against the last exit, sample by sample, and its sums over thresholds.

Every loss lies in [0, 1] and is 0 at the last exit, so never exiting has no risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from tardis_fl.early_exit.evaluation import ExitTable

Loss = Literal["accuracy_gap", "consistency", "brier"]
LOSSES = ("accuracy_gap", "consistency", "brier")
Floats = npt.NDArray[np.float64]


def exit_losses(
    table: ExitTable, loss: Loss, temperatures: Sequence[float] | None = None
) -> Floats:
    """Returns the loss of answering each sample at each exit (exits, N).

    - accuracy_gap: 1 where the exit is wrong and the last exit right, else 0.
    - consistency: 1 where the exit says another class than the last exit; labels aren't looked at.
    - brier: max(0, b_exit - b_last) / 2, with the Brier score b = sum over classes of (p -
      1[label])^2, which lies in [0, 2].

    Args:
        table: Any role.
        loss: Which.
        temperatures: One an exit, for the probabilities of brier; None: 1.

    Raises:
        ValueError: The loss is unknown, or it needs labels and some are missing (negative).
    """
    if loss not in LOSSES:
        raise ValueError(f"loss: got {loss!r}; wanted one of {', '.join(LOSSES)}")
    if loss == "consistency":
        answers = table.logits.argmax(axis=2)
        return (answers != answers[-1]).astype(np.float64)
    unlabelled = int((table.labels < 0).sum())
    if unlabelled:
        raise ValueError(
            f"loss {loss}: {unlabelled} of {len(table)} samples have no label; wanted all labelled, or the loss consistency"
        )
    if loss == "accuracy_gap":
        correct = table.correct()
        return (~correct & correct[-1]).astype(np.float64)
    scales = (
        np.ones(table.num_exits)
        if temperatures is None
        else np.asarray(temperatures, dtype=np.float64)
    )
    if scales.shape != (table.num_exits,):
        raise ValueError(
            f"temperatures: got {len(scales)}; wanted one for each of {table.num_exits} exits"
        )
    apart = softmax(table.logits / scales[:, None, None], axis=2)
    apart[:, np.arange(len(table)), table.labels] -= 1
    scores = (apart**2).sum(axis=2)
    return np.clip(scores - scores[-1], 0, None) / 2


def loss_sums(scores: Floats, losses: Floats, grid: Floats) -> Floats:
    """Returns the sum of losses over all samples at each shared threshold (M,), by sorted cumulative sums, O(N log N + M log N).

    With m_k the largest score up to exit k, exit k answers where m_{k-1} < threshold <= m_k; so the
    sum is that of losses[k] - losses[k + 1] over all m_k >= threshold, over all early exits k, the
    last exit's loss being 0.

    Args:
        scores: Of the early exits (exits - 1, N).
        losses: (exits, N), the last row 0.
        grid: Thresholds (M,).
    """
    total = np.zeros(len(grid))
    for reached, step in zip(
        np.maximum.accumulate(scores, axis=0), losses[:-1] - losses[1:], strict=True
    ):
        order = np.argsort(reached)
        below = np.concatenate([[0.0], np.cumsum(step[order])])
        total += below[-1] - below[np.searchsorted(reached[order], grid, side="left")]
    return np.maximum(total, 0)


def worst_from_here(scores: Floats, losses: Floats) -> Floats:
    """Makes losses monotone in the threshold: each sample's largest loss over this and all higher thresholds (exits, N).

    This is the running maximum which conformal risk control asks for. Only exits that some
    threshold uses count: exit k where its score is above those of all exits before.
    """
    reached = np.maximum.accumulate(scores, axis=0)
    worst = losses.copy()
    for exit in range(len(scores) - 1, -1, -1):
        used = reached[exit] > reached[exit - 1] if exit else np.ones(losses.shape[1], dtype=bool)
        worst[exit] = np.where(used, np.maximum(worst[exit + 1], losses[exit]), worst[exit + 1])
    return worst
