"""The contract of codecs, and features as a codec left them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.names import CODEC_NAMES, CODECS

Transfer = Callable[[Tensor], Tensor]
"""What features go through on their way from one tier to the next: (N, ...) from the same."""

QUANTISED = ("values", "low", "scale")
PREFIX = "features."
SHAPE = f"{PREFIX}shape"


@dataclass(frozen=True)
class EncodedFeatures:
    """Features of N samples as a codec left them: named tensors with a row a sample.

    Attributes:
        tensors: (N, ...) each, at least one; one that a codec doesn't need has no rows, and is kept
            as it is where samples are chosen, joined or put into place.
        shape: (...) of one sample's features before.
    """

    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return max(map(len, self.tensors.values()))

    def __getitem__(self, rows: slice | Tensor) -> EncodedFeatures:
        """Returns some samples; those of a slice without copying them."""
        return self._each(lambda tensor: tensor[rows])

    @property
    def nbytes(self) -> int:
        """Bytes of everything, in memory and in training's messages."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device) -> EncodedFeatures:
        """Returns them on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return EncodedFeatures(moved, self.shape)

    def empty(self, count: int) -> EncodedFeatures:
        """Returns room for so many samples of this kind."""
        return self._each(lambda tensor: tensor.new_empty(count, *tensor.shape[1:]))

    def put(self, first: int, others: EncodedFeatures) -> None:
        """Copies samples into place.

        Raises:
            ValueError: They are of another kind.
        """
        self._check_same(others)
        for name, tensor in self.tensors.items():
            if len(tensor):
                tensor[first : first + len(others)] = others.tensors[name]

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns what travels, by names that begin with `features.` unless it is quantised.

        The shape travels as that of a tensor without any values, so that no message has to repeat
        it in another form.
        """
        if self._is_quantised:
            return dict(self.tensors)
        named = {f"{PREFIX}{name}": tensor for name, tensor in self.tensors.items()}
        return {**named, SHAPE: torch.empty(0, *self.shape)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> EncodedFeatures:
        """Reads what `to_tensors` made, from among other tensors.

        Raises:
            KeyError: Something is missing.
        """
        if SHAPE not in tensors:
            quantised = {name: tensors[name] for name in QUANTISED}
            return cls(quantised, tuple(quantised["values"].shape[1:]))
        named = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(PREFIX) and name != SHAPE
        }
        return cls(named, tuple(tensors[SHAPE].shape[1:]))

    @staticmethod
    def names_in(tensors: Mapping[str, Tensor]) -> list[str]:
        """Returns the names of those tensors of a message that `from_tensors` reads."""
        return [name for name in tensors if name in QUANTISED or name.startswith(PREFIX)]

    @staticmethod
    def concatenate(parts: Sequence[EncodedFeatures]) -> EncodedFeatures:
        """Joins the samples of several senders.

        Raises:
            ValueError: They are of different kinds.
        """
        first = parts[0]
        for part in parts[1:]:
            first._check_same(part)
        joined = {name: torch.cat([part.tensors[name] for part in parts]) for name in first.tensors}
        return EncodedFeatures(joined, first.shape)

    @property
    def _is_quantised(self) -> bool:
        if tuple(self.tensors) != QUANTISED:
            return False
        return tuple(self.tensors["values"].shape[1:]) == self.shape

    def _check_same(self, others: EncodedFeatures) -> None:
        if self.shape != others.shape or self.tensors.keys() != others.tensors.keys():
            raise ValueError(
                f"encoded features {self._described()} and {others._described()} don't go together"
            )

    def _described(self) -> str:
        return f"{', '.join(self.tensors)} of shape {self.shape}"

    def _each(self, change: Callable[[Tensor], Tensor]) -> EncodedFeatures:
        changed = {
            name: change(tensor) if len(tensor) else tensor for name, tensor in self.tensors.items()
        }
        return EncodedFeatures(changed, self.shape)


class Codec(ABC):
    """How features become what travels, and back: a class that takes no arguments.

    A codec codes each sample by itself, so that what arrives doesn't depend on the batch, and
    keeps no state: one object may serve several boundaries and threads.

        class HalfOfThem(Codec):
            fixed_size = True

            def encode(self, features: Tensor) -> EncodedFeatures:
                return EncodedFeatures({"kept": features[:, ::2].half()}, features.shape[1:])

            def decode(self, encoded: EncodedFeatures) -> Tensor:
                kept = encoded.tensors["kept"]
                features = kept.new_zeros(len(kept), *encoded.shape, dtype=torch.float32)
                features[:, ::2] = kept.float()
                return features

    Attributes:
        fixed_size: Whether a sample's bytes follow from its shape alone. Where they depend on its
            content they are measured.
    """

    fixed_size: bool = False

    @property
    def name(self) -> str:
        """What a configuration calls it."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @abstractmethod
    def encode(self, features: Tensor) -> EncodedFeatures:
        """Encodes features (N, ...) float32 on any device.

        Raises:
            RunError: They can't travel so, such as values that are not finite.
        """

    @abstractmethod
    def decode(self, encoded: EncodedFeatures) -> Tensor:
        """Returns features (N, *encoded.shape) float32 as they arrive, on the same device."""

    def num_bytes(self, encoded: EncodedFeatures) -> npt.NDArray[np.int64]:
        """Returns the bytes that each sample takes on the wire: (N,).

        By default those of its rows; a codec that packs or compresses them says how far.
        """
        rows = [tensor[0].nbytes for tensor in encoded.tensors.values() if len(tensor)]
        return np.full(len(encoded), sum(rows), np.int64)

    def sample_bytes(self, shape: Sequence[int]) -> int | None:
        """Returns the bytes that one sample's features of `shape` take on the wire, with headers.

        Returns:
            None where they depend on the content; `num_bytes` measures them.
        """
        if not self.fixed_size:
            return None
        return int(self.num_bytes(self.encode(torch.zeros(1, *shape)))[0])


def codec_of(name: str, *, key: str | None = None) -> Codec:
    """Returns the codec of a name.

    Args:
        name: One of ours, one that a plug-in registered, or MODULE:CLASS.
        key: Where it stands, for the message.

    Raises:
        ConfigError: There is no such codec, or what is named makes something else.
    """
    if name in CODEC_NAMES:
        return CODECS.resolve(name)()
    from tardis_fl.codecs.checking import checked_codec

    return checked_codec(name, key or CODECS.key)


def transfer(name: str) -> Transfer:
    """Returns the function that features go through on their way from one tier to the next.

    Raises:
        ConfigError: There is no such codec.
    """
    codec = codec_of(name)
    return lambda features: codec.decode(codec.encode(features))


def sample_bytes(shape: Sequence[int], name: str) -> int | None:
    """Returns `Codec.sample_bytes` of a name.

    Raises:
        ConfigError: There is no such codec.
    """
    return codec_of(name).sample_bytes(shape)
