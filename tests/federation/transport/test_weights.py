"""Flat weights: what arrives is what was sent, or a message that says what doesn't fit."""

from __future__ import annotations

import pytest
import torch

from tardis_fl.early_exit.backbones import build_network
from tardis_fl.federation.transport.messages import pack_tensors, unpack_tensors
from tardis_fl.federation.transport.weights import HeldWeights


def build(seed):
    return build_network("small_resnet", num_classes=10, width=4, exit_hidden=4, seed=seed).eval()


def held(seed, depth=2):
    return HeldWeights(list(build(seed))[:depth])


def test_weights_arrive_bit_for_bit_as_one_array_for_each_body_or_exit_and_type():
    sent = held(1).flatten()
    assert set(sent) == {
        f"{number}.{part}.{dtype}"
        for number in (0, 1)
        for part in ("body", "exit")
        for dtype in ("float32", "int64")
    } - {"1.exit.int64"}
    arrived = unpack_tensors(pack_tensors(sent))
    assert all(
        torch.equal(arrived[key], sent[key]) and arrived[key].dtype == sent[key].dtype
        for key in sent
    )


def test_loaded_segments_compute_what_the_sent_ones_do():
    sender, receiver = build(1), build(2)
    HeldWeights(list(receiver)).load(HeldWeights(list(sender)).flatten())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(sender(x), receiver(x))


def test_keys_follow_depth_and_the_exits_that_are_trained():
    weights = held(1, 3)
    assert {key.split(".")[0] for key in weights.keys(1)} == {"0"}
    assert {tuple(key.split(".")[:2]) for key in weights.keys(3, exits="last")} == {
        ("0", "body"),
        ("1", "body"),
        ("2", "body"),
        ("2", "exit"),
    }
    assert set(weights.keys(3)) == set(weights.flatten())


def test_masks_tell_parameters_from_buffers():
    segments = list(build(1))[:1]
    weights = HeldWeights(segments)
    num_parameters = sum(parameter.numel() for parameter in segments[0].parameters())
    assert sum(int(mask.sum()) for mask in weights.parameters.values()) == num_parameters
    num_buffers = sum(
        buffer.numel() for buffer in segments[0].buffers() if buffer.is_floating_point()
    )
    assert sum(int((~mask).sum()) for mask in weights.parameters.values()) == num_buffers > 0


def test_norm_layers_travel_by_themselves():
    sender, receiver = build(1), build(2)
    for module in sender.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
    before = receiver.state_dict()["segments.0.body.0.0.weight"].clone()
    theirs, ours = HeldWeights(list(sender)), HeldWeights(list(receiver))
    ours.load_norms(theirs.flatten_norms(theirs.keys(1)))
    state = receiver.state_dict()
    first = [
        name for name in state if name.startswith("segments.0.") and name.endswith("running_mean")
    ]
    deeper = [
        name
        for name in state
        if not name.startswith("segments.0.") and name.endswith("running_mean")
    ]
    assert first
    assert all((state[name] == 3.0).all() for name in first)
    assert not any((state[name] == 3.0).any() for name in deeper)
    assert torch.equal(state["segments.0.body.0.0.weight"], before)


def test_what_does_not_fit_is_named():
    weights = held(1)
    keys, good = weights.keys(2), held(2).flatten()
    weights.check(good, keys)
    with pytest.raises(
        ValueError,
        match=r"other segments than it was asked for \(on one side only: 1.exit.float32\)",
    ):
        weights.check(
            {key: values for key, values in good.items() if key != "1.exit.float32"}, keys
        )
    count = len(good["1.body.float32"])
    with pytest.raises(
        ValueError,
        match=rf"sent 1.body.float32 as \({count - 1},\) torch.float32, wanted \({count},\) torch.float32",
    ):
        weights.check(good | {"1.body.float32": good["1.body.float32"][:-1]}, keys)
    with pytest.raises(ValueError, match=r"torch.float64, wanted"):
        weights.check(good | {"1.body.float32": good["1.body.float32"].double()}, keys)
    broken = good["0.exit.float32"].clone()
    broken[-1] = float("inf")
    with pytest.raises(ValueError, match=r"weights that are not finite \(0.exit\..*bias\)"):
        weights.check(good | {"0.exit.float32": broken}, keys)
