"""Thresholds from clients' counts, beside those from all their samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.deployment.thresholds.choice import (
    NEVER_EXIT,
    Target,
    choose_from_sweep,
    choose_thresholds,
)
from tardis_fl.deployment.thresholds.sweep import decide, sweep, sweep_from_histograms
from tardis_fl.early_exit.scoring.histograms import Histograms, edges, score_histograms
from tests.deployment.made_tables import random_case, realistic_case, table_of


def of_clients(scores, correct, bins, *, seed=0, num_clients=4):
    """The sum of histograms that clients with random shares of the samples count."""
    owner = np.random.default_rng(seed).integers(0, num_clients, scores.shape[1])
    parts = [
        score_histograms(scores[:, owner == client], correct[:, owner == client], bins)
        for client in range(num_clients)
    ]
    return sum(parts, Histograms.zero(len(correct), bins))


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    bins=st.integers(1, 30),
    num_exits=st.integers(2, 4),
    levels=st.sampled_from([None, 5, 10]),
)
def test_at_every_edge_the_counts_are_those_of_all_samples(seed, count, bins, num_exits, levels):
    correct, scores = random_case(seed, count, num_exits=num_exits, levels=levels)
    found = sweep_from_histograms(of_clients(scores, correct, bins, seed=seed))
    assert found.thresholds.tolist() == [*edges(bins).tolist(), NEVER_EXIT]
    for index, threshold in enumerate(found.thresholds):
        exits = decide(scores, [threshold] * (num_exits - 1))
        assert (
            np.bincount(exits, minlength=num_exits).tolist() == found.exit_counts[:, index].tolist()
        )
        assert int(correct[exits, np.arange(count)].sum()) == found.num_correct[index]


def test_sums_are_a_monoid_and_do_not_depend_on_who_holds_what():
    correct, scores = random_case(1, 90)
    whole = score_histograms(scores, correct, 10).to_arrays()
    for seed in (1, 2):
        parts = of_clients(scores, correct, 10, seed=seed)
        assert all((whole[name] == array).all() for name, array in parts.to_arrays().items())
    again = Histograms.from_arrays(whole).to_arrays()
    assert all(
        array.dtype == np.int64 and (array == again[name]).all() for name, array in whole.items()
    )


@given(seed=st.integers(0, 10**4), value=st.floats(0, 1), bins=st.integers(5, 50))
def test_a_budget_is_met_at_least_as_accurately_as_one_edge_below_the_central_choice(
    seed, value, bins
):
    correct, scores = realistic_case(seed, 150)
    target = Target("target_offload_rate", value)
    central = choose_thresholds(table_of(correct), scores, target)
    found = sweep_from_histograms(of_clients(scores, correct, bins))
    federated = choose_from_sweep(found, target)
    below = np.searchsorted(found.thresholds, central.thresholds[0], side="right") - 1
    assert federated.offload_rate <= value + 1e-9
    assert federated.accuracy >= found.accuracy[below] - 1e-12
    assert federated.accuracy <= central.accuracy + 1e-12


@given(seed=st.integers(0, 10**4), drop=st.floats(0, 0.2), bins=st.integers(5, 50))
def test_a_drop_is_kept_as_cheaply_as_one_edge_above_the_central_choice(seed, drop, bins):
    correct, scores = realistic_case(seed, 150)
    target = Target("max_accuracy_drop", drop)
    central = choose_thresholds(table_of(correct), scores, target)
    found = sweep_from_histograms(of_clients(scores, correct, bins))
    federated = choose_from_sweep(found, target)
    assert federated.accuracy >= federated.full_accuracy - drop - 1e-9
    assert federated.offload_rate >= central.offload_rate - 1e-12
    above = np.searchsorted(found.thresholds, central.thresholds[0], side="left")
    if found.accuracy[above] >= federated.full_accuracy - drop:
        assert federated.offload_rate <= found.offload_rate[above] + 1e-12
        if central.offload_rate < federated.offload_rate < found.offload_rate[above]:
            assert central.thresholds[0] < federated.thresholds[0] < found.thresholds[above]


@pytest.mark.parametrize(
    "target",
    [
        Target("max_accuracy_drop", 0.01),
        Target("max_accuracy_drop", 0.03),
        Target("target_offload_rate", 0.3),
        Target("target_offload_rate", 0.6),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_on_many_samples_the_choice_lies_within_one_bin(seed, target):
    correct, scores = realistic_case(seed, 5000, skill=(0.45, 0.65, 0.85))
    central = choose_thresholds(table_of(correct), scores, target)
    federated = choose_from_sweep(
        sweep_from_histograms(of_clients(scores, correct, 100, num_clients=10)), target
    )
    assert 0 < central.thresholds[0] < 1
    assert abs(federated.thresholds[0] - central.thresholds[0]) <= 1 / 100 + 1e-12


def test_enough_bins_give_the_central_sweep():
    correct, scores = random_case(3, 100, levels=16)
    exact, binned = (
        sweep(table_of(correct), scores),
        sweep_from_histograms(score_histograms(scores, correct, 16)),
    )
    where = np.isin(binned.thresholds, exact.thresholds)
    assert where.sum() == len(exact.thresholds)
    assert (binned.num_correct[where] == exact.num_correct).all() and (
        binned.exit_counts[:, where] == exact.exit_counts
    ).all()


def test_bad_counts_are_refused():
    correct, scores = random_case(0, 20)
    good = score_histograms(scores, correct, 4)
    with pytest.raises(ValueError, match="don't add up; wanted the same exits and bins"):
        good + score_histograms(scores, correct, 5)
    arrays = good.to_arrays()
    with pytest.raises(ValueError, match="right_next is missing"):
        Histograms.from_arrays(
            {name: array for name, array in arrays.items() if name != "right_next"}
        )
    with pytest.raises(ValueError, match="more right answers than samples"):
        Histograms.from_arrays({**arrays, "right_here": arrays["right_here"] + 100})
    with pytest.raises(ValueError, match="wanted 21 in each"):
        Histograms.from_arrays({**arrays, "num_samples": np.asarray([21])})
    with pytest.raises(ValueError, match="wanted integers"):
        Histograms.from_arrays({**arrays, "reached": arrays["reached"] / 2})
    with pytest.raises(ValueError, match=r"scores: got some outside \[0, 1\]"):
        score_histograms(scores + 1, correct)
    with pytest.raises(ValueError, match="a sweep, or histograms, know shared thresholds only"):
        choose_from_sweep(
            sweep_from_histograms(good),
            Target("bytes_budget", 3, mode="per_exit"),
            {"bytes": (0, 1, 2)},
        )
