"""Features on the wire: error bounds, sizes, and samples that don't depend on their batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tardis_fl.codecs.codec import EncodedFeatures, codec_of, sample_bytes, transfer
from tardis_fl.codecs.names import BITS_PER_VALUE, CODEC_NAMES, FLOATS, TRAINING_CODECS, parse_codec
from tardis_fl.codecs.packing import pack, packed_bytes, unpack
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.transport.messages import FeatureBatch, pack_tensors, unpack_tensors
from tests.reference import codecs as reference

SCALED = [name for name in BITS_PER_VALUE if name not in FLOATS]
HUGE, TINY = (
    float(np.float32(1e38)),
    float(np.finfo(np.float32).tiny),
)  # near the largest number, and the smallest normal one

any_features = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6),
    elements=st.one_of(*(st.floats(-limit, limit, width=32) for limit in (HUGE, 8.0, 8 * TINY))),
)


def encode(features, codec):
    return codec_of(codec).encode(features)


def decode(encoded):
    return codec_of("float32").decode(encoded)  # all of ours decode alike


def message_bytes(features, codec):
    return codec_of(codec).num_bytes(encode(features, codec))


def pack_samples(features, codec):
    return codec_of(codec).pack(encode(features, codec))


def unpack_samples(messages, shape, codec):
    return codec_of(codec).unpack(messages, shape)


def some_features(seed, count=5, shape=(3, 4, 4), magnitude=1.0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * magnitude


@pytest.mark.parametrize("codec", SCALED)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-20, 20))
def test_codes_err_by_at_most_half_a_step_of_each_sample(codec, seed, exponent):
    features = some_features(seed, magnitude=10.0**exponent)
    features[0] *= 1000  # a loud neighbour changes nothing for the others
    check_error(features, codec)


@pytest.mark.parametrize("codec", SCALED)
@given(features=any_features)
@example(
    features=np.array([[-1.6e38, 0, 1.6e38], [0, 2, 3.3e38], [-3.4e38, -1e38, -2e38]], np.float32)
)
@example(features=np.array([[0, 1e-45, 3e-45]], np.float32))
@example(features=np.array([[TINY, 2 * TINY, -TINY / 2]], np.float32))
def test_codes_of_huge_and_subnormal_values_err_by_at_most_half_a_step(codec, features):
    check_error(torch.from_numpy(features), codec)


def check_error(features, codec):
    """Half a step, and 2^-21 of the largest value for the roundings of float32; the step itself is the range over its levels."""
    encoded = encode(features, codec)
    error = (decode(encoded).double() - features.double()).abs().flatten(1).amax(1)
    flat = features.double().flatten(1)
    assert (error <= encoded.tensors["scale"].double() / 2 + 2.0**-21 * flat.abs().amax(1)).all()
    step = (flat.amax(1) - flat.amin(1)) / (2 ** BITS_PER_VALUE[codec] - 1)
    assert (encoded.tensors["scale"].double() <= step.clamp_min(TINY) * (1 + 2.0**-23)).all()


@given(features=hnp.arrays(np.float32, (3, 7), elements=st.floats(-65504, 65504, width=32)))
def test_float16_errs_by_at_most_a_share_of_each_value(features):
    error = np.abs(transfer("float16")(torch.from_numpy(features)).double().numpy() - features)
    assert (error <= np.maximum(2.0**-11 * np.abs(features, dtype=np.float64), 2.0**-25)).all()


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_sample_is_coded_the_same_alone_and_in_a_batch(codec):
    features = some_features(1)
    features[0] *= 1000
    assert torch.equal(transfer(codec)(features)[2:3], transfer(codec)(features[2:3]))
    assert pack_samples(features, codec)[2:3] == pack_samples(features[2:3], codec)


@pytest.mark.parametrize("features", [torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), -7.5)])
@pytest.mark.parametrize("codec", SCALED)
def test_constant_features_survive(features, codec):
    assert torch.equal(unpack_samples(pack_samples(features, codec), (3, 2, 2), codec), features)


def test_float_codecs_keep_what_their_type_holds():
    features = some_features(2)
    assert torch.equal(transfer("float32")(features), features)
    assert torch.equal(transfer("float16")(features), features.half().float())


def test_what_a_codec_cannot_carry_is_refused():
    with pytest.raises(RunError, match="not finite"):
        encode(torch.tensor([[float("nan")]]), "uint8")
    with pytest.raises(
        RunError, match=r"can't be sent as float16: got 7e\+04, the largest it holds is 65504"
    ):
        encode(torch.tensor([[70_000.0]]), "float16")
    with pytest.raises(
        RunError,
        match=r"can't be sent as 3bit\+zlib: a sample's values go from -2e\+38 to 2e\+38, wider than float32 can measure",
    ):
        pack_samples(torch.tensor([[1.0, 0.0], [2e38, -2e38]]), "3bit+zlib")
    for codec in CODEC_NAMES:
        for value in (float("nan"), float("inf"), -float("inf")):
            with pytest.raises(RunError, match="not finite"):
                message_bytes(torch.tensor([[1.0, value]]), codec)


@pytest.mark.parametrize(
    "name", ["4bits+zstd", "zstd", "uint8+gzip", "8bit", "uint8+", "+zstd", "", "4bit+zstd+zlib"]
)
def test_unknown_names_are_refused(name):
    wanted = "wanted float32, float16, uint8 or 2bit to 7bit, alone or followed by"
    with pytest.raises(ValueError, match=wanted) as refused:
        parse_codec(name)
    assert f"got {name!r}" in str(refused.value)
    for use in (
        codec_of,
        transfer,
        lambda name: sample_bytes((3,), name),
        lambda name: encode(torch.zeros(1, 1), name),
    ):
        with pytest.raises(ConfigError, match=wanted) as refused:
            use(name)
        assert f"got the text {name!r}" in str(refused.value)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"did you mean '4bit\+zstd'\?"):
        parse_codec("4bits+zstd")


def test_names_mean_what_they_say():
    assert len(CODEC_NAMES) == len(set(CODEC_NAMES)) == 27
    assert [str(parse_codec(name)) for name in CODEC_NAMES] == list(CODEC_NAMES)
    assert (
        parse_codec("5bit+zlib").quantiser,
        parse_codec("5bit+zlib").compressor,
        parse_codec("5bit+zlib").bits,
    ) == ("5bit", "zlib", 5)
    assert TRAINING_CODECS == ("uint8", "float16", "float32")


def test_names_are_known_without_pytorch():
    code = "import sys, tardis_fl.codecs.names; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@given(
    bits=st.integers(1, 8),
    rows=st.integers(0, 4),
    count=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
def test_packing_is_undone_exactly(bits, rows, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count), dtype=np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, packed_bytes(count, bits))
    assert [row.tobytes() for row in packed] == [reference.packed(row, bits) for row in codes]
    assert np.array_equal(unpack(packed, bits, count), codes)


def test_packing_by_hand():
    assert pack(np.array([[1, 2, 3, 0, 2]], np.uint8), 2).tolist() == [[0b00_11_10_01, 0b10]]
    assert pack(np.array([[0b101, 0b001, 0b110]], np.uint8), 3).tolist() == [[0b10_001_101, 0b1]]


@pytest.mark.parametrize("codec", CODEC_NAMES)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(1,), (7,), (2, 3), (3, 4, 5)]),
    count=st.integers(0, 4),
)
def test_messages_are_what_the_obvious_form_makes_and_are_read_bit_for_bit(
    codec, seed, shape, count
):
    features = some_features(seed, count, shape).relu()
    messages = pack_samples(features, codec)
    expected = [reference.send(sample, codec) for sample in features]
    assert messages == [message for message, _ in expected]
    arrived = unpack_samples(messages, shape, codec)
    assert arrived.shape == (count, *shape) and arrived.dtype == torch.float32
    assert torch.equal(arrived, decode(encode(features, codec)))
    assert torch.equal(
        arrived, transfer(codec.partition("+")[0])(features)
    )  # compression loses nothing
    assert all(
        torch.equal(ours, theirs) for ours, (_, theirs) in zip(arrived, expected, strict=True)
    )


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_stated_sizes_are_those_of_the_messages(codec):
    features = (
        some_features(5, shape=(4, 6, 6)).relu().contiguous(memory_format=torch.channels_last)
    )
    lengths = [len(message) for message in pack_samples(features, codec)]
    assert message_bytes(features, codec).tolist() == lengths
    assert codec_of(codec).num_bytes(encode(features, codec.partition("+")[0])).tolist() == lengths
    assert sample_bytes((4, 6, 6), codec) == (None if "+" in codec else lengths[0])
    assert unpack_samples(pack_samples(features, codec), (4, 6, 6), codec).is_contiguous(
        memory_format=torch.channels_last
    )


def test_sizes_by_hand():
    sizes = {codec: sample_bytes((3, 5), codec) for codec in BITS_PER_VALUE}
    assert sizes == {
        "float32": 60,
        "float16": 30,
        "uint8": 8 + 15,
        "7bit": 8 + 14,
        "6bit": 8 + 12,
        "5bit": 8 + 10,
        "4bit": 8 + 8,
        "3bit": 8 + 6,
        "2bit": 8 + 4,
    }


@pytest.mark.parametrize("codec", [name for name in CODEC_NAMES if "+" in name])
def test_what_does_not_shrink_grows_by_a_few_bytes(codec):
    noise = torch.rand(20, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (
        message_bytes(noise, codec).max()
        <= sample_bytes((16, 16, 16), codec.partition("+")[0]) + 16
    )


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_messages_cut_off_or_with_something_after_them_are_refused(codec):
    whole = pack_samples(some_features(6, count=2), codec)
    for damaged in (whole[1][:-1], whole[1][:9], whole[1][:5], b"", whole[1] + b"x"):
        with pytest.raises(
            RunError,
            match=r"message 1: got \d+ bytes that can't be read; wanted .* for features of shape \(3, 4, 4\) as ",
        ):
            unpack_samples([whole[0], damaged], (3, 4, 4), codec)
    with pytest.raises(RunError, match="message 0"):
        unpack_samples(whole, (3, 4, 5), codec)


@pytest.mark.parametrize("codec", ["float32", "float16+zstd", "2bit"])
def test_messages_with_values_that_nobody_sends_are_refused(codec):
    if parse_codec(codec).has_scale:
        message = np.float32(np.nan).tobytes() + reference.send(torch.zeros(3), codec)[0][4:]
    else:
        message = reference.send(torch.tensor([0, np.inf, 0]), codec)[0]
    with pytest.raises(RunError, match="message 0: got values that are not finite"):
        unpack_samples([message], (3,), codec)


@pytest.mark.parametrize("compressor", ["zlib", "zstd"])
def test_a_message_that_would_expand_further_is_refused_before_it_does(compressor):
    bomb = reference.send(torch.zeros(10_000_000), f"float16+{compressor}")[0]
    with pytest.raises(RunError, match="can't be read"):
        unpack_samples([bomb], (8,), f"float16+{compressor}")


@pytest.mark.parametrize("codec", TRAINING_CODECS)
def test_stated_bytes_are_what_is_encoded(codec):
    encoded = encode(some_features(3, count=7), codec)
    total = sum(tensor.numel() * tensor.element_size() for tensor in encoded.tensors.values())
    assert total == 7 * sample_bytes((3, 4, 4), codec)


def test_features_survive_flower_records_in_any_memory_order():
    features = some_features(4).contiguous(memory_format=torch.channels_last)
    batch = FeatureBatch(encode(features, "uint8"), torch.arange(5), 1)
    arrived = FeatureBatch.from_tensors(
        unpack_tensors(pack_tensors(batch.tensors("fit."))), 1, "fit."
    )
    assert torch.equal(decode(arrived.features), decode(batch.features))
    assert torch.equal(arrived.labels, batch.labels)
    both = EncodedFeatures.concatenate([arrived.features, batch.features])
    assert torch.equal(decode(both[torch.tensor([5, 1])]), decode(batch.features)[[0, 1]])


def test_scalars_and_empty_tensors_survive_flower_records():
    tensors = {
        "n": torch.tensor(3),
        "none": torch.empty(0),
        "half": torch.ones(2, dtype=torch.float16),
    }
    for name, tensor in unpack_tensors(pack_tensors(tensors)).items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.dtype == tensors[name].dtype


def test_packed_arrays_are_what_flower_would_have_made():
    from flwr.app import Array

    values = torch.randn(3, 5, 2, 2).contiguous(memory_format=torch.channels_last)
    for tensor in (values, torch.tensor(3), torch.empty(0), values.to(torch.uint8), values.half()):
        ours, theirs = (
            pack_tensors({"t": tensor})["t"],
            Array(tensor.numpy().copy(order="C").reshape(tuple(tensor.shape))),
        )
        assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
            theirs.dtype,
            theirs.shape,
            theirs.stype,
            theirs.data,
        )


def test_arrays_that_others_packed_are_read_in_any_order():
    from flwr.app import Array, ArrayRecord

    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert unpack_tensors(ArrayRecord({"t": Array(values)}))["t"].tolist() == values.tolist()
