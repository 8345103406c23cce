"""Codecs of a user's own: named, checked where they are used, and on their way through messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tardis_fl.codecs.checking import try_codec
from tardis_fl.codecs.codec import Codec, EncodedFeatures, codec_of, sample_bytes, transfer
from tardis_fl.codecs.metering import Meter
from tardis_fl.codecs.names import has_fixed_size, shared_pass
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.transport.messages import FeatureBatch, pack_tensors, unpack_tensors
from tests.conftest import small_config
from tests.federation.test_rounds import federate

HERE = __name__


class EveryOther(Codec):
    """Sends every other channel as float16."""

    fixed_size = True

    def encode(self, features):
        return EncodedFeatures({"kept": features[:, ::2].half()}, features.shape[1:])

    def decode(self, encoded):
        kept = encoded.tensors["kept"]
        features = torch.zeros(len(kept), *encoded.shape, device=kept.device)
        features[:, ::2] = kept.float()
        return features


class Signs(Codec):
    """Sends signs, those above 0 alone: its bytes depend on the content."""

    def encode(self, features):
        return EncodedFeatures(
            {"signs": features > 0, "none": torch.empty(0, 3)}, features.shape[1:]
        )

    def decode(self, encoded):
        return encoded.tensors["signs"].float()

    def num_bytes(self, encoded):
        return encoded.tensors["signs"].flatten(1).sum(1).numpy()


class ByTheBatch(EveryOther):
    def encode(self, features):
        return super().encode(features / features.abs().max())


class SizesByTheBatch(EveryOther):
    def num_bytes(self, encoded):
        return np.full(len(encoded), len(encoded))


class NotSoFixed(Signs):
    fixed_size = True


class Wanting(EveryOther):
    def __init__(self, share):
        self.share = share


class Failing(EveryOther):
    def __init__(self):
        raise KeyError("no table")


class NoCodec:
    pass


def features(count=4, shape=(6, 3, 5), seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def name(cls):
    return f"{HERE}:{cls.__name__}"


def test_it_codes_features_by_its_name():
    codec = codec_of(name(EveryOther))
    x = features()
    arrived = transfer(name(EveryOther))(x)
    assert codec.name == name(EveryOther)
    assert torch.equal(arrived[:, ::2], x[:, ::2].half().float())
    assert not arrived[:, 1::2].any()
    assert sample_bytes((6, 3, 5), name(EveryOther)) == 3 * 3 * 5 * 2
    assert has_fixed_size(name(EveryOther))
    assert not has_fixed_size(name(Signs))
    assert sample_bytes((6, 3, 5), name(Signs)) is None
    assert shared_pass(name(Signs)) == name(Signs)


def test_its_bytes_are_metered_by_content():
    x = features()
    meter = Meter([name(Signs)])
    assert torch.equal(meter(x), (x > 0).float())
    assert meter.crossing_bytes(name(Signs), 1).tolist() == [(x > 0).flatten(1).sum(1).tolist()]


@pytest.mark.parametrize("cls", [EveryOther, Signs])
@pytest.mark.parametrize("prefix", ["", "fit."])
def test_its_features_survive_messages_pieces_and_joining(cls, prefix):
    codec = codec_of(name(cls))
    batch = FeatureBatch(codec.encode(features()), torch.arange(4), 1)
    tensors = batch.tensors(prefix)
    beside = {"logits": torch.ones(3), f"{prefix}labels_of_others": torch.ones(1)}
    arrived = FeatureBatch.from_tensors(unpack_tensors(pack_tensors(tensors | beside)), 1, prefix)
    if not prefix:
        assert FeatureBatch.names_in(tensors | beside) == set(tensors)
    whole = arrived.room(4)
    whole.put(0, arrived[:3])
    whole.put(3, arrived[3:])
    both = EncodedFeatures.concatenate([whole.features, batch.features])
    expected = codec.decode(batch.features)
    assert torch.equal(codec.decode(both[torch.tensor([7, 1])]), expected[[3, 1]])
    assert whole.features.nbytes == batch.features.nbytes
    assert torch.equal(whole.labels, batch.labels)
    assert both.to(torch.device("cpu")).shape == (6, 3, 5)


def test_features_of_two_kinds_are_not_mixed():
    ours = codec_of("uint8").encode(features())
    theirs = codec_of(name(EveryOther)).encode(features())
    with pytest.raises(ValueError, match=r"values, low, scale of shape .* and kept of shape .*"):
        EncodedFeatures.concatenate([ours, theirs])
    with pytest.raises(ValueError, match="don't go together"):
        ours.put(0, codec_of("uint8").encode(features(shape=(6, 5, 3))))


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (f"{HERE}:Nowhere", "wanted MODULE:CLASS (module 'tests.codecs.test_own_codec' has no"),
        (name(Wanting), "which takes other arguments; wanted a class derived from"),
        (name(Failing), "making one fails with KeyError: 'no table' (test"),
        (name(NoCodec), "which makes a NoCodec; wanted a class derived from tardis_fl.codecs"),
        (name(Codec).replace(HERE, "tardis_fl.codecs.codec"), "TypeError: Can't instantiate"),
        (f"{HERE}:HERE", "which is a str and can't be called"),
    ],
)
def test_one_that_can_not_be_had_is_one_message(codec, text):
    with pytest.raises(ConfigError) as error:
        codec_of(codec, key="federation.feature_codec")
    assert str(error.value).startswith("federation.feature_codec: got ")
    assert text in str(error.value)


def wrong(method, result):
    class Wrong(EveryOther):
        pass

    def returned(self, argument):
        if isinstance(result, Exception):
            raise result
        return result

    setattr(Wrong, method, returned)
    return Wrong


@pytest.mark.parametrize(
    ("method", "result", "text"),
    [
        ("encode", KeyError("k"), "encode fails with KeyError: 'k' (test"),
        ("encode", torch.zeros(4), "encode returns a Tensor; wanted EncodedFeatures"),
        ("encode", EncodedFeatures({}, (6, 3, 5)), "encode returns no rows for 4 samples"),
        (
            "encode",
            EncodedFeatures({"a": torch.zeros(3, 2)}, (6, 3, 5)),
            "encode returns 'a' of shape (3, 2) for 4 samples; wanted a row a sample",
        ),
        (
            "encode",
            EncodedFeatures({"a": np.zeros(4)}, (6, 3, 5)),
            "encode returns a ndarray as 'a'; wanted a tensor",
        ),
        (
            "encode",
            EncodedFeatures({"a": torch.zeros(4, 2)}, (2,)),
            "encode returns EncodedFeatures of the shape (2,); wanted (6, 3, 5)",
        ),
        ("decode", None, "decode returns a NoneType; wanted a tensor"),
        ("decode", torch.zeros(4, 6, 15), "of shape (4, 6, 15); wanted (4, 6, 3, 5)"),
        ("decode", torch.zeros(4, 6, 3, 5).half(), "torch.float16; wanted torch.float32"),
        ("decode", torch.full((4, 6, 3, 5), torch.nan), "decode returns values that are not"),
        ("num_bytes", [1.5] * 4, "num_bytes returns float64 of shape (4,) for 4 samples; wanted"),
        ("num_bytes", 7, "num_bytes returns int64 of shape () for 4 samples"),
        ("num_bytes", [1, 2, -3, 4], "num_bytes returns -3; wanted whole numbers of 0 or more"),
    ],
)
def test_wrong_returns_are_one_message(monkeypatch, method, result, text):
    monkeypatch.setitem(globals(), "Wrong", wrong(method, result))
    with pytest.raises(RunError) as error:
        try_codec(codec_of(f"{HERE}:Wrong"), features())
    assert str(error.value).startswith(
        f"the codec '{HERE}:Wrong': {text}" if ":" in text else "the"
    )
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (ByTheBatch, "a sample arrives otherwise alone than in a batch of 4; wanted each coded by"),
        (SizesByTheBatch, "a sample takes 1 bytes alone and 4 in a batch of 4"),
        (NotSoFixed, "it says fixed_size, but samples of one shape take"),
    ],
)
def test_samples_that_depend_on_their_batch_are_refused(cls, text):
    with pytest.raises(RunError) as error:
        try_codec(codec_of(name(cls)), features())
    assert text in str(error.value)


def test_ours_pass_the_same_test():
    for codec in ("uint8", "float16", "4bit+zstd"):
        try_codec(codec_of(codec), features())


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "federation.feature_codec=4bit",
            "federation.feature_codec: got the text '4bit'; "
            "wanted 'uint8', 'float16', 'float32' or MODULE:CLASS",
        ),
        (
            "federation.feature_codec=uint",
            "wanted 'uint8', 'float16', 'float32' or MODULE:CLASS; did you mean 'uint8'?",
        ),
        (
            f"deployment.measure_codecs=[uint8, '{HERE}:Nowhere']",
            f"deployment.measure_codecs.1: got '{HERE}:Nowhere'; wanted MODULE:CLASS",
        ),
    ],
)
def test_configurations_name_what_may_stand_there(override, text):
    with pytest.raises(ConfigError) as error:
        small_config(override)
    assert text in str(error.value)
    assert str(error.value).count("\n") == 1  # which configuration, and what is wrong


def test_a_federation_trains_and_calibrates_through_it():
    codec = name(EveryOther)
    found = federate(
        small_config(
            f"federation.feature_codec={codec}",
            f"deployment.feature_codec={codec}",
            "federation.rounds=1",
            "federation.feature_buffer_rounds=2",
            "federation.piece_bytes=20000",
            "federation.final_server_epochs=1",
        )
    )
    assert found.ledger.up["features"] > 0
