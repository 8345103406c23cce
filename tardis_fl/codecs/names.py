"""Which codecs there are, and what the names of ours mean; without PyTorch, to check at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from tardis_fl.core.problem import Problem, did_you_mean
from tardis_fl.core.registry import Registry

if TYPE_CHECKING:
    from tardis_fl.codecs.codec import Codec

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

# Of our own, those that training knows: packing and compression are for the wire between tiers.
TRAINING_CODECS = ("uint8", "float16", "float32")
CODEC_NAMES = tuple(
    f"{quantiser}{ending}"
    for quantiser in BITS_PER_VALUE
    for ending in ("", *(f"+{compressor}" for compressor in COMPRESSORS))
)
FORMS = "float32, float16, uint8 or 2bit to 7bit, alone or followed by +zlib or +zstd"


@dataclass(frozen=True)
class CodecForm:
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


CODECS: Registry[Callable[[], Codec]] = Registry(
    "codec",
    key="deployment.feature_codec",
    wants="a class derived from tardis_fl.codecs.codec.Codec that takes no arguments",
    form="MODULE:CLASS",
    summary=FORMS,
)
"""Each makes a codec."""


def _make(name: str) -> Codec:
    from tardis_fl.codecs.wire import WireCodec

    return WireCodec(parse_codec(name))


for _name in CODEC_NAMES:
    CODECS.register(_name, partial(_make, _name))


@lru_cache(maxsize=128)
def parse_codec(name: str) -> CodecForm:
    """Takes the name of one of our codecs apart.

    Raises:
        ValueError: None of ours is called so; the message has the nearest name.
    """
    if name not in CODEC_NAMES:
        wanted = f"wanted {FORMS}{did_you_mean(name, CODEC_NAMES)}"
        raise ValueError(str(Problem("codec", repr(name), wanted)))
    quantiser, _, compressor = name.partition("+")
    return CodecForm(quantiser, compressor or None)


def training_codec_names() -> tuple[str, ...]:
    """Returns the codecs that `federation.feature_codec` may name: three of ours, all of users'."""
    users = [name for name in CODECS.names() if name not in CODEC_NAMES]
    return (*TRAINING_CODECS, *users)


def has_fixed_size(name: str) -> bool:
    """Whether a sample's bytes follow from its shape alone; a user's codec is imported for it.

    Raises:
        ConfigError: There is no such codec.
    """
    if name in CODEC_NAMES:
        return parse_codec(name).compressor is None
    from tardis_fl.codecs.codec import codec_of

    return codec_of(name).fixed_size


def shared_pass(name: str) -> str:
    """Returns what two codecs have in common that differ in their compressor alone.

    What arrives is the same for both, so that samples pass a network once for them.
    """
    return parse_codec(name).quantiser if name in CODEC_NAMES else name
