"""Features as the values that travel, each sample by itself, and back.

Compression, which loses nothing, plays no part here. What comes back errs, value by value, by at
most

- float32: nothing;
- float16: 2^-11 of the value, or 2^-25 where that is more;
- uint8 and 2bit to 7bit: half the sample's own `scale`, which is its range over 2^bits - 1, plus
  2^-21 of the sample's largest absolute value for the roundings of float32 on the way.

The tensors of the encoded features are

- values: (N, ...) uint8, float16 or float32; a code of fewer than 8 bits takes a byte here, and
  less only on the wire;
- low: (N,) float32, each sample's smallest value (without rows where values are no codes);
- scale: (N,) float32, each sample's step (without rows where values are no codes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tardis_fl.codecs.codec import EncodedFeatures
from tardis_fl.codecs.names import CodecForm
from tardis_fl.errors import RunError

FLOAT16_MAX = 65504.0


def quantise(features: Tensor, form: CodecForm) -> EncodedFeatures:
    """Encodes features (N, ...), each sample by itself.

    Codes of b bits map a sample's range linearly to 0..2^b - 1, so that its error is at most half
    its own step whatever else is in the batch.

    Raises:
        RunError: If a value isn't finite, is too large for float16, or lies too far from another of
            its sample for a scale in float32.
    """
    features = features.detach().float()
    if not torch.isfinite(features).all():
        raise RunError(f"features can't be sent as {form}: they hold values that are not finite")
    if form.quantiser == "float32":
        return _encoded(features)
    if form.quantiser == "float16":
        if len(features) and features.abs().max() > FLOAT16_MAX:
            raise RunError(
                f"features can't be sent as {form}: got {features.abs().max():.3g}, "
                f"the largest it holds is {FLOAT16_MAX:g}"
            )
        return _encoded(features.half())
    levels = 2**form.bits - 1
    low, high = _ranges(features)
    step = ((high.double() - low.double()) / levels).float()
    scale = step.clamp_min(torch.finfo(torch.float32).tiny)
    too_wide = ~torch.isfinite(scale * levels + low) | ~torch.isfinite(high - low)
    if too_wide.any():
        first = int(too_wide.nonzero()[0])
        raise RunError(
            f"features can't be sent as {form}: a sample's values go from {low[first]:.3g} "
            f"to {high[first]:.3g}, wider than float32 can measure"
        )
    steps = (features - _per_sample(low, features)) / _per_sample(scale, features)
    return _encoded(steps.round_().clamp_(0, levels).to(torch.uint8), low, scale)


def dequantise(encoded: EncodedFeatures) -> Tensor:
    """Returns features as float32, in channels-last memory order where they are maps."""
    codes = encoded.tensors["values"]
    values = codes.float()
    if values.dim() == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    if codes.dtype == torch.uint8:
        scale = _per_sample(encoded.tensors["scale"], values)
        low = _per_sample(encoded.tensors["low"], values)
        # `values` is a copy, since its type differs from that of the codes
        values = values.mul_(scale).add_(low)
    return values


def _encoded(
    values: Tensor, low: Tensor | None = None, scale: Tensor | None = None
) -> EncodedFeatures:
    empty = torch.empty(0)
    tensors = {
        "values": values,
        "low": empty if low is None else low,
        "scale": empty if scale is None else scale,
    }
    return EncodedFeatures(tensors, tuple(values.shape[1:]))


def _ranges(features: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value of each sample, (N,) each."""
    if not len(features):
        empty = torch.empty(0)
        return empty, empty
    low, high = features.flatten(1).aminmax(dim=1)
    return low, high


def _per_sample(column: Tensor, like: Tensor) -> Tensor:
    return column.view(-1, *[1] * (like.dim() - 1))
