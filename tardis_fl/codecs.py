"""How features become bytes: between client and server in training, between tiers in deployment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tardis_fl.errors import RunError

BYTES_PER_VALUE = {"uint8": 1, "float16": 2, "float32": 4}
HEADER_BYTES = {"uint8": 8, "float16": 0, "float32": 0}  # uint8: two float32 a sample, `low` and `scale`
FLOAT16_MAX = 65504.0

Transfer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EncodedFeatures:
    """Features of N samples as they travel.

    Attributes:
        values: (N, ...) uint8, float16 or float32.
        low: (N,) float32, each sample's smallest value (uint8 only, else empty).
        scale: (N,) float32, each sample's step (uint8 only, else empty).
    """

    values: Tensor
    low: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.values)


def encode(features: Tensor, codec: str) -> EncodedFeatures:
    """Encodes features (N, ...), each sample by itself.

    uint8 maps a sample's range linearly to 0..255, so that its error is at most half its own step
    whatever else is in the batch.

    Raises:
        RunError: If a value isn't finite or doesn't fit float16.
    """
    features = features.detach().float()
    if not torch.isfinite(features).all():
        raise RunError(f"features can't be sent as {codec}: they hold values that are not finite")
    empty = torch.empty(0)
    if codec == "float32":
        return EncodedFeatures(features, empty, empty)
    if codec == "float16":
        if len(features) and features.abs().max() > FLOAT16_MAX:
            raise RunError(f"features can't be sent as float16: got {features.abs().max():.3g}, the largest it holds is {FLOAT16_MAX:g}")
        return EncodedFeatures(features.half(), empty, empty)
    flat = features.flatten(1)
    low, high = flat.aminmax(dim=1) if len(flat) else (empty, empty)
    scale = ((high.double() - low.double()) / 255).float().clamp_min(torch.finfo(torch.float32).tiny)
    values = ((features - _per_sample(low, features)) / _per_sample(scale, features)).round_().clamp_(0, 255)
    return EncodedFeatures(values.to(torch.uint8), low, scale)


def decode(encoded: EncodedFeatures, rows: Tensor | slice = slice(None)) -> Tensor:
    """Decodes the chosen rows to float32, in channels-last memory order where they are maps."""
    values = encoded.values[rows].float()
    if values.dim() == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    if encoded.values.dtype == torch.uint8:
        values = values.mul_(_per_sample(encoded.scale[rows], values)).add_(_per_sample(encoded.low[rows], values))
    return values


def concatenate(parts: list[EncodedFeatures]) -> EncodedFeatures:
    """Joins the samples of several senders."""
    return EncodedFeatures(*(torch.cat([getattr(part, name) for part in parts]) for name in ("values", "low", "scale")))


def transfer(codec: str) -> Transfer:
    """Returns the function that features go through on their way from one tier to the next."""
    return lambda features: decode(encode(features, codec))


def sample_bytes(shape: tuple[int, ...], codec: str) -> int:
    """Returns the bytes that one sample's features of `shape` take on the wire."""
    return math.prod(shape) * BYTES_PER_VALUE[codec] + HEADER_BYTES[codec]


def _per_sample(column: Tensor, like: Tensor) -> Tensor:
    return column.view(-1, *[1] * (like.dim() - 1))
