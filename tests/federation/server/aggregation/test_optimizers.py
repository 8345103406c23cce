"""The server's steps worked out by hand over two rounds, and against their obvious form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from tardis_fl.config.federation import AggregationConfig
from tardis_fl.federation.server.aggregation.optimizers import SLOTS, ServerOptimizer
from tests.federation.server.aggregation.test_aggregation import assert_same_bits
from tests.reference.aggregation import server_steps

every_optimizer = pytest.mark.parametrize("optimizer", SLOTS)
MASKS = {"0.float32": torch.tensor([True, True, False]), "1.float32": torch.tensor([True])}


def optimizer_of(optimizer, masks=MASKS, **values):
    return ServerOptimizer(AggregationConfig(optimizer=optimizer, **values), masks)


def flat(*values, steps=9):
    return {
        "0.float32": torch.tensor([float(value) for value in values]),
        "0.int64": torch.tensor([steps]),
    }


def random_weights(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "0.float32": torch.randn(3, generator=generator) * scale,
        "0.int64": torch.tensor([seed]),
        "1.float32": torch.randn(1, generator=generator),
    }


def test_fedavg_by_hand():
    server = optimizer_of("fedavg", learning_rate=0.5)
    # half of the way at the two parameters; the third is a buffer
    first = server.step(flat(1, 2, 3), flat(3, -2, 30, steps=4))
    assert {key: tensor.tolist() for key, tensor in first.items()} == {
        "0.float32": [2.0, 0.0, 30.0],
        "0.int64": [4],
    }
    assert server.step(first, flat(4, 8, 31))["0.float32"].tolist() == [3.0, 4.0, 31.0]


def test_fedavgm_by_hand():
    server = optimizer_of("fedavgm", learning_rate=2.0, momentum=0.5)
    # Delta = m = (1, -2); w = (1, 2) + 2 m
    first = server.step(flat(1, 2, 3), flat(2, 0, 30))
    assert first["0.float32"].tolist() == [3.0, -2.0, 30.0]
    # Delta = (1, 1); m = (0.5, -1) + Delta = (1.5, 0); w = (3, -2) + 2 m
    assert server.step(first, flat(4, -1, 31))["0.float32"].tolist() == [6.0, -2.0, 31.0]


def test_fedadam_by_hand():
    server = optimizer_of("fedadam", learning_rate=12.0, momentum=0.5, beta2=0.5, tau=1.0)
    # Delta = (7, 1); m = (3.5, 0.5); v = (1 + (49, 1)) / 2 = (25, 1); steps 12 * 3.5 / (5 + 1) = 7
    # and 12 * 0.5 / (1 + 1) = 3
    first = server.step(flat(10, 20, 3), flat(17, 21, 30))
    assert first["0.float32"].tolist() == [17.0, 23.0, 30.0]
    # Delta = (5, -7); m = (1.75 + 2.5, 0.25 - 3.5); v = (12.5 + 12.5, 0.5 + 24.5); steps 12 * 4.25
    # / 6 = 8.5 and 12 * -3.25 / 6 = -6.5
    assert server.step(first, flat(22, 16, 31))["0.float32"].tolist() == [25.5, 16.5, 31.0]


def test_fedyogi_by_hand():
    server = optimizer_of("fedyogi", learning_rate=132.0, momentum=0.5, beta2=0.75, tau=20.0)
    # Delta = (30, 0); m = (15, 0); v starts at 400 < 900, so 400 + 900 / 4 = 625, and 400; steps
    # 132 * 15 / (25 + 20) = 44 and 0
    first = server.step(flat(1, 2, 3), flat(31, 2, 30))
    assert first["0.float32"].tolist() == [45.0, 2.0, 30.0]
    # Delta = (14, 30); m = (7.5 + 7, 15); v = 625 - 196 / 4 = 576 as 196 < 625, and 400 + 900 / 4 =
    # 625;
    # steps 132 * 14.5 / (24 + 20) = 43.5 and 132 * 15 / (25 + 20) = 44
    assert server.step(first, flat(59, 32, 31))["0.float32"].tolist() == [88.5, 46.0, 31.0]


@every_optimizer
@given(
    start=st.floats(-10, 10, width=32),
    targets=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6),
    learning_rate=st.floats(0.01, 2),
    momentum=st.floats(0, 0.95),
    beta2=st.floats(0, 0.999),
    tau=st.floats(1e-2, 1),
)
def test_agrees_with_the_obvious_form(
    optimizer, start, targets, learning_rate, momentum, beta2, tau
):
    values = {"learning_rate": learning_rate, "momentum": momentum, "beta2": beta2, "tau": tau}
    server = optimizer_of(optimizer, {"w": torch.tensor([True])}, **values)
    weights = {"w": torch.tensor([start], dtype=torch.float64)}
    for target, wanted in zip(
        targets, server_steps(optimizer, start, targets, **values), strict=True
    ):
        weights = server.step(weights, {"w": torch.tensor([target], dtype=torch.float64)})
        assert weights["w"].item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_fedavg_takes_the_average_bit_for_bit(seed, scale):
    target = random_weights(seed) | {"0.float32": torch.tensor([-0.0, 1e-30, 1.0])}
    assert_same_bits(optimizer_of("fedavg").step(random_weights(seed + 1, scale), target), target)


@every_optimizer
@pytest.mark.parametrize("learning_rate", [0.5, 1.0])
def test_buffers_integers_and_types_are_the_targets(optimizer, learning_rate):
    masks = {"0.float32": torch.tensor([True, False]), "0.bfloat16": torch.tensor([True, False])}
    current = {
        "0.float32": torch.tensor([1.0, 2.0]),
        "0.bfloat16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "0.int64": torch.tensor([3]),
    }
    target = {
        "0.float32": torch.tensor([1.5, 1e30]),
        "0.bfloat16": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "0.int64": torch.tensor([2**60 + 1]),
    }
    server = optimizer_of(optimizer, masks, learning_rate=learning_rate)
    for _ in range(2):
        stepped = server.step(current, target)
        assert {key: tensor.dtype for key, tensor in stepped.items()} == {
            key: tensor.dtype for key, tensor in target.items()
        }
        assert (
            stepped["0.float32"][1] == target["0.float32"][1]
            and stepped["0.int64"].item() == 2**60 + 1
        )
        assert torch.signbit(stepped["0.bfloat16"][1])
        assert (stepped["0.float32"][0] > 1) and (stepped["0.bfloat16"][0] > 1)
        current = stepped


@every_optimizer
def test_what_nobody_sent_is_left_out_and_keeps_its_memory(optimizer):
    server, unaware = (
        optimizer_of(optimizer, learning_rate=0.5),
        optimizer_of(optimizer, learning_rate=0.5),
    )
    deep = [{"1.float32": torch.tensor([value])} for value in (1.0, 3.0, 2.0, 5.0)]
    first = server.step(random_weights(1) | deep[0], random_weights(2) | deep[1])
    assert_same_bits({"1.float32": first["1.float32"]}, unaware.step(deep[0], deep[1]))
    shallow = {key: tensor for key, tensor in random_weights(3).items() if key != "1.float32"}
    assert server.step(first, shallow).keys() == shallow.keys()
    assert_same_bits(server.step(deep[2], deep[3]), unaware.step(deep[2], deep[3]))


@every_optimizer
def test_a_step_changes_neither_of_its_arguments(optimizer):
    server, current, target = (
        optimizer_of(optimizer, learning_rate=0.3),
        random_weights(1),
        random_weights(2),
    )
    for _ in range(2):
        server.step(current, target)
    assert_same_bits(current, random_weights(1))
    assert_same_bits(target, random_weights(2))


@every_optimizer
@given(seed=st.integers(0, 1000), cut=st.integers(0, 4))
def test_restored_and_continued_is_uninterrupted(optimizer, seed, cut):
    whole, resumed = (optimizer_of(optimizer, learning_rate=0.1) for _ in range(2))
    uninterrupted = interrupted = random_weights(seed)
    checkpoint = kept = None
    for number in range(4):
        if number == cut:
            kept = resumed.state()
            checkpoint = save(kept)
            resumed.step(random_weights(5), random_weights(6))  # after the checkpoint, and lost
            resumed = optimizer_of(optimizer, learning_rate=0.1)
            resumed.step(random_weights(7), random_weights(8))  # what restoring must do away with
            resumed.restore(load(checkpoint))
        target = random_weights(seed + number + 1)
        uninterrupted, interrupted = (
            whole.step(uninterrupted, target),
            resumed.step(interrupted, target),
        )
    assert_same_bits(interrupted, uninterrupted)
    assert_same_bits(resumed.state(), whole.state())
    assert kept is None or save(kept) == checkpoint  # a state is of its moment


@pytest.mark.parametrize(
    ("optimizer", "momentum", "squares"),
    [("fedadam", [3.5, 0.5, 0.0], [25.0, 1.0, 0.5]), ("fedavgm", [7.0, 1.0, 0.0], None)],
)
def test_state_by_hand(optimizer, momentum, squares):
    server = optimizer_of(optimizer, momentum=0.5, beta2=0.5, tau=1.0)
    assert server.state() == {}
    server.step(flat(10, 20, 3), flat(17, 21, 30))
    wanted = {"momentum.0.float32": momentum} | ({"squares.0.float32": squares} if squares else {})
    assert {name: tensor.tolist() for name, tensor in server.state().items()} == wanted
    assert all(tensor.dtype == torch.float64 for tensor in server.state().values())


def test_states_of_something_else_are_refused():
    server = optimizer_of("fedadam")
    with pytest.raises(
        ValueError,
        match=r"the state is not one of fedadam \(on one side only: squares\.0\.float32\)",
    ):
        server.restore({"momentum.0.float32": torch.zeros(3)})
    with pytest.raises(
        ValueError,
        match=r"the state is not one of fedavg \(on one side only: momentum\.0\.float32\)",
    ):
        optimizer_of("fedavg").restore({"momentum.0.float32": torch.zeros(3)})
    with pytest.raises(
        ValueError,
        match=r"the state's momentum\.0\.float32 \(2,\) is of other weights, wanted \(3,\)",
    ):
        optimizer_of("fedavgm").restore({"momentum.0.float32": torch.zeros(2)})
    with pytest.raises(
        ValueError,
        match=r"the state's momentum\.5\.float32 \(2,\) is of other weights, wanted None",
    ):
        optimizer_of("fedavgm").restore({"momentum.5.float32": torch.zeros(2)})
