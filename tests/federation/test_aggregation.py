"""Averages worked out by hand, and the streaming mean against the obvious one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.federation.aggregation import WeightedMean
from tests.reference.federation import weighted_mean


def mean_of(updates):
    total = WeightedMean()
    for state, num_samples in updates:
        total.add(state, num_samples)
    return total.mean()


def test_two_clients_by_hand():
    mean = mean_of([
        ({"w": torch.tensor([1.0, 2.0]), "running_mean": torch.tensor([0.0]), "num_batches_tracked": torch.tensor(3)}, 1),
        ({"w": torch.tensor([5.0, 10.0]), "running_mean": torch.tensor([4.0]), "num_batches_tracked": torch.tensor(9)}, 3),
    ])  # fmt: skip
    assert mean["w"].tolist() == [4.0, 8.0]
    assert mean["running_mean"].tolist() == [3.0]
    assert mean["num_batches_tracked"].item() == 9
    assert {name: tensor.dtype for name, tensor in mean.items()} == {"w": torch.float32, "running_mean": torch.float32, "num_batches_tracked": torch.int64}


@given(seed=st.integers(0, 1000), weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_streaming_equals_the_obvious_mean(seed, weights):
    generator = torch.Generator().manual_seed(seed)
    states = [{"w": torch.randn(3, 2, generator=generator), "n": torch.randint(0, 9, (), generator=generator)} for _ in weights]
    fast, slow = mean_of(zip(states, weights, strict=True)), weighted_mean(states, weights)
    torch.testing.assert_close(fast["w"], slow["w"])
    assert fast["n"] == slow["n"]


@given(seed=st.integers(0, 1000), num_samples=st.integers(1, 2**24))
def test_one_client_gives_back_its_own_weights_bit_for_bit(seed, num_samples):
    state = {
        "w": torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 10 ** torch.randint(-6, 6, (50,), generator=torch.Generator().manual_seed(seed))
    }
    assert torch.equal(mean_of([(state, num_samples)])["w"], state["w"])


def test_updates_that_do_not_fit_are_refused():
    total = WeightedMean()
    total.add({"w": torch.zeros(2)}, 1)
    with pytest.raises(ValueError, match="other tensors"):
        total.add({"v": torch.zeros(2)}, 1)
    with pytest.raises(ValueError, match=r"w has the shape \(3,\), the first update's has \(2,\)"):
        total.add({"w": torch.zeros(3)}, 1)
    with pytest.raises(ValueError, match="at least one sample"):
        total.add({"w": torch.zeros(2)}, 0)
    with pytest.raises(ValueError, match="no update"):
        WeightedMean().mean()
