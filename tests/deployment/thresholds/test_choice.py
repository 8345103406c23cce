"""Scores, temperatures and thresholds, against their obvious forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_fl.config.deployment import DeploymentConfig
from tardis_fl.deployment.baselines import baselines
from tardis_fl.deployment.escalation import Outcome
from tardis_fl.deployment.scoring.policies import table_scores
from tardis_fl.deployment.scoring.temperatures import (
    auroc,
    expected_calibration_error,
    fit_temperature,
)
from tardis_fl.deployment.thresholds.choice import (
    NEVER_ESCALATE,
    NEVER_EXIT,
    Target,
    choose_thresholds,
    decide,
    sweep,
)
from tardis_fl.early_exit.evaluation import CalibrationTable, FitTable, TestTable
from tardis_fl.early_exit.scoring.scores import POLICIES, score
from tardis_fl.errors import RunError
from tests.reference import deployment as reference
from tests.reference import frontier as frontier_reference


def make_table(
    kind=CalibrationTable, *, count=200, seed=0, skill=(0.5, 1.5, 3.0), classes=4, coarse=False
):
    """A table whose exits are the better the deeper, or not, by `skill`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(len(skill), count, classes))
    logits[:, np.arange(count), labels] += np.asarray(skill)[:, None] * rng.uniform(0, 2, count)
    if coarse:
        logits = np.round(logits)  # many ties
    return kind(logits.astype(np.float32), labels, np.arange(count), np.zeros(count, np.int64))


def early_scores(table, policy="max_softmax"):
    return table_scores(policy, table, [1.0] * table.num_exits).numpy()[:-1]


def choose(table, *target, costs=None, **more):
    return choose_thresholds(table, early_scores(table), Target(*target, **more), costs)


def accuracy_and_offload(table, thresholds, policy="max_softmax"):
    exits = decide(early_scores(table, policy), thresholds)
    return table.correct()[exits, np.arange(len(table))].mean(), (exits > 0).mean()


@pytest.mark.parametrize("policy", POLICIES)
def test_scores_lie_in_0_and_1_and_are_highest_for_certainty(policy):
    sure, unsure = torch.tensor([50.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    scores = score(policy, torch.stack([sure, unsure, torch.tensor([2.0, 1.0, 0.0])]))
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] == pytest.approx(1 / 3 if policy == "max_softmax" else 0.0, abs=1e-9)
    assert scores[1] < scores[2] < scores[0]
    assert ((scores >= 0) & (scores <= 1)).all()


def test_scores_by_hand():
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1]))
    assert score("max_softmax", logits) == pytest.approx(0.7)
    assert score("margin", logits) == pytest.approx(0.5)
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    assert score("entropy", logits) == pytest.approx(1 - entropy / np.log(3))
    assert score("max_softmax", logits, temperature=1e6) == pytest.approx(1 / 3, abs=1e-5)


@given(
    seed=st.integers(0, 500),
    count=st.integers(1, 40),
    coarse=st.booleans(),
    num_exits=st.integers(2, 4),
)
def test_the_sweep_equals_counting_sample_by_sample(seed, count, coarse, num_exits):
    table = make_table(
        seed=seed, count=count, coarse=coarse, skill=(0.5, 1.0, 1.5, 2.0)[:num_exits]
    )
    scores = early_scores(table, "margin")
    found = sweep(table, scores)
    for index, threshold in enumerate(found.thresholds):
        right, counts = reference.outcome_at(scores, table.correct(), threshold)
        assert (int(found.num_correct[index]), found.exit_counts[:, index].tolist()) == (
            right,
            counts,
        )
    assert (np.diff(found.offload_rate) >= 0).all()
    assert (found.exit_counts.sum(axis=0) == count).all()
    assert found.exit_counts[0, 0] == count
    assert found.exit_counts[-1, -1] == count


@given(seed=st.integers(0, 200), drop=st.floats(0, 0.3))
def test_the_threshold_with_least_offload_within_the_drop_is_found(seed, drop):
    table = make_table(seed=seed, count=60)
    choice = choose(table, "max_accuracy_drop", drop)
    accuracy, offload = accuracy_and_offload(table, choice.thresholds)
    assert (choice.accuracy, choice.offload_rate) == (
        pytest.approx(accuracy),
        pytest.approx(offload),
    )
    full = table.accuracies()[-1]
    assert accuracy >= full - drop - 1e-9
    for threshold in [0.0, 1.01, *np.unique(early_scores(table))]:
        other_accuracy, other_offload = accuracy_and_offload(table, (threshold, threshold))
        assert not (other_accuracy >= full - drop and other_offload < offload - 1e-9)


@given(seed=st.integers(0, 200), target=st.floats(0, 1))
def test_the_most_accurate_threshold_within_the_offload_rate_is_found(seed, target):
    table = make_table(seed=seed, count=60)
    choice = choose(table, "target_offload_rate", target)
    accuracy, offload = accuracy_and_offload(table, choice.thresholds)
    assert offload <= target + 1e-9
    for threshold in [0.0, 1.01, *np.unique(early_scores(table))]:
        other_accuracy, other_offload = accuracy_and_offload(table, (threshold, threshold))
        assert not (other_offload <= target and other_accuracy > accuracy + 1e-9)


def test_never_escalating_and_never_exiting_are_possible_answers():
    worse_deeper = make_table(skill=(3.0, 0.5, 0.1), seed=1)
    assert choose(worse_deeper, "max_accuracy_drop", 0.0).thresholds == (NEVER_ESCALATE,) * 2
    useless_device = make_table(skill=(-3.0, -3.0, 6.0), seed=1, count=2000)
    choice = choose(useless_device, "max_accuracy_drop", 0.0)
    assert choice.thresholds == (NEVER_EXIT,) * 2
    assert choice.offload_rate == 1.0


@pytest.mark.parametrize("kind", [TestTable, FitTable])
def test_thresholds_are_never_chosen_on_another_role(kind):
    with pytest.raises(
        TypeError, match=f"calibrate role only, got a table of the role '{kind.role}'"
    ):
        choose(make_table(kind), "max_accuracy_drop", 0.1)


def test_fixed_thresholds_are_taken_as_they_are():
    table = make_table()
    choice = choose(table, "fixed", thresholds=(0.6, 0.3))
    assert choice.thresholds == (0.6, 0.3)
    assert (choice.accuracy, choice.offload_rate) == accuracy_and_offload(table, (0.6, 0.3))


COSTS = {
    "bytes": (0.0, 300.0, 500.0),
    "macs": (10.0, 14.0, 40.0),
    "latency_ms": (2.0, 9.0, 30.0),
    "energy_mj": (4.0, 7.0, 8.0),
}
BUDGETS = {
    "target_offload_rate": ("offload_rate", 1.0),
    "latency_budget_ms": ("latency_ms", 30.0),
    "energy_budget_mj": ("energy_mj", 8.0),
    "bytes_budget": ("bytes", 500.0),
}


def all_choices(table, scores, mode):
    """(right answers, mean cost by axis) of every distinct threshold, shared or of each exit's own."""
    values = [0.0, *np.unique(scores).tolist(), 1.01]
    combinations = (
        itertools.product(values, repeat=2)
        if mode == "per_exit"
        else ((value, value) for value in values)
    )
    outcomes = {
        frontier_reference.outcome(scores, table.correct(), thresholds)
        for thresholds in combinations
    }
    costs = {"offload_rate": (0, 1, 1), **COSTS}
    return [
        (
            right,
            {
                axis: frontier_reference.total(counts, values) / len(table)
                for axis, values in costs.items()
            },
        )
        for right, counts in outcomes
    ]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
    kind=st.sampled_from(sorted(BUDGETS)),
    mode=st.sampled_from(["shared", "per_exit"]),
)
def test_a_budget_is_spent_as_accurately_as_any_thresholds_can(seed, share, kind, mode):
    table = make_table(seed=seed, count=12)
    axis, most = BUDGETS[kind]
    least = {"offload_rate": 0.0, **{name: values[0] for name, values in COSTS.items()}}[axis]
    budget = least + share * (most - least)
    choice = choose(table, kind, budget, costs=COSTS, mode=mode)
    within = [
        (right, -costs[axis])
        for right, costs in all_choices(table, early_scores(table), mode)
        if costs[axis] <= budget + 1e-9
    ]
    right, cost = max(within)
    assert (choice.accuracy, choice.costs[axis]) == (
        pytest.approx(right / 12),
        pytest.approx(-cost),
    )
    exits = decide(early_scores(table), choice.thresholds)
    assert choice.costs == {
        name: pytest.approx(np.asarray(values)[exits].mean())
        for name, values in {"offload_rate": (0, 1, 1), **COSTS}.items()
    }
    assert choice.accuracy == pytest.approx(table.correct()[exits, np.arange(12)].mean())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    drop=st.floats(0, 0.4),
    axis=st.sampled_from(["offload_rate", *COSTS]),
    mode=st.sampled_from(["shared", "per_exit"]),
)
def test_a_drop_is_kept_at_the_least_of_the_named_cost(seed, drop, axis, mode):
    table = make_table(seed=seed, count=12)
    choice = choose(table, "max_accuracy_drop", drop, costs=COSTS, mode=mode, minimise=axis)
    full = table.accuracies()[-1]
    allowed = [
        (-costs[axis], right)
        for right, costs in all_choices(table, early_scores(table), mode)
        if right / 12 >= full - drop - 1e-9
    ]
    cost, right = max(allowed)
    assert choice.costs[axis] == pytest.approx(-cost)
    assert choice.accuracy == pytest.approx(right / 12)


@pytest.mark.parametrize("mode", ["shared", "per_exit"])
def test_mixing_meets_a_budget_in_expectation(mode):
    table = make_table(count=300, seed=3)
    alone, mixed = (
        choose(table, "bytes_budget", 200.0, costs=COSTS, mode=mode, mixing=mixing)
        for mixing in (False, True)
    )
    assert mixed.costs["bytes"] == pytest.approx(200.0)
    second, share = mixed.mixed
    rights, costs = zip(
        *(
            (
                table.correct()[exits, np.arange(300)].mean(),
                np.asarray(COSTS["bytes"])[exits].mean(),
            )
            for exits in (decide(early_scores(table), t) for t in (mixed.thresholds, second))
        ),
        strict=True,
    )
    assert mixed.accuracy == pytest.approx((1 - share) * rights[0] + share * rights[1])
    assert (1 - share) * costs[0] + share * costs[1] == pytest.approx(200.0)
    assert mixed.accuracy >= alone.accuracy - 1e-12
    assert alone.mixed is None
    assert "mixing two choices at random" in mixed.target
    assert choose(table, "bytes_budget", 500.0, costs=COSTS, mode=mode, mixing=True).mixed is None


def test_a_budget_below_never_escalating_is_refused_with_the_least():
    with pytest.raises(
        RunError,
        match=r"a budget of 1\.5 for latency_ms can't be met: never escalating costs 2 already",
    ):
        choose(make_table(), "latency_budget_ms", 1.5, costs=COSTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "cheapest", "value": 1},
            "target: got 'cheapest'; wanted one of max_accuracy_drop",
        ),
        ({"kind": "fixed", "value": 1}, "wanted thresholds for fixed, a value for others"),
        ({"kind": "bytes_budget", "value": -1}, "bytes_budget: got -1; wanted at least 0"),
        ({"kind": "max_accuracy_drop", "value": 0.1, "mixing": True}, "mixing: goes with a budget"),
        (
            {"kind": "bytes_budget", "value": 1, "minimise": "macs"},
            "minimise: goes with max_accuracy_drop; got bytes_budget",
        ),
        (
            {"kind": "bytes_budget", "value": 1, "mode": "both"},
            "got the mode 'both'; wanted shared or per_exit",
        ),
    ],
)
def test_targets_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Target(**arguments)


def test_costs_that_are_missing_or_make_no_sense_are_refused():
    with pytest.raises(
        ValueError,
        match="energy_budget_mj: got costs of offload_rate, bytes; wanted those of energy_mj too",
    ):
        choose(make_table(), "energy_budget_mj", 1, costs={"bytes": (0, 1, 2)})
    with pytest.raises(
        ValueError,
        match=r"bytes: got \[0, 2, 1\]; wanted the whole cost of a sample up to each exit",
    ):
        choose(make_table(), "bytes_budget", 1, costs={"bytes": (0, 2, 1)})
    with pytest.raises(
        ValueError, match="known for two and three exits, and here are 4; wanted the mode shared"
    ):
        choose(make_table(skill=(0.5, 1.0, 1.5, 2.0)), "target_offload_rate", 0.5, mode="per_exit")
    with pytest.raises(ValueError, match="thresholds: got 1; wanted 2"):
        choose(make_table(), "fixed", thresholds=(0.5,))


def test_a_configuration_gives_its_target():
    config = DeploymentConfig(bytes_budget=100, threshold_mode="per_exit", mixing=True)
    assert Target.from_config(config) == Target("bytes_budget", 100, mode="per_exit", mixing=True)
    assert Target.from_config(DeploymentConfig(thresholds=[0.5, 2])) == Target(
        "fixed", thresholds=(0.5, 2)
    )
    assert (
        Target.from_config(DeploymentConfig(max_accuracy_drop=0.01, minimise="macs")).axis == "macs"
    )
    with pytest.raises(ValueError, match="names no target"):
        Target.from_config(DeploymentConfig())


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_a_sample_from_its_own_model_is_found(true_temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=generator) * 2
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * true_temperature, labels) == pytest.approx(
        true_temperature, rel=0.05
    )


def test_no_other_temperature_has_a_smaller_loss():
    table = make_table(FitTable, skill=(4.0, 4.0))
    logits, labels = torch.from_numpy(table.logits[0]).double(), torch.from_numpy(table.labels)
    best = fit_temperature(logits, labels)
    losses = {
        t: float(torch.nn.functional.cross_entropy(logits / t, labels))
        for t in [best, *np.geomspace(0.05, 20, 200)]
    }
    assert losses[best] <= min(losses.values()) + 1e-7


@given(seed=st.integers(0, 1000), count=st.integers(2, 40), levels=st.integers(2, 20))
def test_auroc_and_ece_equal_their_obvious_forms(seed, count, levels):
    rng = np.random.default_rng(seed)
    scores, correct = rng.integers(0, levels, count) / levels, rng.random(count) < 0.6
    if correct.any() and not correct.all():
        assert auroc(scores, correct) == pytest.approx(reference.auroc(scores, correct))
    else:
        assert auroc(scores, correct) is None
    assert expected_calibration_error(scores, correct, 15) == pytest.approx(
        reference.expected_calibration_error(scores, correct, 15)
    )


def test_baselines_by_hand():
    # four samples; exit 0 is right on the first, exit 1 on the first two, exit 2 on the first three
    right = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    logits = np.zeros((3, 4, 2), np.float32)
    logits[..., 0] = right
    logits[..., 1] = ~right
    table = TestTable(logits, np.zeros(4, np.int64), np.arange(4), np.full(4, -1))
    exits = np.array([0, 2, 2, 1])
    rows = baselines(
        table,
        Outcome(exits, right[exits, np.arange(4)], 3),
        crossing_bytes=np.array([[100] * 4, [10] * 4]),
        image_bytes=300,
        png_bytes=200.5,
        raw_image_accuracy=0.7,
    )
    as_tuples = {
        name: (row.accuracy, row.offload_rate, row.bytes_per_sample) for name, row in rows.items()
    }
    assert as_tuples == {
        "device_only": (0.25, 0.0, 0.0),
        "edge_only": (0.5, 1.0, 100.0),
        "cloud_only_raw_image": (0.7, 1.0, 300.0),
        "cloud_only_png": (0.7, 1.0, 200.5),
        "random_escalation": (
            pytest.approx(0.25 * 0.25 + 0.25 * 0.5 + 0.5 * 0.75),
            0.75,
            (100 + 2 * 110) / 4,
        ),
        "oracle": (0.75, 0.5, (100 + 110) / 4),
    }
