"""Features on the wire: error bounds, sizes, and samples that don't depend on their batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.codecs import concatenate, decode, encode, sample_bytes, transfer
from tardis_fl.errors import RunError
from tardis_fl.federation.messages import FeatureBatch, pack_tensors, unpack_tensors


def some_features(seed, count=5, shape=(3, 4, 4), magnitude=1.0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * magnitude


@given(seed=st.integers(0, 10_000), exponent=st.integers(-20, 20))
def test_uint8_errs_by_at_most_half_a_step_of_each_sample(seed, exponent):
    features = some_features(seed, magnitude=10.0**exponent)
    features[0] *= 1000  # a loud neighbour changes nothing for the others
    encoded = encode(features, "uint8")
    error = (decode(encoded) - features).abs().flatten(1).amax(1)
    largest = features.abs().flatten(1).amax(1)
    assert (error <= encoded.scale / 2 + 4e-7 * largest).all()


def test_a_sample_is_coded_the_same_alone_and_in_a_batch():
    features = some_features(1)
    together = decode(encode(features, "uint8"))
    assert torch.equal(together[2:3], decode(encode(features[2:3], "uint8")))


@pytest.mark.parametrize("features", [torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), -7.5)])
def test_constant_features_survive(features):
    torch.testing.assert_close(decode(encode(features, "uint8")), features)


def test_float_codecs_keep_what_their_type_holds():
    features = some_features(2)
    assert torch.equal(transfer("float32")(features), features)
    assert torch.equal(transfer("float16")(features), features.half().float())


def test_what_a_codec_cannot_carry_is_refused():
    with pytest.raises(RunError, match="not finite"):
        encode(torch.tensor([[float("nan")]]), "uint8")
    with pytest.raises(RunError, match=r"can't be sent as float16: got 7e\+04, the largest it holds is 65504"):
        encode(torch.tensor([[70_000.0]]), "float16")


@pytest.mark.parametrize("codec", ["uint8", "float16", "float32"])
def test_stated_bytes_are_what_is_encoded(codec):
    encoded = encode(some_features(3, count=7), codec)
    total = sum(tensor.numel() * tensor.element_size() for tensor in (encoded.values, encoded.low, encoded.scale))
    assert total == 7 * sample_bytes((3, 4, 4), codec)


def test_features_survive_flower_records_in_any_memory_order():
    features = some_features(4).contiguous(memory_format=torch.channels_last)
    batch = FeatureBatch(encode(features, "uint8"), torch.arange(5), 1)
    arrived = FeatureBatch.from_tensors(unpack_tensors(pack_tensors(batch.tensors("fit."))), 1, "fit.")
    assert torch.equal(decode(arrived.features), decode(batch.features))
    assert torch.equal(arrived.labels, batch.labels)
    both = concatenate([arrived.features, batch.features])
    assert torch.equal(decode(both, torch.tensor([5, 1])), decode(batch.features)[[0, 1]])


def test_scalars_and_empty_tensors_survive_flower_records():
    tensors = {"n": torch.tensor(3), "none": torch.empty(0), "half": torch.ones(2, dtype=torch.float16)}
    for name, tensor in unpack_tensors(pack_tensors(tensors)).items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.dtype == tensors[name].dtype


def test_packed_arrays_are_what_flower_would_have_made():
    from flwr.app import Array

    values = torch.randn(3, 5, 2, 2).contiguous(memory_format=torch.channels_last)
    for tensor in (values, torch.tensor(3), torch.empty(0), values.to(torch.uint8), values.half()):
        ours, theirs = pack_tensors({"t": tensor})["t"], Array(tensor.numpy().copy(order="C").reshape(tuple(tensor.shape)))
        assert (ours.dtype, ours.shape, ours.stype, ours.data) == (theirs.dtype, theirs.shape, theirs.stype, theirs.data)


def test_arrays_that_others_packed_are_read_in_any_order():
    from flwr.app import Array, ArrayRecord

    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert unpack_tensors(ArrayRecord({"t": Array(values)}))["t"].tolist() == values.tolist()
