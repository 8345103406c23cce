"""Deployment in segments: each decides for itself which samples it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.network import Segment

Score = Callable[[Tensor], Tensor]


class SegmentedEarlyExitNetwork(nn.Module):
    """One segment with the rule that says which samples it answers.

    Args:
        segment: The segment.
        score: Maps logits (B, classes) to scores (B,), up = safer to answer here.
        threshold: Answer where score >= threshold; None: answer always, as the last segment does.
    """

    def __init__(self, segment: Segment, score: Score, threshold: float | None) -> None:
        super().__init__()
        self.segment = segment
        self.score = score
        self.threshold = threshold

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decides for each sample of a batch by itself.

        Args:
            x: (B, ...).

        Returns:
            Features (B, ...), logits (B, classes), and whether the sample is answered here (B,) bool.
        """
        features, logits = self.segment(x)
        if self.threshold is None:
            return features, logits, torch.ones(len(logits), dtype=torch.bool)
        return features, logits, self.score(logits) >= self.threshold


def escalate(networks: Sequence[SegmentedEarlyExitNetwork], x: Tensor, *, transfer: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Passes a batch from tier to tier; a deeper segment computes only what reaches it.

    Args:
        networks: The segments in order; the last one answers what is left.
        x: Images (B, C, H, W).
        transfer: What features go through between two tiers; None: nothing.

    Returns:
        Logits of the answering exit (B, classes) and its number (B,) int64.
    """
    waiting = torch.arange(len(x))
    exits = torch.empty(len(x), dtype=torch.int64)
    answers: Tensor | None = None
    with torch.no_grad():
        for number, network in enumerate(networks):
            network.eval()
            features, logits, answered = network(x)
            if answers is None:
                answers = logits.new_empty(len(exits), logits.shape[1])
            answers[waiting[answered]] = logits[answered]
            exits[waiting[answered]] = number
            waiting, x = waiting[~answered], features[~answered]
            if len(waiting) == 0:
                break
            if transfer:
                x = transfer(x)
    assert answers is not None and len(waiting) == 0, "the last network must answer every sample"
    return answers, exits
