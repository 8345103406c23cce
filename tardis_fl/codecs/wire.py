"""What really travels from one tier to the next for one sample.

A message is a header and a payload, and nothing else:

- header: the sample's `low` and `scale`, two float32, where the codec has a scale; else nothing;
- payload: the values in the order of the shape, as float32, float16, bytes or packed codes;
  compressed, where the codec says so, as one zlib stream or Zstandard frame that ends with the
  message.

All is little-endian. Codec and shape of the features are fixed with the deployment and known to
both tiers, so no message repeats them. A request travels alone, so each sample is compressed by
itself, and always: where its payload doesn't shrink, it grows by the compressor's own dozen bytes
instead of costing every message a flag.
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

from tardis_fl.codecs.codec import Codec, EncodedFeatures
from tardis_fl.codecs.names import CodecForm
from tardis_fl.codecs.packing import pack, packed_bytes, unpack
from tardis_fl.codecs.quantisers import dequantise, quantise
from tardis_fl.errors import RunError

# Chosen on features of a trained ResNet over CIFAR-10: zlib 9 is under 1 % smaller than 6 and takes
# up to five times as long; zstd 1 is within 3 % of levels 3 to 9 at a fraction of the time, and
# level 13 would save up to 8 % for three to twenty times the time.
ZLIB_LEVEL = 6
ZSTD_LEVEL = 1
HEADER_BYTES = 8

_FLOAT_TYPES = {"float32": "<f4", "float16": "<f2"}


class WireCodec(Codec):
    """One of our codecs.

    Args:
        form: What its name stands for.
    """

    def __init__(self, form: CodecForm) -> None:
        self.form = form
        self.fixed_size = form.compressor is None

    @property
    def name(self) -> str:
        """Such as `4bit+zstd`."""
        return str(self.form)

    def encode(self, features: Tensor) -> EncodedFeatures:
        """Encodes features (N, ...); see `quantise`."""
        return quantise(features, self.form)

    def decode(self, encoded: EncodedFeatures) -> Tensor:
        """Returns features (N, ...) float32; see `dequantise`."""
        return dequantise(encoded)

    def num_bytes(self, encoded: EncodedFeatures) -> npt.NDArray[np.int64]:
        """Returns the length of each sample's message (N,).

        Args:
            encoded: By this codec, or one that differs in its compressor alone.
        """
        size = self.sample_bytes(encoded.shape)
        if size is not None:
            return np.full(len(encoded), size, np.int64)
        return np.fromiter(map(len, self.pack(encoded)), np.int64, len(encoded))

    def sample_bytes(self, shape: Sequence[int]) -> int | None:
        """Returns the bytes of a message for features of `shape`; None where it is compressed."""
        if not self.fixed_size:
            return None
        return self._header_bytes + packed_bytes(math.prod(shape), self.form.bits)

    def pack(self, encoded: EncodedFeatures) -> list[bytes]:
        """Makes the message of each sample."""
        headers, payloads = _to_bytes(encoded, self.form)
        compress = _COMPRESSORS[self.form.compressor]()
        return [
            header.tobytes() + compress(payload.tobytes())
            for header, payload in zip(headers, payloads, strict=True)
        ]

    def unpack(self, messages: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """Reads the messages of N samples.

        Args:
            messages: From `pack`.
            shape: (...) of one sample's features.

        Returns:
            (N, ...) float32, bit for bit what `decode(encode(features))` gives.

        Raises:
            RunError: If a message is cut off, damaged, or of another codec or shape, as far as that
                can be seen.
        """
        header = self._header_bytes
        wanted = packed_bytes(math.prod(shape), self.form.bits)
        expand = _EXPANDERS[self.form.compressor]
        payloads = np.empty((len(messages), wanted), np.uint8)
        headers = np.empty((len(messages), header), np.uint8)
        for number, message in enumerate(messages):
            payload = expand(message[header:], wanted) if len(message) >= header else None
            if payload is None or len(payload) != wanted:
                raise RunError(
                    f"message {number}: got {len(message):,} bytes that can't be read; wanted "
                    f"{self._size_in_words(wanted)} for features of shape {tuple(shape)} "
                    f"as {self.name}"
                )
            headers[number] = np.frombuffer(message, np.uint8, header)
            payloads[number] = np.frombuffer(payload, np.uint8)
        encoded = _from_bytes(headers, payloads, (len(messages), *shape), self.form)
        decoded = dequantise(encoded)
        finite = torch.isfinite(decoded.flatten(1)).all(dim=1)
        if not finite.all():
            raise RunError(
                f"message {int((~finite).nonzero()[0])}: got values that are not finite; "
                f"wanted features as {self.name}, which never hold such"
            )
        return decoded

    @property
    def _header_bytes(self) -> int:
        return HEADER_BYTES if self.form.has_scale else 0

    def _size_in_words(self, payload_bytes: int) -> str:
        header = self._header_bytes
        if self.form.compressor is None:
            return f"{header + payload_bytes:,} bytes"
        stream = f"a whole {self.form.compressor} stream of {payload_bytes:,}"
        return f"{header} bytes of header and {stream}"


def _to_bytes(
    encoded: EncodedFeatures, form: CodecForm
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns headers (N, 0 or 8) and payloads (N, bytes) before compression."""
    values = encoded.tensors["values"].cpu().flatten(1).numpy()
    if form.has_scale:
        columns = torch.stack([encoded.tensors["low"], encoded.tensors["scale"]], dim=1)
        headers = columns.cpu().numpy().astype("<f4").view(np.uint8)
        return headers, pack(values, form.bits)
    values = np.ascontiguousarray(values, _FLOAT_TYPES[form.quantiser])
    return np.empty((len(values), 0), np.uint8), values.view(np.uint8)


def _from_bytes(
    headers: npt.NDArray[np.uint8],
    payloads: npt.NDArray[np.uint8],
    shape: tuple[int, ...],
    form: CodecForm,
) -> EncodedFeatures:
    """Undoes `_to_bytes`."""
    empty = torch.empty(0)
    if form.has_scale:
        columns = torch.from_numpy(headers.view("<f4").astype(np.float32))
        codes = np.ascontiguousarray(unpack(payloads, form.bits, math.prod(shape[1:])))
        tensors = {
            "values": torch.from_numpy(codes).reshape(shape),
            "low": columns[:, 0],
            "scale": columns[:, 1],
        }
    else:
        values = payloads.view(_FLOAT_TYPES[form.quantiser])
        native = values.astype(values.dtype.newbyteorder("="))
        tensors = {"values": torch.from_numpy(native).reshape(shape), "low": empty, "scale": empty}
    return EncodedFeatures(tensors, shape[1:])


def _as_it_is(payload: bytes, wanted: int) -> bytes:
    return payload


def _expand_zlib(payload: bytes, wanted: int) -> bytes | None:
    """Returns what was compressed; None where it isn't a whole stream of the wanted size.

    It never expands further than that.
    """
    stream = zlib.decompressobj()
    try:
        expanded = stream.decompress(payload, wanted + 1)
    except zlib.error:
        return None
    return expanded if stream.eof and not stream.unused_data else None


def _expand_zstd(payload: bytes, wanted: int) -> bytes | None:
    """Does for Zstandard what `_expand_zlib` does.

    A frame states its size, so that nothing is expanded that would be too large.
    """
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
