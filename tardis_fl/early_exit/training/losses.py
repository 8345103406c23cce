"""Losses over exits: targets for any criterion, weights, and distillation between exits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tardis_fl.core.importing import failure_of
from tardis_fl.core.problem import Problem
from tardis_fl.early_exit.training.registry import LOSSES
from tardis_fl.errors import ConfigError

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (B, classes) and targets to a scalar."""

PROBE_BATCH = 4

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
    2019; mutual, over all pairs and divided by the number of other exits: DepthFL, Kim et al.
    2023).

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


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy of logits (B, classes) for labels (B,)."""
    return F.cross_entropy(logits, labels)


def build_loss(
    name: str, options: Mapping[str, Any] | None = None, *, num_classes: int
) -> Criterion:
    """Returns the loss that a configuration names, with its options.

    A user's loss is tried on a few random logits first, so that what it returns wrongly is one
    message before anything trains.

    Args:
        name: A name of `LOSSES`, or MODULE:FUNCTION.
        options: Its options.
        num_classes: Logits of every exit.

    Raises:
        ConfigError: There is no such loss, an option doesn't fit, or it fails or returns something
            else than one finite number that depends on the logits.
    """
    loss = LOSSES.bound(name, options)
    if loss is not cross_entropy:
        _try_loss(name, loss, num_classes)
    return loss


def _try_loss(name: str, loss: Criterion, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(PROBE_BATCH, num_classes, generator=generator).requires_grad_()
    labels = torch.arange(PROBE_BATCH) % num_classes
    where = f"for logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            value = loss(logits, labels)
        except Exception as error:  # a user's function may raise anything
            wanted = f"it fails {where}: {failure_of(error)}"
            raise ConfigError(str(Problem(LOSSES.key, repr(name), wanted))) from error
    returned = _wrong_value(value)
    if returned is not None:
        got = f"{name!r}, which returns {returned} {where}"
        wanted = "wanted one finite number that follows from the logits, the mean over the batch"
        raise ConfigError(str(Problem(LOSSES.key, got, wanted)))


def _wrong_value(value: object) -> str | None:
    """Returns in words what a loss returned, where it isn't one finite number with a gradient."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.dim():
        return f"a tensor of shape {tuple(value.shape)}"
    if not value.is_floating_point():
        return f"a tensor of {value.dtype}"
    if not value.isfinite():
        return str(float(value.detach()))
    if not value.requires_grad:
        return "a number without a gradient"
    return None


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
