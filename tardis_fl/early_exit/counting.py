"""Parameters, multiply-accumulates and bytes of segments and boundaries, for any network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tardis_fl.codecs.codec import sample_bytes
from tardis_fl.codecs.names import TRAINING_CODECS
from tardis_fl.early_exit.conversion.tracing import countable_attention, evaluation_mode
from tardis_fl.early_exit.network import EarlyExitNetwork


@dataclass(frozen=True)
class SegmentCost:
    """What one segment costs a sample.

    Attributes:
        num_parameters: Of body and exit.
        num_exit_parameters: Of the exit alone.
        macs: Multiply-accumulates of body and exit; FLOPs are twice as many.
        exit_macs: Of the exit alone.
        feature_shape: (...) of what it hands on, for one sample.
    """

    num_parameters: int
    num_exit_parameters: int
    macs: int
    exit_macs: int
    feature_shape: tuple[int, ...]

    @property
    def exit_outweighs_body(self) -> bool:
        """Whether the exit has more parameters than the segment it sits on."""
        return 2 * self.num_exit_parameters > self.num_parameters

    @property
    def num_values(self) -> int:
        """Values it hands on for one sample."""
        return math.prod(self.feature_shape)

    def bytes_per_codec(self) -> dict[str, int]:
        """Returns the bytes that one sample's features take with each of training's codecs."""
        sizes = {codec: sample_bytes(self.feature_shape, codec) for codec in TRAINING_CODECS}
        return {codec: size for codec, size in sizes.items() if size is not None}


def num_parameters(module: nn.Module) -> int:
    """Counts parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def segment_costs(
    network: EarlyExitNetwork, input_shape: Sequence[int], dtype: torch.dtype | None = None
) -> list[SegmentCost]:
    """Counts every segment with PyTorch's own FLOP counter on one sample.

    Args:
        network: Its mode is left as it was.
        input_shape: (...) of one sample, such as (C, H, W).
        dtype: Of the input, such as int64 for a network of tokens; None: that of the network's
            parameters.
    """
    reference = next(
        (parameter for parameter in network.parameters() if parameter.is_floating_point()),
        torch.empty(0),
    )
    device, dtype = reference.device, dtype or reference.dtype
    costs = []
    x = torch.zeros(1, *input_shape, dtype=dtype, device=device)
    with evaluation_mode(network), torch.no_grad(), countable_attention():
        for segment in network:
            with FlopCounterMode(display=False) as counter:
                x = segment.body(x)
                body_flops = counter.get_total_flops()
                segment.exit(x)
            flops = counter.get_total_flops()
            costs.append(
                SegmentCost(
                    num_parameters(segment),
                    num_parameters(segment.exit),
                    flops // 2,
                    (flops - body_flops) // 2,
                    tuple(x.shape[1:]),
                )
            )
    return costs


def oversized(
    costs: Sequence[SegmentCost], names: Sequence[str], image_bytes: int
) -> Iterator[str]:
    """Yields a warning for every exit larger than its segment and every boundary larger than the raw image at a byte a value."""
    for number, (cost, name) in enumerate(zip(costs, names, strict=True)):
        body = cost.num_parameters - cost.num_exit_parameters
        if cost.exit_outweighs_body:
            yield f"exit {number} ({name}) has {cost.num_exit_parameters:,} parameters, more than the {body:,} of the segment it sits on"
        if number < len(costs) - 1 and cost.num_values > image_bytes:
            shape = "x".join(map(str, cost.feature_shape))
            yield f"features leaving {name} ({shape}) are {cost.num_values:,} bytes as uint8, more than the raw image's {image_bytes:,}"
