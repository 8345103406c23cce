"""Losses by name; their names are known without importing PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tardis_fl.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

LOSSES: Registry[Callable[..., Tensor]] = Registry(
    "loss",
    key="model.loss",
    wants="a function of (logits, labels) that returns one number, the mean over the batch",
    supplied=2,
    options_key="model.loss_options",
)
"""Each maps logits (B, classes) and labels (B,) int64 to a scalar, and may take options."""

LOSSES.register("cross_entropy", "tardis_fl.early_exit.training.losses:cross_entropy")
