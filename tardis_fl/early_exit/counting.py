"""Parameters, multiply-accumulates and bytes of segments and boundaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tardis_fl.early_exit.network import EarlyExitNetwork


@dataclass(frozen=True)
class SegmentCost:
    """What one segment costs a sample.

    Attributes:
        num_parameters: Of body and exit.
        num_exit_parameters: Of the exit alone.
        macs: Multiply-accumulates of body and exit; FLOPs are twice as many.
        feature_shape: (C, H, W) of what it hands on.
    """

    num_parameters: int
    num_exit_parameters: int
    macs: int
    feature_shape: tuple[int, ...]

    @property
    def exit_outweighs_body(self) -> bool:
        """Whether the exit has more parameters than the segment it sits on."""
        return 2 * self.num_exit_parameters > self.num_parameters


def num_parameters(module: nn.Module) -> int:
    """Counts trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def segment_costs(network: EarlyExitNetwork, image_shape: tuple[int, int, int]) -> list[SegmentCost]:
    """Counts every segment with PyTorch's own FLOP counter on one image of `image_shape` (C, H, W)."""
    was_training = network.training
    network.eval()
    costs = []
    x = torch.zeros(1, *image_shape)
    with torch.no_grad():
        for segment in network:
            with FlopCounterMode(display=False) as counter:
                x, _ = segment(x)
            costs.append(SegmentCost(num_parameters(segment), num_parameters(segment.exit), counter.get_total_flops() // 2, tuple(x.shape[1:])))
    network.train(was_training)
    return costs


def oversized(costs: list[SegmentCost], names: list[str], image_bytes: int) -> Iterator[str]:
    """Yields a warning for every exit larger than its segment and every boundary larger than the raw image at a byte a value."""
    for number, (cost, name) in enumerate(zip(costs, names, strict=True)):
        body = cost.num_parameters - cost.num_exit_parameters
        if cost.exit_outweighs_body:
            yield f"exit {number} ({name}) has {cost.num_exit_parameters:,} parameters, more than the {body:,} of the segment it sits on"
        values = 1
        for side in cost.feature_shape:
            values *= side
        if number < len(costs) - 1 and values > image_bytes:
            shape = "x".join(map(str, cost.feature_shape))
            yield f"features leaving {name} ({shape}) are {values:,} bytes as uint8, more than the raw image's {image_bytes:,}"
