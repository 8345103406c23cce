"""Weights, features and counts on their way: what arrives is what was sent, or a message that says what doesn't fit."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord

from tardis_fl.early_exit.backbones import build_network
from tardis_fl.federation.messages import Counts, load_weights, pack_tensors, pack_weights, read_weights, segments_state, unflatten


def state_of(seed):
    return segments_state(list(build_network("small_resnet", num_classes=10, width=4, exit_hidden=4, seed=seed))[:2])


def test_weights_arrive_bit_for_bit_as_one_array_a_segment_and_type():
    sent = state_of(1)
    record = pack_weights(sent)
    assert set(record) == {"0.float32", "0.int64", "1.float32", "1.int64"}
    arrived = unflatten(read_weights(record, like=state_of(2)), like=state_of(2))
    assert arrived.keys() == sent.keys()
    assert all(torch.equal(arrived[name], sent[name]) and arrived[name].dtype == sent[name].dtype for name in sent)


def test_loaded_segments_compute_what_the_sent_ones_do():
    sender, receiver = (build_network("small_resnet", num_classes=10, width=4, exit_hidden=4, seed=seed).eval() for seed in (1, 2))
    live = segments_state(list(receiver))
    load_weights(read_weights(pack_weights(segments_state(list(sender))), live), into=live)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(sender(x), receiver(x))


def test_what_does_not_fit_is_named():
    like = {"0.w": torch.zeros(2, 3), "0.n": torch.tensor(0), "1.w": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"other segments than it was asked for \(on one side only: 1.float32\)"):
        read_weights(pack_weights({"0.w": torch.zeros(2, 3), "0.n": torch.tensor(0)}), like)
    with pytest.raises(ValueError, match=r"sent 1.float32 as \(5,\) torch.float32, wanted \(4,\) torch.float32"):
        read_weights(pack_weights(like | {"1.w": torch.zeros(5)}), like)
    with pytest.raises(ValueError, match=r"not finite \(1.w\)"):
        read_weights(pack_weights(like | {"1.w": torch.tensor([0, 1, float("inf"), 2])}), like)
    wrong_type = ArrayRecord({**pack_weights(like), **pack_tensors({"0.int64": torch.zeros(1)})})
    with pytest.raises(ValueError, match=r"sent 0.int64 as \(1,\) torch.float32, wanted \(1,\) torch.int64"):
        read_weights(wrong_type, like)


def test_counts_add_up_and_survive_a_record():
    one, two = Counts(3, 1.5, (1, 2)), Counts(5, 0.5, (4, 0))
    assert one + two == two + one == Counts(8, 2.0, (5, 2))
    assert one + Counts() == one
    assert Counts.from_record((one + two).to_record()) == Counts(8, 2.0, (5, 2))
