"""Policies beyond one exit's probabilities, and that tables decide as deployed segments do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.deployment.bundles.artefacts import load_bundle, save_bundle
from tardis_fl.deployment.escalation import Deployment, Rule, replay
from tardis_fl.deployment.pipeline import table_outcome
from tardis_fl.deployment.scoring.gain import fit_gain
from tardis_fl.deployment.scoring.policies import ScoringRule, extra_bytes, fit_scoring
from tardis_fl.deployment.scoring.temperatures import auroc
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.evaluation import CalibrationTable, FitTable, TestTable, exit_logits
from tardis_fl.early_exit.scoring.patience import patience_scores
from tardis_fl.errors import ConfigError, DataError
from tests.deployment.thresholds.test_choice import make_table

TEMPERATURES = (1.3, 0.8, 1.0)
ALL = [
    "max_softmax",
    "margin",
    "entropy",
    "patience",
    "gain",
    "tests.deployment.scoring.test_policies:second_best",
]
COUNT = 120


def second_best(probabilities: torch.Tensor) -> torch.Tensor:
    """A user's policy: safe where the second class is unlikely."""
    return 1 - probabilities.topk(2, dim=-1).values[:, 1]


def batch_mean(probabilities: torch.Tensor) -> torch.Tensor:
    """A user's policy that makes one value of a batch."""
    return probabilities.mean()


def log_odds(probabilities: torch.Tensor) -> torch.Tensor:
    """A user's policy outside [0, 1]."""
    return torch.logit(probabilities.amax(-1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("small_resnet", num_classes=5, width=4, exit_hidden=8, seed=1).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def table(network, images):
    logits = 8 * exit_logits(list(network), lambda rows: images[rows], COUNT)
    rng = np.random.default_rng(0)
    return TestTable(logits, rng.integers(0, 5, COUNT), np.arange(COUNT) + 7, np.full(COUNT, -1))


def scoring_of(policy: str) -> ScoringRule:
    fit = make_table(FitTable, classes=5, seed=4)
    return fit_scoring(policy, fit, TEMPERATURES)


@pytest.mark.parametrize("policy", ALL)
def test_a_score_does_not_depend_on_how_many_samples_are_scored(policy, table):
    scoring = scoring_of(policy)
    together = scoring.table_scores(table)
    alone = [scoring.scores(torch.from_numpy(table.logits[:, [row]])) for row in range(COUNT)]
    assert np.array_equal(together, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("policy", ALL)
def test_every_policy_gives_one_score_a_sample_in_0_and_1(policy, table):
    scores = scoring_of(policy).table_scores(table)
    assert scores.shape == (2, COUNT)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("mixed", [None, ((0.9, 0.2), 0.4, 3)])
@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("policy", ALL)
def test_deployed_segments_decide_as_the_table_does(policy, ensemble, mixed, network, images):
    scoring = scoring_of(policy)
    logits = exit_logits(list(network), lambda rows: images[rows], COUNT)
    labels = np.random.default_rng(1).integers(0, 5, COUNT)
    own = TestTable(logits, labels, np.arange(COUNT) + 7, np.full(COUNT, -1))
    own = own.ensembled() if ensemble else own
    scores = scoring.table_scores(own)
    middle = [float(np.median(row)) for row in scores]
    thresholds = tuple(
        0.5 * (value + row[row > value].min()) if (row > value).any() else value
        for value, row in zip(middle, scores, strict=True)
    )
    rule = Rule(policy, TEMPERATURES, thresholds, "float32", ensemble, scoring.coefficients, mixed)
    expected = table_outcome(rule, own, scores)
    for batch_size in (1, 32, COUNT):
        found = replay(
            network,
            rule,
            lambda rows: images[rows],
            labels,
            batch_size=batch_size,
            sample_ids=own.sample_ids,
        )
        assert found.exits.tolist() == expected.exits.tolist()
        assert found.correct.tolist() == expected.correct.tolist()


@given(seed=st.integers(0, 10**6), num_exits=st.integers(2, 5), count=st.integers(1, 20))
def test_patience_equals_counting_one_by_one(seed, num_exits, count):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(num_exits, count, 2)))
    says = logits.argmax(2).tolist()
    for sample in range(count):
        run = 0
        for exit in range(num_exits):
            run = run + 1 if exit and says[exit][sample] == says[exit - 1][sample] else 0
            assert patience_scores(logits)[exit, sample] == run / (num_exits - 1)


def test_gain_learns_what_the_next_tier_mends():
    """Where the next exit mends what has small margins, the score ranks what it mends below the rest, also on samples it wasn't fitted on."""
    fit, other = (
        make_table(FitTable, count=4000, seed=1),
        make_table(CalibrationTable, count=4000, seed=2),
    )
    scores = fit_scoring("gain", fit, (1.0, 1.0, 1.0)).table_scores(other)
    correct = other.correct()
    for exit in range(2):
        mended = ~correct[exit] & correct[exit + 1]
        assert auroc(scores[exit], ~mended) > 0.54  # chance: 0.5, give or take 0.01
        assert (1 - scores[exit]).mean() == pytest.approx(
            mended.mean(), abs=0.03
        )  # a probability, not only a ranking


@pytest.mark.parametrize("right", [False, True])
def test_gain_of_all_or_none_is_a_constant_rate_and_no_error(right):
    logits = np.zeros((2, 30, 3), np.float32)
    logits[0, :, 1], logits[1, :, 0 if right else 1] = np.linspace(1, 2, 30), 5.0
    table = FitTable(logits, np.zeros(30, np.int64), np.arange(30), np.zeros(30, np.int64))
    (row,) = fit_gain(table, (1.0, 1.0))
    scores = ScoringRule("gain", (1.0, 1.0), (row,)).table_scores(table)
    assert np.isfinite(scores).all()
    assert (scores < 0.3).all() if right else (scores > 0.7).all()


def test_scores_are_never_fitted_on_another_role():
    with pytest.raises(
        TypeError, match="fitted on the fit role only, got a table of the role 'calibrate'"
    ):
        fit_gain(make_table(CalibrationTable), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("policy", "error", "expected"),
    [
        (
            "tests.deployment.scoring.test_policies:batch_mean",
            ValueError,
            r"wanted one value a sample, \(120,\)",
        ),
        (
            "tests.deployment.scoring.test_policies:log_odds",
            ValueError,
            r"wanted \[0, 1\], up = safer to exit",
        ),
        (
            "tests.deployment.scoring.test_policies:nothing",
            ConfigError,
            "deployment.policy: got 'tests.deployment.scoring.test_policies:nothing'; wanted MODULE:FUNCTION",
        ),
        ("no_such_module:nothing", ConfigError, "No module named 'no_such_module'"),
    ],
)
def test_users_policies_that_can_t_be_used_are_one_message(policy, error, expected, table):
    with pytest.raises(error, match=expected):
        scoring_of(policy).table_scores(table)


def test_what_crosses_beside_the_features():
    assert extra_bytes("max_softmax", False, 10) == 0
    assert extra_bytes("patience", False, 10) == 3
    assert extra_bytes("gain", True, 10) == 40
    assert extra_bytes("patience", True, 10) == 43


def test_a_saved_deployment_decides_as_before(network, images, tmp_path):
    scoring = scoring_of("gain")
    rule = Rule(
        "gain",
        TEMPERATURES,
        (0.7, 0.6),
        "4bit+zstd",
        True,
        scoring.coefficients,
        ((0.9, 0.9), 0.5, 11),
    )
    save_bundle(
        tmp_path,
        network,
        rule.thresholds,
        policy=rule.policy,
        temperatures=rule.temperatures,
        codec=rule.codec,
        ensemble=True,
        coefficients=rule.coefficients,
        mixed=rule.mixed,
    )
    bundle = load_bundle(tmp_path)
    assert bundle.rule == rule
    ids = np.arange(COUNT)
    for ours, theirs in zip(
        Deployment(network, rule).escalate(images, ids), bundle.escalate(images, ids), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="pass sample_ids, one a sample"):
        bundle.escalate(images)
    with pytest.raises(ValueError, match="mixes two choices of thresholds"):
        bundle.test([(images[:2], torch.zeros(2, dtype=torch.int64))])


def test_a_saved_policy_of_somebody_s_is_not_run_unasked(network, tmp_path):
    save_bundle(
        tmp_path, network, (0.5, 0.5), policy="tests.deployment.scoring.test_policies:second_best"
    )
    with pytest.raises(
        DataError,
        match=r"its policy is the function 'tests.deployment.scoring.test_policies:second_best', which would be imported and run",
    ):
        load_bundle(tmp_path)
    assert load_bundle(tmp_path, trust_functions=True).rule.policy.endswith("second_best")
