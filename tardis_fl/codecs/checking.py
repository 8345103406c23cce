"""A user's codec: what it returns is checked, so that what is wrong with it is one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.codec import Codec, EncodedFeatures
from tardis_fl.codecs.names import CODECS
from tardis_fl.core.importing import failure_of
from tardis_fl.core.problem import Problem
from tardis_fl.errors import ConfigError, RunError

T = TypeVar("T")


def checked_codec(name: str, key: str) -> Codec:
    """Makes a user's codec.

    Args:
        name: One that a plug-in registered, or MODULE:CLASS.
        key: Where it stands in the configuration.

    Raises:
        ConfigError: There is no such codec, or what is named makes something else.
    """
    make = CODECS.bound(name, key=key)
    try:
        made: object = make()
    except Exception as error:  # a user's class may raise anything
        problem = Problem(key, repr(name), f"making one fails with {failure_of(error)}")
        raise ConfigError(str(problem)) from error
    if not isinstance(made, Codec):
        got = f"{name!r}, which makes a {type(made).__name__}"
        raise ConfigError(str(Problem(key, got, f"wanted {CODECS.wants}")))
    return CheckedCodec(name, made)


class CheckedCodec(Codec):
    """A user's codec under its name in the configuration.

    Args:
        name: As configured.
        codec: The user's.
    """

    def __init__(self, name: str, codec: Codec) -> None:
        self._name = name
        self._codec = codec
        self.fixed_size = codec.fixed_size

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self._name

    def encode(self, features: Tensor) -> EncodedFeatures:
        """Encodes features (N, ...).

        Raises:
            RunError: The codec fails, or returns something else.
        """
        features = features.detach().float()
        encoded = self._call("encode", lambda: self._codec.encode(features))
        if not isinstance(encoded, EncodedFeatures):
            self._refuse("encode", f"a {type(encoded).__name__}", "wanted EncodedFeatures")
        count, shape = len(features), tuple(features.shape[1:])
        if tuple(encoded.shape) != shape:
            wanted = f"wanted {shape}, that of one sample's features"
            self._refuse("encode", f"EncodedFeatures of the shape {tuple(encoded.shape)}", wanted)
        for part, tensor in encoded.tensors.items():
            if not isinstance(tensor, Tensor):
                got = f"a {type(tensor).__name__} as {part!r}"
                self._refuse("encode", got, "wanted a tensor")
            if tensor.dim() == 0 or len(tensor) not in (0, count):
                got = f"{part!r} of shape {tuple(tensor.shape)} for {count} samples"
                self._refuse("encode", got, "wanted a row a sample")
        if not encoded.tensors or len(encoded) != count:
            self._refuse("encode", f"no rows for {count} samples", "wanted one a sample")
        # a shape as a list would not be equal to another's when batches are joined
        return EncodedFeatures(encoded.tensors, shape)

    def decode(self, encoded: EncodedFeatures) -> Tensor:
        """Returns features (N, ...) float32.

        Raises:
            RunError: The codec fails, or returns something else.
        """
        features = self._call("decode", lambda: self._codec.decode(encoded))
        wanted = (len(encoded), *encoded.shape)
        if not isinstance(features, Tensor):
            self._refuse("decode", f"a {type(features).__name__}", "wanted a tensor")
        if tuple(features.shape) != wanted:
            self._refuse("decode", f"features of shape {tuple(features.shape)}", f"wanted {wanted}")
        if features.dtype != torch.float32:
            self._refuse("decode", f"features of {features.dtype}", "wanted torch.float32")
        if not torch.isfinite(features).all():
            self._refuse("decode", "values that are not finite", "wanted finite ones")
        return features

    def num_bytes(self, encoded: EncodedFeatures) -> npt.NDArray[np.int64]:
        """Returns the bytes of each sample (N,).

        Raises:
            RunError: The codec fails, or returns something else.
        """
        sizes = self._call("num_bytes", lambda: np.asarray(self._codec.num_bytes(encoded)))
        wanted = f"wanted whole numbers of 0 or more, ({len(encoded)},)"
        if sizes.shape != (len(encoded),) or not np.issubdtype(sizes.dtype, np.integer):
            got = f"{sizes.dtype} of shape {sizes.shape} for {len(encoded)} samples"
            self._refuse("num_bytes", got, wanted)
        if len(sizes) and sizes.min() < 0:
            self._refuse("num_bytes", str(sizes.min()), wanted)
        return sizes.astype(np.int64)

    def _call(self, method: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except RunError:
            raise
        except Exception as error:  # a user's class may raise anything
            raise RunError(
                f"the codec {self._name!r}: {method} fails with {failure_of(error)}"
            ) from error

    def _refuse(self, method: str, got: str, wanted: str) -> None:
        raise RunError(f"the codec {self._name!r}: {method} returns {got}; {wanted}")


def try_codec(codec: Codec, features: Tensor) -> None:
    """Sends features through a codec as training and deployment do.

    Args:
        codec: Any codec.
        features: (N, ...) of at least two samples.

    Raises:
        RunError: It fails, returns something else than the contract says, or a sample arrives
            otherwise alone than in a batch.
    """
    encoded = codec.encode(features)
    arrived = codec.decode(encoded)
    sizes = codec.num_bytes(encoded)
    # the largest value of a batch, say, lies in one of the two at most
    for rows in (slice(0, 1), slice(len(features) - 1, None)):
        alone = codec.encode(features[rows])
        if not torch.equal(codec.decode(alone), arrived[rows]):
            raise RunError(
                f"the codec {codec.name!r}: a sample arrives otherwise alone than in a batch of "
                f"{len(features)}; wanted each coded by itself"
            )
        if not np.array_equal(codec.num_bytes(alone), sizes[rows]):
            raise RunError(
                f"the codec {codec.name!r}: a sample takes {int(codec.num_bytes(alone)[0])} bytes "
                f"alone and {int(sizes[rows][0])} in a batch of {len(features)}; "
                "wanted each coded by itself"
            )
    fixed = codec.sample_bytes(features.shape[1:])
    if fixed is not None and not (sizes == fixed).all():
        raise RunError(
            f"the codec {codec.name!r}: it says fixed_size, but samples of one shape take "
            f"{sizes.min()} to {sizes.max()} bytes, and one of zeros {fixed}; "
            "wanted the same for all, or fixed_size = False"
        )
