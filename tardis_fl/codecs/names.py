"""Which codecs there are, and what their names mean; without PyTorch, so that a configuration is checked at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache

BITS_PER_VALUE = {
    "float32": 32,
    "float16": 16,
    "uint8": 8,
    "7bit": 7,
    "6bit": 6,
    "5bit": 5,
    "4bit": 4,
    "3bit": 3,
    "2bit": 2,
}
FLOATS = ("float32", "float16")
COMPRESSORS = ("zlib", "zstd")

BYTES_PER_VALUE = {"uint8": 1, "float16": 2, "float32": 4}  # of the codecs that training knows
TRAINING_CODECS = tuple(BYTES_PER_VALUE)
CODEC_NAMES = tuple(
    f"{quantiser}{ending}"
    for quantiser in BITS_PER_VALUE
    for ending in ("", *(f"+{compressor}" for compressor in COMPRESSORS))
)


@dataclass(frozen=True)
class Codec:
    """What a name such as `4bit+zstd` stands for.

    Attributes:
        quantiser: What values become, a key of `BITS_PER_VALUE`.
        compressor: What is done to the bytes of these, one of `COMPRESSORS`; None: nothing.
    """

    quantiser: str
    compressor: str | None

    def __str__(self) -> str:
        return self.quantiser if self.compressor is None else f"{self.quantiser}+{self.compressor}"

    @property
    def bits(self) -> int:
        """Bits a value takes before compression."""
        return BITS_PER_VALUE[self.quantiser]

    @property
    def has_scale(self) -> bool:
        """Whether values are codes on a sample's own scale, rather than floating-point numbers."""
        return self.quantiser not in FLOATS


@lru_cache(maxsize=128)
def parse_codec(name: str) -> Codec:
    """Takes a codec's name apart.

    Raises:
        ValueError: No codec is called so; the message has the nearest name.
    """
    if name not in CODEC_NAMES:
        near = difflib.get_close_matches(name, CODEC_NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"codec: got {name!r}; wanted float32, float16, uint8 or 2bit to 7bit, alone or followed by +zlib or +zstd{hint}"
        )
    quantiser, _, compressor = name.partition("+")
    return Codec(quantiser, compressor or None)
