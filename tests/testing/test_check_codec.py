"""`check_codec`: ours pass, and every way to be none is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tardis_fl.codecs.codec import Codec, EncodedFeatures
from tardis_fl.testing import PluginError, check_codec

HERE = "tests.testing.test_check_codec"


class Halves(Codec):
    """Values as float16."""

    fixed_size = True

    def encode(self, features):
        return EncodedFeatures({"halves": features.half()}, tuple(features.shape[1:]))

    def decode(self, encoded):
        return encoded.tensors["halves"].float()


class OneScale(Halves):
    def encode(self, features):
        return super().encode(features / features.abs().max().clamp(min=1e-9))


class Doubles(Halves):
    def decode(self, encoded):
        return super().decode(encoded).double()


class Cuts(Halves):
    def decode(self, encoded):
        return super().decode(encoded)[..., :1]


class Weightless(Halves):
    def num_bytes(self, encoded):
        return np.zeros(len(encoded), np.int64)


class InBits(Halves):
    def num_bytes(self, encoded):
        return super().num_bytes(encoded) / 8


class ByContent(Halves):
    def num_bytes(self, encoded):
        return encoded.tensors["halves"].flatten(1).count_nonzero(1).numpy() + 1


class Remembers(Halves):
    """Keeps what it encodes beside the message."""

    def encode(self, features):
        self.last = features
        return super().encode(features)

    def decode(self, encoded):
        return self.last[: len(encoded)]


class Fails(Halves):
    def encode(self, features):
        return features.nothing


class WithArgument(Halves):
    def __init__(self, bits):
        self.bits = bits


@pytest.mark.parametrize("name", ["float32", "float16", "uint8", "4bit+zstd", "2bit+zlib"])
def test_ours_pass(name):
    check_codec(name)


@pytest.mark.parametrize(("name", "tolerance"), [("uint8", 0.5 / 255), ("4bit", 0.5 / 15)])
def test_ours_keep_their_error(name, tolerance):
    check_codec(name, tolerance=1.01 * tolerance)
    with pytest.raises(
        PluginError, match=rf"^{name}: got an error of [\d.e-]+ of a sample's range; wanted at most"
    ):
        check_codec(name, tolerance=0.9 * tolerance)


def test_a_user_s_passes():
    check_codec(Halves, tolerance=1e-3)
    check_codec(f"{HERE}:Halves", shapes=[(5,)])


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (OneScale, "a sample arrives otherwise alone than in a batch of 6; wanted each coded by"),
        (Doubles, "decode returns features of torch.float64; wanted torch.float32"),
        (Cuts, "decode returns features of shape (6, 8, 6, 1); wanted (6, 8, 6, 6)"),
        (Weightless, "got 0 bytes for 6 samples; wanted at least one for each"),
        (InBits, "num_bytes returns float64 of shape (6,) for 6 samples; wanted whole numbers"),
        (ByContent, "it says fixed_size, but samples of one shape take"),
        (Remembers, "got other features after they travelled in two pieces; wanted the same"),
        (Fails, "encode fails with AttributeError: 'Tensor' object has no attribute 'nothing'"),
        (WithArgument, "which takes other arguments; wanted a class derived from"),
        (dict, "got a dict; wanted a class derived from tardis_fl.codecs.codec.Codec"),
        ("no_such_codec", "got the text 'no_such_codec'; wanted float32, float16"),
    ],
)
def test_what_is_no_codec_is_said(codec, message):
    with pytest.raises(PluginError) as caught:
        check_codec(codec)
    assert message in str(caught.value)


def test_large_features_are_tried():
    class OverflowsAtOnce(Halves):
        def encode(self, features):
            return super().encode(features * 1e4)

    with pytest.raises(PluginError, match="values that are not finite"):
        check_codec(OverflowsAtOnce)
    assert torch.tensor(1e4).half().isfinite()
