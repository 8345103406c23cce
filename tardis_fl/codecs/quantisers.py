"""Features as the values that travel, each sample by itself; compression, which loses nothing, plays no part here.

What comes back errs, value by value, by at most

- float32: nothing;
- float16: 2^-11 of the value, or 2^-25 where that is more;
- uint8 and 2bit to 7bit: half the sample's own `scale`, which is its range over 2^bits - 1, plus
  2^-21 of the sample's largest absolute value for the roundings of float32 on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tardis_fl.codecs.names import parse_codec
from tardis_fl.errors import RunError

FLOAT16_MAX = 65504.0

Transfer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EncodedFeatures:
    """Features of N samples as values; a code of fewer than 8 bits takes a byte here, and less only on the wire.

    Attributes:
        values: (N, ...) uint8, float16 or float32.
        low: (N,) float32, each sample's smallest value (where values are codes, else empty).
        scale: (N,) float32, each sample's step (where values are codes, else empty).
    """

    values: Tensor
    low: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> EncodedFeatures:
        """Returns some samples, without copying them."""
        return EncodedFeatures(*(part[rows] if len(part) else part for part in self._parts))

    @property
    def num_bytes(self) -> int:
        """Bytes of everything."""
        return sum(part.nbytes for part in self._parts)

    def empty(self, count: int) -> EncodedFeatures:
        """Returns room for so many samples of this kind."""
        return EncodedFeatures(
            *(part.new_empty(count, *part.shape[1:]) if len(part) else part for part in self._parts)
        )

    def put(self, first: int, others: EncodedFeatures) -> None:
        """Copies samples into place."""
        for mine, theirs in zip(self._parts, others._parts, strict=True):
            if len(mine):
                mine[first : first + len(others)] = theirs

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.low, self.scale


def encode(features: Tensor, codec: str) -> EncodedFeatures:
    """Encodes features (N, ...), each sample by itself.

    Codes of b bits map a sample's range linearly to 0..2^b - 1, so that its error is at most half
    its own step whatever else is in the batch.

    Raises:
        RunError: If a value isn't finite, is too large for float16, or lies too far from another of
            its sample for a scale in float32.
        ValueError: If no codec is called so.
    """
    form = parse_codec(codec)
    features = features.detach().float()
    if not torch.isfinite(features).all():
        raise RunError(f"features can't be sent as {codec}: they hold values that are not finite")
    empty = torch.empty(0)
    if form.quantiser == "float32":
        return EncodedFeatures(features, empty, empty)
    if form.quantiser == "float16":
        if len(features) and features.abs().max() > FLOAT16_MAX:
            raise RunError(
                f"features can't be sent as {codec}: got {features.abs().max():.3g}, the largest it holds is {FLOAT16_MAX:g}"
            )
        return EncodedFeatures(features.half(), empty, empty)
    levels = 2**form.bits - 1
    flat = features.flatten(1)
    low, high = flat.aminmax(dim=1) if len(flat) else (empty, empty)
    scale = (
        ((high.double() - low.double()) / levels).float().clamp_min(torch.finfo(torch.float32).tiny)
    )
    too_wide = ~torch.isfinite(scale * levels + low) | ~torch.isfinite(high - low)
    if too_wide.any():
        first = int(too_wide.nonzero()[0])
        raise RunError(
            f"features can't be sent as {codec}: a sample's values go from {low[first]:.3g} to {high[first]:.3g}, wider than float32 can measure"
        )
    values = (
        ((features - _per_sample(low, features)) / _per_sample(scale, features))
        .round_()
        .clamp_(0, levels)
    )
    return EncodedFeatures(values.to(torch.uint8), low, scale)


def decode(encoded: EncodedFeatures, rows: Tensor | slice = slice(None)) -> Tensor:
    """Decodes the chosen rows to float32, in channels-last memory order where they are maps."""
    values = encoded.values[rows].float()
    if values.dim() == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    if encoded.values.dtype == torch.uint8:
        values = values.mul_(_per_sample(encoded.scale[rows], values)).add_(
            _per_sample(encoded.low[rows], values)
        )
    return values


def concatenate(parts: list[EncodedFeatures]) -> EncodedFeatures:
    """Joins the samples of several senders."""
    return EncodedFeatures(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("values", "low", "scale"))
    )


def transfer(codec: str) -> Transfer:
    """Returns the function that features go through on their way from one tier to the next.

    Raises:
        ValueError: If no codec is called so.
    """
    parse_codec(codec)
    return lambda features: decode(encode(features, codec))


def _per_sample(column: Tensor, like: Tensor) -> Tensor:
    return column.view(-1, *[1] * (like.dim() - 1))
