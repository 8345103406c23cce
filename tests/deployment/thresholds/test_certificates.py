"""Certificates: p-values, losses, the choice, what is promised, and how often the promise holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tardis_fl.deployment.thresholds.certificates import (
    CertificateRequest,
    certify,
    default_grid,
    evaluate_certificate,
    grid_from_fit,
    smallest_n,
)
from tardis_fl.deployment.thresholds.certificates.losses import (
    exit_losses,
    loss_sums,
    worst_from_here,
)
from tardis_fl.deployment.thresholds.certificates.pvalues import binomial, hoeffding_bentkus
from tardis_fl.deployment.thresholds.choice import NEVER_EXIT
from tardis_fl.early_exit.evaluation import CalibrationTable, FitTable, TestTable
from tardis_fl.errors import DataError
from tests.deployment.made_tables import realistic_case, table_of
from tests.reference import certificates as reference

SMALL_GRID = default_grid(20)


def random_table(seed, count, *, classes=3, kind=CalibrationTable, clients=4):
    """Random logits, deeper ones a little better, and scores with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(3, count, classes))
    logits[:, np.arange(count), labels] += np.asarray([0.5, 1.0, 1.5])[:, None]
    return kind(
        logits.astype(np.float32), labels, np.arange(count), rng.integers(0, clients, count)
    ), np.round(rng.random((2, count)), 1)


@given(n=st.integers(1, 300), share=st.floats(0, 1), epsilon=st.floats(0.005, 0.6))
def test_p_values_equal_their_formulas(n, share, epsilon):
    loss_sum = share * n
    assert binomial(np.asarray([round(loss_sum)]), n, epsilon)[0] == pytest.approx(
        reference.binomial_cdf(round(loss_sum), n, epsilon), abs=1e-10
    )
    assert hoeffding_bentkus(np.asarray([loss_sum]), n, epsilon)[0] == pytest.approx(
        reference.hoeffding_bentkus(loss_sum, n, epsilon), rel=1e-6, abs=1e-10
    )


def test_p_values_are_no_smaller_than_they_may_be():
    # under a risk of just epsilon, P(p <= delta) <= delta for every delta
    n, epsilon = 400, 0.03
    chances = binom.pmf(np.arange(n + 1), n, epsilon)
    for test in (binomial, hoeffding_bentkus):
        values = test(np.arange(n + 1).astype(float), n, epsilon)
        assert all(
            chances[values <= delta].sum() <= delta + 1e-12
            for delta in np.linspace(0.001, 0.999, 200)
        )


@pytest.mark.parametrize(("epsilon", "needed"), [(0.01, 230), (0.02, 114), (0.05, 45)])
def test_the_fewest_samples_that_can_certify_anything(epsilon, needed):
    assert smallest_n(epsilon, 0.1) == smallest_n(epsilon, 0.1, "hoeffding_bentkus") == needed
    for test in (binomial, hoeffding_bentkus):
        assert (
            test(np.zeros(1), needed, epsilon)[0] <= 0.1 < test(np.zeros(1), needed - 1, epsilon)[0]
        )
    assert smallest_n(epsilon, 0.1, "conformal") == round(1 / epsilon) - 1


@given(epsilon=st.floats(1e-4, 0.99), delta=st.floats(1e-4, 0.99))
def test_one_sample_less_is_too_few(epsilon, delta):
    n = smallest_n(epsilon, delta)
    assert (1 - epsilon) ** n <= delta * (1 + 1e-9)
    assert n == 1 or (1 - epsilon) ** (n - 1) > delta * (1 - 1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", 0.0), ("epsilon", 1.0), ("delta", -0.1), ("delta", 2.0), ("delta", float("nan"))],
)
def test_shares_outside_0_and_1_are_refused(name, value):
    with pytest.raises(
        ValueError, match=f"{name}: got {value!r}; wanted a number between 0 and 1, both excluded"
    ):
        CertificateRequest(**{name: value})


def test_losses_by_hand():
    # exits 0, 1, 2 say these classes of three; the label is 0
    says = np.asarray([[0, 1, 1, 2], [0, 0, 1, 1], [0, 0, 0, 1]])
    logits = np.where(says[..., None] == np.arange(3), 50.0, 0.0).astype(np.float32)
    table = CalibrationTable(logits, np.zeros(4, np.int64), np.arange(4), np.zeros(4, np.int64))
    assert exit_losses(table, "accuracy_gap").tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert exit_losses(table, "consistency").tolist() == [[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(
        exit_losses(table, "brier"), [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], atol=1e-9
    )  # sure and wrong: 2 / 2


def test_brier_loss_uses_temperatures():
    logits = np.asarray([[[1.0, 0.0]], [[2.0, 0.0]]], np.float32)
    table = CalibrationTable(logits, np.zeros(1, np.int64), np.arange(1), np.zeros(1, np.int64))
    p, q = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-2.0))
    assert exit_losses(table, "brier")[0, 0] == pytest.approx((1 - p) ** 2 - (1 - q) ** 2)
    assert exit_losses(table, "brier", [0.5, 1.0])[0, 0] == pytest.approx(0)
    assert (
        exit_losses(table, "brier", [0.1, 1.0])[0, 0] == 0
    )  # better than the last exit: not a loss


@given(
    seed=st.integers(0, 10**5),
    count=st.integers(1, 40),
    loss=st.sampled_from(["accuracy_gap", "consistency", "brier"]),
)
def test_sums_over_the_grid_equal_counting_and_worst_losses_are_running_maxima(seed, count, loss):
    table, scores = random_table(seed, count)
    losses = exit_losses(table, loss)
    sums, worst = loss_sums(scores, losses, SMALL_GRID), worst_from_here(scores, losses)
    assert (losses[-1] == 0).all() and (losses >= 0).all() and (losses <= 1).all()
    running = np.zeros(count)
    for threshold, total, worst_total in zip(
        SMALL_GRID, sums, loss_sums(scores, worst, SMALL_GRID), strict=True
    ):
        lost = np.asarray(reference.loss_at(scores, losses, threshold))
        running = np.maximum(running, lost)
        assert total == pytest.approx(lost.sum(), abs=1e-9)
        assert worst_total == pytest.approx(running.sum(), abs=1e-9)  # all scores lie on the grid


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**5),
    count=st.integers(60, 120),
    epsilon=st.floats(0.05, 0.5),
    delta=st.floats(0.05, 0.5),
    loss=st.sampled_from(["accuracy_gap", "consistency", "brier"]),
    method=st.sampled_from(["ltt", "hoeffding_bentkus", "conformal"]),
)
def test_the_choice_equals_testing_one_threshold_after_the_other(
    seed, count, epsilon, delta, loss, method
):
    if (loss, method) == ("brier", "ltt"):
        method = "hoeffding_bentkus"
    table, scores = random_table(seed, count)
    certificate = certify(
        table, scores, CertificateRequest(method, loss, epsilon, delta), grid=SMALL_GRID
    )
    losses = exit_losses(table, loss)
    if method == "conformal":
        expected = reference.conformal(scores, losses, SMALL_GRID.tolist(), epsilon)
    else:
        p_value = {
            "ltt": lambda k, n, p: reference.binomial_cdf(round(k), n, p),
            "hoeffding_bentkus": reference.hoeffding_bentkus,
        }[method]
        expected = reference.fixed_sequence(scores, losses, SMALL_GRID, epsilon, delta, p_value)
    assert certificate.threshold == (NEVER_EXIT if expected is None else expected)
    assert certificate.abstained == (expected is None) == bool(certificate.reason)
    assert certificate.calibration_risk == pytest.approx(
        np.mean(reference.loss_at(scores, losses, certificate.threshold))
    )


@pytest.mark.parametrize("groups", ["class", "client"])
def test_groups_are_each_tested_with_their_share_of_delta(groups):
    table, scores = random_table(3, 900)
    request = CertificateRequest("ltt", "accuracy_gap", 0.3, 0.2, groups)
    losses, values = (
        exit_losses(table, "accuracy_gap"),
        table.labels if groups == "class" else table.client_ids,
    )
    members = np.unique(values)
    alone = [
        reference.fixed_sequence(
            scores[:, values == member],
            losses[:, values == member],
            SMALL_GRID,
            0.3,
            0.2 / len(members),
            lambda k, n, p: reference.binomial_cdf(round(k), n, p),
        )
        for member in members
    ]
    certificate = certify(table, scores, request, grid=SMALL_GRID)
    assert certificate.threshold == max(alone) < 1
    assert (
        certificate.threshold
        > certify(table, scores, replace(request, groups="marginal"), grid=SMALL_GRID).threshold
    )
    assert certificate.num_groups == len(members)


def test_a_group_that_is_too_small_makes_it_abstain_and_names_the_group():
    correct, scores = realistic_case(0, 400)
    clients = np.where(np.arange(400) < 30, 7, 2)
    certificate = certify(
        table_of(correct, client_ids=clients),
        scores,
        CertificateRequest("ltt", "accuracy_gap", 0.05, 0.1, "client"),
    )
    assert (certificate.abstained, certificate.threshold, certificate.calibration_risk) == (
        True,
        NEVER_EXIT,
        0.0,
    )
    assert (
        certificate.reason
        == f"client 7 has 30 samples in the calibrate role; a certificate for each of 2 groups needs at least {smallest_n(0.05, 0.05)}"
    )
    assert "Nothing could be certified: client 7" in certificate.promise
    by_class = certify(
        table_of(correct), scores, CertificateRequest("ltt", "accuracy_gap", 0.05, 0.1, "class")
    )
    assert "class 1 has 0 samples" in by_class.reason


def test_too_few_samples_altogether_are_an_error_with_the_number_needed():
    correct, scores = realistic_case(0, 113)
    with pytest.raises(
        DataError,
        match=r"calibration has 113 samples; a certificate at an epsilon of 0\.02 and a delta of 0\.1 needs at least 114",
    ):
        certify(table_of(correct), scores, CertificateRequest())
    with pytest.raises(
        DataError,
        match=r"calibration has 113 samples; a certificate at an epsilon of 0\.005 needs at least 199",
    ):
        certify(table_of(correct), scores, CertificateRequest("conformal", epsilon=0.005))


def test_abstaining_is_an_answer():
    wrong_and_sure = table_of([[0] * 300, [0] * 300, [1] * 300])
    certificate = certify(wrong_and_sure, np.ones((2, 300)), CertificateRequest())
    assert (certificate.abstained, certificate.threshold) == (True, NEVER_EXIT)
    assert (
        certificate.reason
        == "already the highest threshold below never exiting, 1, can't be certified for all samples"
    )
    evaluated = evaluate_certificate(certificate, wrong_and_sure, np.ones((2, 300)))
    assert evaluated.test_risk == 0


def test_consistency_needs_no_labels_and_others_say_so():
    table, scores = random_table(1, 300)
    unlabelled = replace(table, labels=np.full(300, -1))
    request = CertificateRequest("ltt", "consistency", 0.2, 0.1)
    assert certify(unlabelled, scores, request) == certify(table, scores, request)
    assert (
        evaluate_certificate(certify(table, scores, request), unlabelled, scores).worst_class
        is None
    )
    with pytest.raises(
        ValueError,
        match="loss accuracy_gap: 300 of 300 samples have no label; wanted all labelled, or the loss consistency",
    ):
        certify(unlabelled, scores, CertificateRequest(epsilon=0.2))
    with pytest.raises(ValueError, match="300 of 300 samples have no class"):
        certify(unlabelled, scores, replace(request, groups="class"))


def test_brier_needs_a_bound_for_any_loss():
    with pytest.raises(
        ValueError, match="binomial test is for losses of 0 and 1; wanted 'hoeffding_bentkus'"
    ):
        CertificateRequest("ltt", "brier")
    with pytest.raises(
        ValueError,
        match="certificate method: got 'magic'; wanted one of ltt, hoeffding_bentkus, conformal",
    ):
        CertificateRequest("magic")


def test_roles_and_grids_are_kept_apart():
    correct, scores = realistic_case(0, 300)
    with pytest.raises(
        TypeError, match="made on the calibrate role only, got a table of the role 'test'"
    ):
        certify(table_of(correct, TestTable), scores, CertificateRequest())
    with pytest.raises(
        TypeError,
        match="comes from the fit role or is fixed in advance, got a table of the role 'calibrate'",
    ):
        grid_from_fit(table_of(correct), scores)
    with pytest.raises(ValueError, match="grid: got no thresholds, or some outside"):
        certify(table_of(correct), scores, CertificateRequest(), grid=np.asarray([0.5, 1.5]))
    grid = grid_from_fit(table_of(correct, FitTable), scores, points=50)
    assert (np.diff(grid) < 0).all() and len(grid) <= 51 and grid[-1] == 0
    assert set(grid[:-1]) <= set(np.maximum.accumulate(scores, axis=0).ravel())
    in_any_order = certify(
        table_of(correct), scores, CertificateRequest(epsilon=0.1), grid=grid[::-1]
    )
    assert in_any_order == certify(
        table_of(correct), scores, CertificateRequest(epsilon=0.1), grid=grid
    )


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (
            CertificateRequest(epsilon=0.1),
            [
                "With a probability of at least 90 %",
                "answered wrongly where the last exit would be right is at most 10 %",
                "a single class or client may fare worse",
            ],
        ),
        (
            CertificateRequest("hoeffding_bentkus", "brier", 0.1, 0.05),
            ["at least 95 %", "mean loss in Brier score"],
        ),
        (
            CertificateRequest("conformal", "consistency", 0.2),
            [
                "On average over draws of the 600 calibration samples",
                "answered otherwise than by the last exit",
                "may well exceed it",
            ],
        ),
        (
            CertificateRequest("ltt", "accuracy_gap", 0.3, 0.1, "client"),
            ["of each client in the calibrate role", "for all 4 of them together"],
        ),
    ],
)
def test_the_promise_says_what_holds_and_what_does_not(request_, parts):
    correct, scores = realistic_case(5, 600, skill=(0.6, 0.7, 0.75))
    promise = certify(table_of(correct, client_ids=np.arange(600) % 4), scores, request_).promise
    assert all(part in promise for part in [*parts, "It says nothing of data that drift"]), promise
    assert ("single class" in promise) == (request_.groups == "marginal")


def test_the_worst_groups_of_the_test_role_are_named():
    correct, scores = realistic_case(0, 300)
    certificate = certify(table_of(correct), scores, CertificateRequest(epsilon=0.1))
    table, scores = random_table(9, 500, kind=TestTable)
    found = evaluate_certificate(certificate, table, scores)
    lost = np.asarray(
        reference.loss_at(scores, exit_losses(table, "accuracy_gap"), certificate.threshold)
    )
    assert found.test_risk == pytest.approx(lost.mean())
    for worst, values in (
        (found.worst_class, table.labels),
        (found.worst_client, table.client_ids),
    ):
        risks = {int(value): lost[values == value].mean() for value in np.unique(values)}
        assert worst.risk == pytest.approx(max(risks.values())) == pytest.approx(risks[worst.index])
        assert worst.num_samples == (values == worst.index).sum()
    assert (
        evaluate_certificate(
            certificate, replace(table, client_ids=np.full(500, -1)), scores
        ).worst_client
        is None
    )


def gap_table(rng, count):
    """Scores are uniform; an early exit loses to the last with a probability of 0.6 (device), 0.4 (edge) x (1 - score) x 0.8."""
    scores, last = rng.random((2, count)), rng.random(count) < 0.8
    right = rng.random((2, count)) > np.where(last, np.asarray([[0.6], [0.4]]) * (1 - scores), 0.8)
    return table_of(np.concatenate([right, last[None]])), scores


def true_gap(threshold):
    at = min(threshold, 1.0)
    return 0.8 * (1 - at) ** 2 / 2 * (0.6 + 0.4 * at)


def violations(request, *, repeats=300, count=400, grid=None):
    risks = [
        true_gap(
            certify(*gap_table(np.random.default_rng([5, k]), count), request, grid=grid).threshold
        )
        for k in range(repeats)
    ]
    return sum(risk > request.epsilon for risk in risks), float(np.mean(risks))


@pytest.mark.parametrize("method", ["ltt", "hoeffding_bentkus"])
def test_a_certificate_is_violated_no_more_often_than_promised(method):
    count, mean = violations(CertificateRequest(method, epsilon=0.05, delta=0.1))
    assert count <= binom.ppf(0.999, 300, 0.1)
    assert 0.02 < mean < 0.05  # and it isn't so by never exiting


def test_conformal_risk_control_holds_on_average_only():
    count, mean = violations(CertificateRequest("conformal", epsilon=0.05))
    assert mean <= 0.05 + 0.002
    assert count > 0.2 * 300  # single deployments do violate


def test_naive_tuning_and_the_first_threshold_not_rejected_would_violate():
    grid, request = (
        default_grid(20),
        CertificateRequest(epsilon=0.05),
    )  # coarse: true risks jump over epsilon between two thresholds
    certified = naive = first_not_rejected = 0
    for k in range(200):
        table, scores = gap_table(np.random.default_rng([6, k]), 400)
        last_rejected = certify(table, scores, request, grid=grid).threshold
        sums = loss_sums(scores, exit_losses(table, "accuracy_gap"), grid)
        certified += true_gap(last_rejected) > 0.05
        naive += true_gap(grid[np.flatnonzero(sums / 400 <= 0.05)[-1]]) > 0.05
        first_not_rejected += true_gap(grid[np.flatnonzero(grid < last_rejected)[0]]) > 0.05
    most = binom.ppf(0.999, 200, 0.1)
    assert certified <= most < min(naive, first_not_rejected)


def test_a_class_certificate_holds_for_every_class():
    rng_count, broken = 100, 0
    for k in range(rng_count):
        rng = np.random.default_rng([7, k])
        table, scores = gap_table(rng, 800)
        labels = rng.integers(
            0, 2, 800
        )  # which class a sample is of has nothing to do with its loss here
        swapped = np.where(labels[None, :, None] == 1, table.logits[..., ::-1], table.logits)
        certificate = certify(
            replace(table, logits=swapped, labels=labels),
            scores,
            CertificateRequest("ltt", "accuracy_gap", 0.05, 0.1, "class"),
        )
        broken += true_gap(certificate.threshold) > 0.05
    assert broken <= binom.ppf(0.999, rng_count, 0.1)
