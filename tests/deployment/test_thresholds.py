"""Scores, temperatures and thresholds, against their obvious forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.config.schema import DeploymentConfig
from tardis_fl.deployment.baselines import baselines
from tardis_fl.deployment.calibration import auroc, expected_calibration_error, fit_temperature
from tardis_fl.deployment.escalation import Outcome
from tardis_fl.deployment.policies import POLICIES, score, table_scores
from tardis_fl.deployment.thresholds import NEVER_ESCALATE, NEVER_EXIT, choose_thresholds, decide, sweep
from tardis_fl.early_exit.evaluation import CalibrationTable, FitTable, TestTable
from tests.reference import deployment as reference

NO_TEMPERATURE = [1.0, 1.0, 1.0]


def make_table(kind=CalibrationTable, *, count=200, seed=0, skill=(0.5, 1.5, 3.0), classes=4, coarse=False):
    """A table whose exits are the better the deeper, or not, by `skill`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(len(skill), count, classes))
    logits[:, np.arange(count), labels] += np.asarray(skill)[:, None] * rng.uniform(0, 2, count)
    if coarse:
        logits = np.round(logits)  # many ties
    return kind(logits.astype(np.float32), labels, np.arange(count), np.zeros(count, np.int64))


def accuracy_and_offload(table, thresholds, policy="max_softmax"):
    exits = decide(table, policy, NO_TEMPERATURE, thresholds)
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


@given(seed=st.integers(0, 500), count=st.integers(1, 40), coarse=st.booleans(), num_exits=st.integers(2, 4))
def test_the_sweep_equals_counting_sample_by_sample(seed, count, coarse, num_exits):
    table = make_table(seed=seed, count=count, coarse=coarse, skill=(0.5, 1.0, 1.5, 2.0)[:num_exits])
    temperatures = [1.0] * num_exits
    found = sweep(table, "margin", temperatures)
    scores = table_scores("margin", table, temperatures).numpy()
    for index, threshold in enumerate(found.thresholds):
        right, counts = reference.outcome_at(scores, table.correct(), threshold)
        assert (int(found.num_correct[index]), found.exit_counts[:, index].tolist()) == (right, counts)
    assert (np.diff(found.offload_rate) >= 0).all()
    assert (found.exit_counts.sum(axis=0) == count).all()
    assert found.exit_counts[0, 0] == count
    assert found.exit_counts[-1, -1] == count


@given(seed=st.integers(0, 200), drop=st.floats(0, 0.3))
def test_the_threshold_with_least_offload_within_the_drop_is_found(seed, drop):
    table = make_table(seed=seed, count=60)
    choice = choose_thresholds(table, NO_TEMPERATURE, DeploymentConfig(max_accuracy_drop=drop))
    accuracy, offload = accuracy_and_offload(table, choice.thresholds)
    assert (choice.accuracy, choice.offload_rate) == (pytest.approx(accuracy), pytest.approx(offload))
    full = table.accuracies()[-1]
    assert accuracy >= full - drop - 1e-9
    scores = table_scores("max_softmax", table, NO_TEMPERATURE).numpy()
    for threshold in [0.0, 1.01, *np.unique(scores[:-1])]:
        other_accuracy, other_offload = accuracy_and_offload(table, (threshold, threshold))
        assert not (other_accuracy >= full - drop and other_offload < offload - 1e-9)


@given(seed=st.integers(0, 200), target=st.floats(0, 1))
def test_the_most_accurate_threshold_within_the_offload_rate_is_found(seed, target):
    table = make_table(seed=seed, count=60)
    choice = choose_thresholds(table, NO_TEMPERATURE, DeploymentConfig(target_offload_rate=target))
    accuracy, offload = accuracy_and_offload(table, choice.thresholds)
    assert offload <= target + 1e-9
    scores = table_scores("max_softmax", table, NO_TEMPERATURE).numpy()
    for threshold in [0.0, 1.01, *np.unique(scores[:-1])]:
        other_accuracy, other_offload = accuracy_and_offload(table, (threshold, threshold))
        assert not (other_offload <= target and other_accuracy > accuracy + 1e-9)


def test_never_escalating_and_never_exiting_are_possible_answers():
    worse_deeper = make_table(skill=(3.0, 0.5, 0.1), seed=1)
    assert choose_thresholds(worse_deeper, NO_TEMPERATURE, DeploymentConfig(max_accuracy_drop=0.0)).thresholds == (NEVER_ESCALATE,) * 2
    useless_device = make_table(skill=(-3.0, -3.0, 6.0), seed=1, count=2000)
    choice = choose_thresholds(useless_device, NO_TEMPERATURE, DeploymentConfig(max_accuracy_drop=0.0))
    assert choice.thresholds == (NEVER_EXIT,) * 2
    assert choice.offload_rate == 1.0


@pytest.mark.parametrize("kind", [TestTable, FitTable])
def test_thresholds_are_never_chosen_on_another_role(kind):
    with pytest.raises(TypeError, match=f"calibrate role only, got a table of the role '{kind.role}'"):
        choose_thresholds(make_table(kind), NO_TEMPERATURE, DeploymentConfig(max_accuracy_drop=0.1))


def test_fixed_thresholds_are_taken_as_they_are():
    table = make_table()
    choice = choose_thresholds(table, NO_TEMPERATURE, DeploymentConfig(thresholds=[0.6, 0.3]))
    assert choice.thresholds == (0.6, 0.3)
    assert (choice.accuracy, choice.offload_rate) == accuracy_and_offload(table, (0.6, 0.3))


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_a_sample_from_its_own_model_is_found(true_temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=generator) * 2
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * true_temperature, labels) == pytest.approx(true_temperature, rel=0.05)


def test_no_other_temperature_has_a_smaller_loss():
    table = make_table(FitTable, skill=(4.0, 4.0))
    logits, labels = torch.from_numpy(table.logits[0]).double(), torch.from_numpy(table.labels)
    best = fit_temperature(logits, labels)
    losses = {t: float(torch.nn.functional.cross_entropy(logits / t, labels)) for t in [best, *np.geomspace(0.05, 20, 200)]}
    assert losses[best] <= min(losses.values()) + 1e-7


@given(seed=st.integers(0, 1000), count=st.integers(2, 40), levels=st.integers(2, 20))
def test_auroc_and_ece_equal_their_obvious_forms(seed, count, levels):
    rng = np.random.default_rng(seed)
    scores, correct = rng.integers(0, levels, count) / levels, rng.random(count) < 0.6
    if correct.any() and not correct.all():
        assert auroc(scores, correct) == pytest.approx(reference.auroc(scores, correct))
    else:
        assert auroc(scores, correct) is None
    assert expected_calibration_error(scores, correct, 15) == pytest.approx(reference.expected_calibration_error(scores, correct, 15))


def test_baselines_by_hand():
    # four samples; exit 0 is right on the first, exit 1 on the first two, exit 2 on the first three
    right = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    logits = np.zeros((3, 4, 2), np.float32)
    logits[..., 0] = right
    logits[..., 1] = ~right
    table = TestTable(logits, np.zeros(4, np.int64), np.arange(4), np.full(4, -1))
    exits = np.array([0, 2, 2, 1])
    rows = baselines(table, Outcome(exits, right[exits, np.arange(4)], 3), boundary_bytes=[100, 10], image_bytes=300, raw_image_accuracy=0.7)
    as_tuples = {name: (row.accuracy, row.offload_rate, row.bytes_per_sample) for name, row in rows.items()}
    assert as_tuples == {
        "device_only": (0.25, 0.0, 0.0),
        "edge_only": (0.5, 1.0, 100.0),
        "cloud_only_raw_image": (0.7, 1.0, 300.0),
        "random_escalation": (pytest.approx(0.25 * 0.25 + 0.25 * 0.5 + 0.5 * 0.75), 0.75, (100 + 2 * 110) / 4),
        "oracle": (0.75, 0.5, (100 + 110) / 4),
    }
