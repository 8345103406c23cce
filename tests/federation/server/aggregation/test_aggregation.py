"""Every rule worked out by hand, against its obvious form, and with a client that sends garbage."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from tardis_fl.config.federation import AggregationConfig
from tardis_fl.federation.server.aggregation import robust
from tardis_fl.federation.server.aggregation import weighted_mean as streaming
from tardis_fl.federation.server.aggregation.robust import (
    Median,
    TrimmedMean,
    clip_update,
    num_trimmed,
    parameters_norm,
    update_norm,
)
from tardis_fl.federation.server.aggregation.weighted_mean import WeightedMean, build_aggregator
from tests.reference import aggregation as slow
from tests.reference.federation import weighted_mean

RULES = {"mean": WeightedMean, "trimmed_mean": lambda: TrimmedMean(0.2), "median": Median}
every_rule = pytest.mark.parametrize("rule", RULES)
weights_of_updates = st.lists(st.integers(1, 10_000) | st.floats(1e-3, 1e4), min_size=1, max_size=9)


def result_of(aggregator, updates):
    for update, num_samples in updates:
        aggregator.add(update, num_samples)
    assert aggregator.num_updates == len(updates)
    return aggregator.result()


def uneven_updates(seed, weights):
    """Updates whose holders of deeper segments are fewer; with ties between clients, as values are few."""
    generator = torch.Generator().manual_seed(seed)
    updates = []
    for weight in weights:
        depth = int(torch.randint(1, 4, (), generator=generator))
        update = {
            f"{segment}.float32": torch.randint(-5, 6, (7,), generator=generator) * 0.1
            for segment in range(depth)
        }
        updates.append(
            (
                update
                | {
                    f"{segment}.int64": torch.randint(-9, 9, (2,), generator=generator)
                    for segment in range(depth)
                },
                weight,
            )
        )
    return updates


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for key in expected:
        assert actual[key].dtype == expected[key].dtype and actual[key].shape == expected[key].shape
        assert torch.equal(
            actual[key].reshape(-1).view(torch.uint8), expected[key].reshape(-1).view(torch.uint8)
        ), key


# all rules


@every_rule
def test_one_update_comes_back_with_its_types(rule):
    update = {
        "w": torch.tensor([[1.5, -2.0], [0.1, 1e-8]]),
        "h": torch.tensor([0.5], dtype=torch.bfloat16),
        "n": torch.tensor(-3),
    }
    assert_same_bits(result_of(RULES[rule](), [(update, 7)]), update)


@every_rule
def test_updates_that_do_not_fit_are_refused_and_leave_no_trace(rule):
    total = RULES[rule]()
    with pytest.raises(ValueError, match="there is no update to average"):
        total.result()
    total.add({"v": torch.ones(2), "w": torch.zeros(2)}, 1)
    with pytest.raises(ValueError, match=r"w has the shape \(3,\), the first update's has \(2,\)"):
        total.add({"v": torch.zeros(2), "w": torch.zeros(3)}, 1)
    with pytest.raises(
        ValueError, match=r"w is torch\.float64, the first update's is torch\.float32"
    ):
        total.add({"v": torch.zeros(2), "w": torch.zeros(2, dtype=torch.float64)}, 1)
    for weight in (0, -1.0, math.nan, math.inf):
        with pytest.raises(
            ValueError, match=f"the weight of an update must be positive and finite, got {weight}"
        ):
            total.add({"v": torch.zeros(2)}, weight)
    assert total.num_updates == 1
    assert total.result()["v"].tolist() == [1.0, 1.0]


@every_rule
@given(seed=st.integers(0, 1000), weights=weights_of_updates)
def test_agrees_with_the_obvious_form(rule, seed, weights):
    obvious = {
        "mean": slow.weighted_mean,
        "trimmed_mean": slow.trimmed_mean(0.2),
        "median": slow.median,
    }[rule]
    updates = uneven_updates(seed, weights)
    actual, expected = result_of(RULES[rule](), updates), slow.aggregate(updates, obvious)
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(
            actual[key], expected[key], rtol=2e-7, atol=1e-12 if rule == "mean" else 1e-9
        )


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@given(seed=st.integers(0, 1000), weights=weights_of_updates, data=st.data())
def test_the_order_of_updates_does_not_matter(rule, seed, weights, data):
    updates = uneven_updates(seed, weights)
    one, other = (
        result_of(RULES[rule](), updates),
        result_of(RULES[rule](), data.draw(st.permutations(updates))),
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@every_rule
@given(seed=st.integers(0, 1000), n=st.integers(1, 12))
def test_equal_updates_give_that_update(rule, seed, n):
    update = {
        "w": torch.randn(20, generator=torch.Generator().manual_seed(seed)),
        "n": torch.tensor([4]),
    }
    actual = result_of(RULES[rule](), [(update, 3)] * n)
    assert all(torch.equal(actual[key], update[key]) for key in update)


@every_rule
@given(seed=st.integers(0, 1000), weights=weights_of_updates)
def test_stays_between_the_smallest_and_the_largest(rule, seed, weights):
    updates = uneven_updates(seed, weights)
    for key, tensor in result_of(RULES[rule](), updates).items():
        held = torch.stack([update[key] for update, _ in updates if key in update])
        assert (held.amin(0) <= tensor).all() and (tensor <= held.amax(0)).all()


@every_rule
def test_results_are_nobodys_tensors(rule):
    update, total = {"w": torch.ones(2), "n": torch.ones(1, dtype=torch.int64)}, RULES[rule]()
    for tensor in result_of(total, [(update, 1)]).values():
        tensor.fill_(7)
    assert update["w"].tolist() == [1.0, 1.0] and update["n"].tolist() == [1]
    assert total.result()["w"].tolist() == [1.0, 1.0] and total.result()["n"].tolist() == [1]
    total.add({"w": torch.full((2,), 2.0), "n": torch.full((1,), 9)}, 1)
    assert update["w"].tolist() == [1.0, 1.0] and update["n"].tolist() == [1]


def test_the_configured_rule_is_built():
    assert isinstance(build_aggregator(AggregationConfig()), WeightedMean)
    assert isinstance(
        build_aggregator(AggregationConfig(rule="norm_clipping", clip_norm=1.0)), WeightedMean
    )
    assert isinstance(build_aggregator(AggregationConfig(rule="median")), Median)
    updates = [({"w": torch.tensor([value])}, 1) for value in (0.0, 1.0, 2.0, 4.0, 100.0)]
    # 0.4 of 5 is 2 at each end, which leaves the middle one; 0.2 is 1: (1 + 2 + 4) / 3
    assert (
        result_of(
            build_aggregator(AggregationConfig(rule="trimmed_mean", trim_fraction=0.4)), updates
        )["w"].item()
        == 2.0
    )
    assert result_of(
        build_aggregator(AggregationConfig(rule="trimmed_mean", trim_fraction=0.2)), updates
    )["w"].item() == pytest.approx(7 / 3)


def test_one_of_ten_sends_garbage():
    generator = torch.Generator().manual_seed(5)
    start, step = torch.randn(100, generator=generator), torch.randn(100, generator=generator) * 0.1
    honest = [
        {"0.float32": start + step + 0.01 * torch.randn(100, generator=generator)} for _ in range(9)
    ]
    noise = torch.randn(100, generator=generator)
    updates = [*honest, {"0.float32": start + 1000 * noise / noise.norm()}]
    honest_mean = torch.stack([update["0.float32"] for update in honest]).mean(0)
    reference, masks = {"0.float32": start}, {"0.float32": torch.ones(100, dtype=torch.bool)}

    def distance(aggregator, updates):
        return (
            (result_of(aggregator, [(update, 1) for update in updates])["0.float32"] - honest_mean)
            .norm()
            .item()
        )

    clipped, norms = zip(
        *(clip_update(update, reference, masks, 1.2) for update in updates), strict=True
    )
    assert max(norms[:9]) < 1.2 and norms[9] == pytest.approx(1000)
    assert distance(WeightedMean(), updates) > 95  # about 1000 / 10
    assert (
        distance(TrimmedMean(0.1), updates) < 0.05
    )  # the honest updates are about 0.1 from their mean
    assert distance(Median(), updates) < 0.1
    assert (
        distance(WeightedMean(), clipped) < 0.25
    )  # at most (1.2 + the length of the honest step) / 10


# the weighted mean


def test_mean_of_two_clients_by_hand():
    mean = result_of(
        WeightedMean(),
        [
            (
                {
                    "w": torch.tensor([1.0, 2.0]),
                    "running_mean": torch.tensor([0.0]),
                    "num_batches_tracked": torch.tensor(3),
                },
                1,
            ),
            (
                {
                    "w": torch.tensor([5.0, 10.0]),
                    "running_mean": torch.tensor([4.0]),
                    "num_batches_tracked": torch.tensor(9),
                },
                3,
            ),
        ],
    )
    assert mean["w"].tolist() == [4.0, 8.0]
    assert mean["running_mean"].tolist() == [3.0]
    assert mean["num_batches_tracked"].item() == 9
    assert {name: tensor.dtype for name, tensor in mean.items()} == {
        "w": torch.float32,
        "running_mean": torch.float32,
        "num_batches_tracked": torch.int64,
    }


def test_mean_over_the_holders_of_each_segment_by_hand():
    shallow_and_deep = {
        "0.float32": torch.tensor([1.0, 2.0]),
        "0.int64": torch.tensor([5]),
        "1.float32": torch.tensor([10.0]),
    }
    shallow = {"0.float32": torch.tensor([5.0, 10.0]), "0.int64": torch.tensor([4])}
    for updates in ([(shallow_and_deep, 1), (shallow, 3)], [(shallow, 3), (shallow_and_deep, 1)]):
        mean = result_of(WeightedMean(), updates)
        assert {key: tensor.tolist() for key, tensor in mean.items()} == {
            "0.float32": [4.0, 8.0],
            "0.int64": [5],
            "1.float32": [10.0],
        }


def test_a_late_update_counts_less():
    # 2 samples at half their weight beside 3: (1 * 4 + 3 * 8) / 4
    assert result_of(
        WeightedMean(), [({"w": torch.tensor([4.0])}, 2 * 0.5), ({"w": torch.tensor([8.0])}, 3)]
    )["w"].tolist() == [7.0]


@given(seed=st.integers(0, 1000), weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_streaming_equals_the_obvious_mean_bit_for_bit(seed, weights):
    generator = torch.Generator().manual_seed(seed)
    states = [
        {
            "w": torch.randn(3, 2, generator=generator),
            "n": torch.randint(0, 9, (), generator=generator),
        }
        for _ in weights
    ]
    assert_same_bits(
        result_of(WeightedMean(), list(zip(states, weights, strict=True))),
        weighted_mean(states, weights),
    )


@given(seed=st.integers(0, 1000), num_samples=st.integers(1, 2**24) | st.floats(1e-6, 1e6))
def test_one_client_gives_back_its_own_weights_bit_for_bit(seed, num_samples):
    generator = torch.Generator().manual_seed(seed)
    state = {
        "w": torch.randn(50, generator=generator)
        * 10.0 ** torch.randint(-6, 6, (50,), generator=generator),
        "zeros": torch.tensor([0.0, -0.0]),
    }
    assert_same_bits(result_of(WeightedMean(), [(state, num_samples)]), state)


@given(seed=st.integers(0, 1000), weights=weights_of_updates, cut=st.integers(0, 9))
def test_restored_and_continued_is_uninterrupted(seed, weights, cut):
    updates = uneven_updates(seed, weights)
    whole, begun, resumed = WeightedMean(), WeightedMean(), WeightedMean()
    for update, weight in updates:
        whole.add(update, weight)
    for update, weight in updates[:cut]:
        begun.add(update, weight)
    kept = begun.state()
    checkpoint = save(kept)
    resumed.add({"0.float32": torch.ones(1)}, 1)  # what restoring must do away with
    resumed.restore(kept)
    for update, weight in updates[cut:]:
        resumed.add(update, weight)
        begun.add(update, weight)
    for total in (resumed, begun):
        assert_same_bits(total.result(), whole.result())
        assert_same_bits(total.state(), whole.state())
    assert save(kept) == checkpoint  # going on, restored or not, has not changed it
    resumed.restore(load(checkpoint))
    assert save(resumed.state()) == checkpoint


def test_state_by_hand():
    total = WeightedMean()
    total.add({"0.float32": torch.tensor([1.0, 2.0]), "0.int64": torch.tensor([5])}, 3)
    total.add({"0.float32": torch.tensor([1.0, 2.0])}, 0.5)
    state = total.state()
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "num_updates": 2,
        "sum.float32.0.float32": [3.5, 7.0],
        "weight.0.float32": 3.5,
        "maximum.int64.0.int64": [5],
        "weight.0.int64": 3.0,
    }
    assert state["sum.float32.0.float32"].dtype == state["weight.0.float32"].dtype == torch.float64
    assert state["num_updates"].dtype == torch.int64 and state["num_updates"].shape == ()


def test_states_of_something_else_are_refused():
    total = WeightedMean()
    total.add({"w": torch.ones(1)}, 1)
    with pytest.raises(
        ValueError, match=r"momentum\.0\.float32 is not part of a weighted mean's state"
    ):
        total.restore({"momentum.0.float32": torch.zeros(1)})
    for missing in total.state():
        with pytest.raises(ValueError, match="a weighted mean's state is incomplete"):
            total.restore(
                {name: tensor for name, tensor in total.state().items() if name != missing}
            )
    assert total.result()["w"].tolist() == [1.0]


# trimmed mean and median


def columns(*clients):
    return [({"w": torch.tensor(values)}, number + 1) for number, values in enumerate(clients)]


def test_trimmed_mean_by_hand():
    updates = columns([1.0, 9.0], [2.0, 7.0], [3.0, -50.0], [7.0, 8.0], [100.0, 6.0])
    # 0.25 of 5 is 1.25, so 1 at each end: (2 + 3 + 7) / 3 and (6 + 7 + 8) / 3, whatever the weights
    assert result_of(TrimmedMean(0.25), updates)["w"].tolist() == [4.0, 7.0]
    # 0.1 of 3 is under 1, but one at each end goes
    assert result_of(TrimmedMean(0.1), updates[:3])["w"].tolist() == [2.0, 7.0]
    # of two none can go, and 0 leaves all
    assert result_of(TrimmedMean(0.4), updates[:2])["w"].tolist() == [1.5, 8.0]
    assert result_of(TrimmedMean(0.0), updates[:3])["w"].tolist() == [2.0, pytest.approx(-34 / 3)]


@pytest.mark.parametrize(
    ("n", "fraction", "cut"),
    [
        (1, 0.4, 0),
        (2, 0.49, 0),
        (3, 0.01, 1),
        (3, 0.4, 1),
        (4, 0.49, 1),
        (5, 0.4, 2),
        (10, 0.1, 1),
        (10, 0.3, 3),
        (19, 0.1, 1),
        (20, 0.1, 2),
        (100, 0.29, 29),
        (100, 0.299, 29),
        (10, 0.49999999999999994, 4),
        (9, 0.0, 0),
    ],
)
def test_how_many_are_trimmed(n, fraction, cut):
    assert num_trimmed(n, fraction) == cut


@pytest.mark.parametrize("fraction", [-0.1, 0.5, math.nan])
def test_trimming_everything_is_refused(fraction):
    with pytest.raises(
        ValueError, match=f"trim_fraction must be at least 0 and under 0.5, got {fraction}"
    ):
        TrimmedMean(fraction)


def test_median_by_hand():
    updates = columns([1.0, 9.0], [2.0, 7.0], [4.0, -50.0], [100.0, 8.0])
    assert result_of(Median(), updates[:3])["w"].tolist() == [2.0, 7.0]
    assert result_of(Median(), updates)["w"].tolist() == [3.0, 7.5]


def test_trimmed_mean_and_median_over_the_holders_of_each_segment_by_hand():
    updates = [
        ({"0.float32": torch.tensor([value]), "0.int64": torch.tensor([number])}, 1)
        for number, value in enumerate((1.0, 2.0, 30.0))
    ]
    updates[0][0]["1.float32"], updates[2][0]["1.float32"] = (
        torch.tensor([10.0]),
        torch.tensor([20.0]),
    )
    for aggregator in (TrimmedMean(0.4), Median()):
        aggregated = result_of(aggregator, updates)
        assert {key: tensor.tolist() for key, tensor in aggregated.items()} == {
            "0.float32": [2.0],
            "0.int64": [2],
            "1.float32": [15.0],
        }


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@pytest.mark.parametrize("chunk_values", [1, 12, 35, 10**6])
def test_chunks_do_not_show(rule, chunk_values, monkeypatch):
    monkeypatch.setattr(robust, "CHUNK_VALUES", chunk_values)
    updates = uneven_updates(1, [1] * 5)
    obvious = {"trimmed_mean": slow.trimmed_mean(0.2), "median": slow.median}[rule]
    for key, expected in slow.aggregate(updates, obvious).items():
        torch.testing.assert_close(
            result_of(RULES[rule](), updates)[key], expected, rtol=2e-7, atol=1e-9
        )


@pytest.mark.parametrize("chunk_values", [1, 3, 4])
def test_a_mean_in_chunks_is_the_mean_bit_for_bit(chunk_values, monkeypatch):
    updates = uneven_updates(1, [2, 3, 5])
    whole = result_of(WeightedMean(), updates)
    monkeypatch.setattr(streaming, "CHUNK_VALUES", chunk_values)
    for key, values in result_of(WeightedMean(), updates).items():
        assert torch.equal(values, whole[key])


# clipping

REFERENCE = {
    "0.float32": torch.tensor([1.0, 1.0, 5.0]),
    "0.int64": torch.tensor([2]),
    "1.float32": torch.tensor([0.0, 7.0]),
    "2.float32": torch.tensor([8.0]),
}
MASKS = {
    "0.float32": torch.tensor([True, True, False]),
    "1.float32": torch.tensor([True, False]),
    "2.float32": torch.tensor([True]),
}
UPDATE = {
    "0.float32": torch.tensor([3.0, 4.0, 50.0]),
    "0.int64": torch.tensor([900]),
    "1.float32": torch.tensor([6.0, 70.0]),
}


def test_norms_by_hand():
    # changes (2, 3) and 6 of the parameters: the root of 4 + 9 + 36
    assert update_norm(UPDATE, REFERENCE, MASKS) == 7.0
    # without what the update doesn't hold: the root of 1 + 1 + 0
    assert parameters_norm(REFERENCE, MASKS, UPDATE) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert parameters_norm(REFERENCE, MASKS, ["2.float32", "0.int64"]) == 8.0
    assert update_norm({}, REFERENCE, MASKS) == parameters_norm(REFERENCE, MASKS, []) == 0.0
    ones_and_zeros = {key: mask.float() for key, mask in MASKS.items()}
    assert update_norm(UPDATE, REFERENCE, ones_and_zeros) == 7.0
    assert (
        update_norm(
            {**UPDATE, "0.float32": torch.tensor([3.0, 4.0, math.inf])}, REFERENCE, ones_and_zeros
        )
        == 7.0
    )


def test_clipping_by_hand():
    clipped, norm = clip_update(UPDATE, REFERENCE, MASKS, 3.5)
    assert norm == 7.0
    # half of each change of a parameter; buffers and integers as they came
    assert {key: tensor.tolist() for key, tensor in clipped.items()} == {
        "0.float32": [2.0, 2.5, 50.0],
        "0.int64": [900],
        "1.float32": [3.0, 70.0],
    }
    assert {key: tensor.dtype for key, tensor in clipped.items()} == {
        key: tensor.dtype for key, tensor in UPDATE.items()
    }
    assert UPDATE["0.float32"].tolist() == [3.0, 4.0, 50.0]


@given(seed=st.integers(0, 1000), max_norm=st.floats(0.1, 10))
def test_clipping_agrees_with_the_obvious_form(seed, max_norm):
    generator = torch.Generator().manual_seed(seed)
    new, old, mask = (
        torch.randn(9, generator=generator),
        torch.randn(9, generator=generator),
        torch.rand(9, generator=generator) < 0.7,
    )
    update, reference, masks = {"0.float32": new}, {"0.float32": old}, {"0.float32": mask}
    clipped, norm = clip_update(update, reference, masks, max_norm)
    wanted, wanted_norm = slow.clip(new.tolist(), old.tolist(), mask.tolist(), max_norm)
    assert norm == pytest.approx(wanted_norm)
    torch.testing.assert_close(clipped["0.float32"], torch.tensor(wanted))
    assert update_norm(clipped, reference, masks) <= max_norm * (1 + 1e-5)
    assert torch.equal(clipped["0.float32"][~mask], new[~mask])
    if norm <= max_norm:
        assert_same_bits(clipped, update)


def test_an_update_just_long_enough_is_left_alone():
    clipped, norm = clip_update(UPDATE, REFERENCE, MASKS, 7.0)
    assert norm == 7.0
    assert_same_bits(clipped, UPDATE)
    tiny = {"2.float32": torch.tensor([1e-30])}  # lost in 8 + (1e-30 - 8), which has the length 8
    assert_same_bits(clip_update(tiny, REFERENCE, MASKS, 8.0)[0], tiny)
    unchanged, norm = clip_update(REFERENCE, REFERENCE, MASKS, 1e-9)
    assert norm == 0.0
    assert_same_bits(unchanged, REFERENCE)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_update_without_a_norm_cannot_be_clipped(value):
    with pytest.raises(
        ValueError, match=f"the norm of an update's change must be finite, got {value}"
    ):
        clip_update({"2.float32": torch.tensor([value])}, REFERENCE, MASKS, 1.0)
