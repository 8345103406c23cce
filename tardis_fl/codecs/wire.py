"""What really travels from one tier to the next for one sample.

A message is a header and a payload, and nothing else:

- header: the sample's `low` and `scale`, two float32, where the codec has a scale; else nothing;
- payload: the values in the order of the shape, as float32, float16, bytes or packed codes;
  compressed, where the codec says so, as one zlib stream or Zstandard frame that ends with the
  message.

All is little-endian. Codec and shape of the features are fixed with the deployment and known to
both tiers, so no message repeats them.
A request travels alone, so each sample is compressed by itself, and always: where its payload
doesn't shrink, it grows by the compressor's own dozen bytes instead of costing every message a
flag.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from torch import Tensor

from tardis_fl.codecs.names import Codec, parse_codec
from tardis_fl.codecs.packing import pack, packed_bytes, unpack
from tardis_fl.codecs.quantisers import EncodedFeatures, decode, encode
from tardis_fl.errors import RunError

# Chosen on features of a trained ResNet over CIFAR-10: zlib 9 is under 1 % smaller than 6 and takes
# up to five times as long; zstd 1 is within
# 3 % of levels 3 to 9 at a fraction of the time, and level 13 would save up to 8 % for three to
# twenty times the time.
ZLIB_LEVEL = 6
ZSTD_LEVEL = 1
HEADER_BYTES = 8

_FLOAT_TYPES = {"float32": "<f4", "float16": "<f2"}


def sample_bytes(shape: Sequence[int], codec: str) -> int | None:
    """Returns the bytes that one sample's features of `shape` take on the wire, header included.

    Returns:
        None where the codec compresses: the size then depends on the content, and `message_bytes`
            measures it.

    Raises:
        ValueError: If no codec is called so.
    """
    form = parse_codec(codec)
    return (
        None if form.compressor else _header_bytes(form) + packed_bytes(math.prod(shape), form.bits)
    )


def message_bytes(features: Tensor, codec: str) -> npt.NDArray[np.int64]:
    """Returns how many bytes each sample of features (N, ...) takes on the wire: (N,)."""
    return encoded_bytes(encode(features, codec), codec)


def encoded_bytes(encoded: EncodedFeatures, codec: str) -> npt.NDArray[np.int64]:
    """Returns `message_bytes` of features that are already quantised, with this codec or one that differs in its compressor."""
    size = sample_bytes(encoded.values.shape[1:], codec)
    if size is not None:
        return np.full(len(encoded), size, np.int64)
    return np.fromiter(map(len, _messages(encoded, parse_codec(codec))), np.int64, len(encoded))


def pack_samples(features: Tensor, codec: str) -> list[bytes]:
    """Makes the message of each sample of features (N, ...).

    Raises:
        RunError: If the codec can't carry a value; see `encode`.
        ValueError: If no codec is called so.
    """
    return _messages(encode(features, codec), parse_codec(codec))


def unpack_samples(messages: Sequence[bytes], shape: Sequence[int], codec: str) -> Tensor:
    """Reads the messages of N samples.

    Args:
        messages: From `pack_samples`.
        shape: (...) of one sample's features.
        codec: That they were packed with.

    Returns:
        (N, ...) float32, bit for bit what `decode(encode(features, codec))` gives.

    Raises:
        RunError: If a message is cut off, damaged, or of another codec or shape, as far as that can
            be seen.
        ValueError: If no codec is called so.
    """
    form = parse_codec(codec)
    num_values, header = math.prod(shape), _header_bytes(form)
    wanted = packed_bytes(num_values, form.bits)
    expand = _EXPANDERS[form.compressor]
    payloads = np.empty((len(messages), wanted), np.uint8)
    headers = np.empty((len(messages), header), np.uint8)
    for number, message in enumerate(messages):
        payload = expand(message[header:], wanted) if len(message) >= header else None
        if payload is None or len(payload) != wanted:
            size = (
                f"{header + wanted:,} bytes"
                if form.compressor is None
                else f"{header} bytes of header and a whole {form.compressor} stream of {wanted:,}"
            )
            raise RunError(
                f"message {number}: got {len(message):,} bytes that can't be read; wanted {size} for features of shape {tuple(shape)} as {codec}"
            )
        headers[number] = np.frombuffer(message, np.uint8, header)
        payloads[number] = np.frombuffer(payload, np.uint8)
    decoded = decode(_from_bytes(headers, payloads, (len(messages), *shape), form))
    finite = torch.isfinite(decoded.flatten(1)).all(dim=1)
    if not finite.all():
        raise RunError(
            f"message {int((~finite).nonzero()[0])}: got values that are not finite; wanted features as {codec}, which never hold such"
        )
    return decoded


def _header_bytes(form: Codec) -> int:
    return HEADER_BYTES if form.has_scale else 0


def _messages(encoded: EncodedFeatures, form: Codec) -> list[bytes]:
    headers, payloads = _to_bytes(encoded, form)
    compress = _COMPRESSORS[form.compressor]()
    return [
        header.tobytes() + compress(payload.tobytes())
        for header, payload in zip(headers, payloads, strict=True)
    ]


def _to_bytes(
    encoded: EncodedFeatures, form: Codec
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns headers (N, 0 or 8) and payloads (N, bytes) before compression."""
    values = encoded.values.cpu().flatten(1).numpy()
    if form.has_scale:
        headers = (
            torch.stack([encoded.low, encoded.scale], dim=1)
            .cpu()
            .numpy()
            .astype("<f4")
            .view(np.uint8)
        )
        return headers, pack(values, form.bits)
    values = np.ascontiguousarray(values, _FLOAT_TYPES[form.quantiser])
    return np.empty((len(values), 0), np.uint8), values.view(np.uint8)


def _from_bytes(
    headers: npt.NDArray[np.uint8],
    payloads: npt.NDArray[np.uint8],
    shape: tuple[int, ...],
    form: Codec,
) -> EncodedFeatures:
    """Undoes `_to_bytes`."""
    if form.has_scale:
        columns = torch.from_numpy(headers.view("<f4").astype(np.float32))
        codes = unpack(payloads, form.bits, math.prod(shape[1:]))
        return EncodedFeatures(
            torch.from_numpy(np.ascontiguousarray(codes)).reshape(shape),
            columns[:, 0],
            columns[:, 1],
        )
    values = payloads.view(_FLOAT_TYPES[form.quantiser])
    return EncodedFeatures(
        torch.from_numpy(values.astype(values.dtype.newbyteorder("="))).reshape(shape),
        torch.empty(0),
        torch.empty(0),
    )


def _as_it_is(payload: bytes, wanted: int) -> bytes:
    return payload


def _expand_zlib(payload: bytes, wanted: int) -> bytes | None:
    """Returns what was compressed, None where it isn't a whole stream of the wanted size; never expands further than that."""
    stream = zlib.decompressobj()
    try:
        expanded = stream.decompress(payload, wanted + 1)
    except zlib.error:
        return None
    return expanded if stream.eof and not stream.unused_data else None


def _expand_zstd(payload: bytes, wanted: int) -> bytes | None:
    """Does for Zstandard what `_expand_zlib` does; a frame states its size before it takes any memory."""
    try:
        if zstandard.get_frame_parameters(payload).content_size != wanted:
            return None
        return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError:
        return None


_COMPRESSORS: dict[str | None, Callable[[], Callable[[bytes], bytes]]] = {
    None: lambda: lambda payload: payload,
    "zlib": lambda: lambda payload: zlib.compress(payload, ZLIB_LEVEL),
    "zstd": lambda: zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress,
}
_EXPANDERS: dict[str | None, Callable[[bytes, int], bytes | None]] = {
    None: _as_it_is,
    "zlib": _expand_zlib,
    "zstd": _expand_zstd,
}
