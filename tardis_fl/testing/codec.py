"""Is it a codec?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tardis_fl.codecs.checking import CheckedCodec, try_codec
from tardis_fl.codecs.codec import Codec, EncodedFeatures
from tardis_fl.codecs.names import CODECS
from tardis_fl.testing.refusals import failures, name_of, prepared, refuse

SHAPES = ((8, 6, 6), (32,), (12, 5))
NUM_SAMPLES = 6


def check_codec(
    codec: str | Callable[[], Codec],
    *,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    tolerance: float | None = None,
) -> None:
    """Checks a codec on features of some shapes, among them constant ones and very large ones.

    Args:
        codec: A class derived from `Codec`, or its name in a configuration.
        shapes: Of one sample's features; those of maps, vectors and sequences.
        tolerance: Largest error of a value as a share of its sample's range; None: any.

    Raises:
        PluginError: It fails; what it returns has other shapes or types, isn't finite, or is
            another alone than in a batch; its bytes aren't whole numbers above 0, or aren't as
            `fixed_size` says; samples don't survive a message, or arrive too far off.
    """
    name = name_of(codec)
    make = prepared(CODECS, codec, None)
    with failures(name, "when it is made"):
        made = make()
    if not isinstance(made, Codec):
        refuse(name, f"a {type(made).__name__}", CODECS.wants)
    checked = CheckedCodec(name, made)
    for shape in shapes:
        for features in _features(shape):
            with failures(name, f"for features of the shape {tuple(features.shape)}"):
                try_codec(checked, features)
                _check_message(name, checked, features)
                _check_bytes(name, checked, features)
                _check_error(name, checked, features, tolerance)


def _features(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yields features (N, ...): as after a ReLU, of both signs, constant, and of any size."""
    generator = torch.Generator().manual_seed(0)
    both_signs = torch.randn(NUM_SAMPLES, *shape, generator=generator)
    yield both_signs.relu()
    yield both_signs
    yield torch.zeros(NUM_SAMPLES, *shape)
    sizes = 10.0 ** torch.arange(-3, NUM_SAMPLES - 3)
    yield both_signs * sizes.view(-1, *[1] * len(shape))


def _check_message(name: str, codec: Codec, features: Tensor) -> None:
    """Sends features in two pieces, as clients do, and compares what arrives."""
    encoded = codec.encode(features)
    arrived = codec.decode(encoded)
    pieces = [encoded[: NUM_SAMPLES // 2], encoded[NUM_SAMPLES // 2 :]]
    read = [EncodedFeatures.from_tensors(piece.to_tensors()) for piece in pieces]
    joined = EncodedFeatures.concatenate(read)
    # the server decodes with a codec that has met other features, or none
    codec.encode(features.flip(0))
    if not torch.equal(codec.decode(joined), arrived):
        got = "other features after they travelled in two pieces"
        refuse(name, got, "the same as in one")


def _check_bytes(name: str, codec: Codec, features: Tensor) -> None:
    encoded = codec.encode(features)
    most = int(codec.num_bytes(encoded).sum())
    if most <= 0:
        refuse(name, f"{most} bytes for {len(features)} samples", "at least one for each")


def _check_error(name: str, codec: Codec, features: Tensor, tolerance: float | None) -> None:
    if tolerance is None:
        return
    flat = features.flatten(1)
    arrived = codec.decode(codec.encode(features)).flatten(1)
    ranges = flat.amax(1) - flat.amin(1)
    errors = (arrived - flat).abs().amax(1)
    share = errors / ranges.clamp(min=torch.finfo(torch.float32).tiny)
    # a constant sample has no range: its error counts by itself
    worst = float(torch.where(ranges > 0, share, errors).max())
    if worst > tolerance:
        refuse(name, f"an error of {worst:.3g} of a sample's range", f"at most {tolerance:g}")
