"""Losses over exits: targets for any criterion, weights, and distillation between exits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (B, classes) and targets to a scalar."""

WANTS_ONE_HOT = (
    nn.BCEWithLogitsLoss,
    nn.BCELoss,
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.MultiLabelSoftMarginLoss,
)
WANTS_INDICES = (nn.NLLLoss, nn.MultiMarginLoss)


@dataclass(frozen=True)
class Distillation:
    """Exits that learn from other exits beside the labels.

    The loss of a student exit is T^2 KL(teacher || student) at temperature T, averaged over the
    batch, without a gradient to the teacher (Hinton et al. 2015; between exits: Phuong and Lampert
    2019; mutual, over all pairs and
    divided by the number of other exits: DepthFL, Kim et al. 2023).

    Attributes:
        teacher: last: the last exit teaches all others; mutual: every exit teaches every other.
        weight: Of the distillation beside the criterion, at full strength.
        temperature: Softens both sides; 1 leaves them as they are.
        ramp: Share of the planned training over which the weight rises as exp(-5 (1 - t)^2) (Laine
            and Aila 2017); 0: at once.
    """

    teacher: Literal["last", "mutual"] = "last"
    weight: float = 1.0
    temperature: float = 1.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if self.teacher not in ("last", "mutual"):
            raise ValueError(f"teacher: got {self.teacher!r}; wanted 'last' or 'mutual'")
        for name, value, good in (
            ("weight", self.weight, self.weight >= 0 and math.isfinite(self.weight)),
            (
                "temperature",
                self.temperature,
                self.temperature > 0 and math.isfinite(self.temperature),
            ),
            ("ramp", self.ramp, 0 <= self.ramp <= 1),
        ):
            if not good:
                wanted = {
                    "weight": "0 or more",
                    "temperature": "more than 0",
                    "ramp": "a share in [0, 1]",
                }[name]
                raise ValueError(f"{name}: got {value}; wanted {wanted}")

    def weight_at(self, progress: float) -> float:
        """Returns the weight when a share `progress` in [0, 1] of the planned training is done."""
        if progress >= self.ramp:
            return self.weight
        return self.weight * math.exp(-5 * (1 - progress / self.ramp) ** 2)

    def loss(self, logits: Sequence[Tensor]) -> Tensor:
        """Returns the unweighted loss over the logits (B, classes) of all exits, from shallow to deep."""
        num_exits = len(logits)
        if num_exits < 2:
            return logits[0].new_zeros(())
        if self.teacher == "last":
            pairs, share = [(num_exits - 1, student) for student in range(num_exits - 1)], 1.0
        else:
            pairs = [
                (teacher, student)
                for student in range(num_exits)
                for teacher in range(num_exits)
                if teacher != student
            ]
            share = 1 / (num_exits - 1)
        softened = [torch.log_softmax(rows.float() / self.temperature, -1) for rows in logits]
        total = sum(
            F.kl_div(
                softened[student],
                softened[teacher].detach(),
                reduction="batchmean",
                log_target=True,
            )
            for teacher, student in pairs
        )
        return share * self.temperature**2 * total


def targets_for(
    criterion: Criterion, labels: Tensor, num_classes: int, label_smoothing: float = 0.0
) -> Tensor:
    """Turns integer labels into what a criterion wants.

    The criteria of `WANTS_ONE_HOT`, which compare element by element, get one-hot rows (B, classes)
    float32; so does any criterion where labels are smoothed. Others, functions among them, get the
    labels (B,) int64 as they are. Labels that already are rows (B, classes) of floats are smoothed
    and otherwise left alone.
    """
    if labels.is_floating_point():
        return labels * (1 - label_smoothing) + label_smoothing / num_classes
    labels = labels.long()
    if not label_smoothing and not isinstance(criterion, WANTS_ONE_HOT):
        return labels
    if label_smoothing and isinstance(criterion, WANTS_INDICES):
        raise ValueError(
            f"label_smoothing: {type(criterion).__name__} takes class numbers only; use CrossEntropyLoss, or set it to 0"
        )
    return (
        F.one_hot(labels, num_classes).float() * (1 - label_smoothing)
        + label_smoothing / num_classes
    )


def check_exit_weights(weights: Sequence[float], num_exits: int) -> None:
    """Refuses weights that don't fit the exits.

    Raises:
        ValueError: The number is wrong, one is negative or not finite, or all are 0.
    """
    if len(weights) != num_exits:
        raise ValueError(
            f"exit_weights: got {len(weights)} for {num_exits} exits; wanted one an exit, from shallow to deep"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(
            f"exit_weights: got {list(weights)}; wanted numbers of 0 or more, not all 0"
        )
