"""Mixed choices: hulls, budgets met exactly, and draws that belong to a sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.deployment.thresholds.frontier import frontier
from tardis_fl.deployment.thresholds.mixing import decide_mixed, hull, mix_for_budget, mixed_draw
from tardis_fl.deployment.thresholds.sweep import decide, mean_cost
from tardis_fl.errors import RunError
from tests.deployment.made_tables import random_case, realistic_case, table_of

BYTES = (0.0, 300.0, 500.0)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 60))
def test_no_pair_of_points_beats_the_hull(seed, count):
    correct, scores = random_case(seed, count)
    found = frontier(table_of(correct), scores)
    axis, corners = found.axis(BYTES), hull(found, BYTES)
    x, y = corners.cost(BYTES), corners.num_correct
    assert set(zip(x, y, strict=True)) <= set(zip(axis.cost(BYTES), axis.num_correct, strict=True))
    assert (
        np.interp(axis.cost(BYTES), x, y) >= axis.num_correct - 1e-9
    ).all()  # with concavity: no mix of points lies above
    slopes = np.diff(y) / np.diff(x)
    assert (np.diff(slopes) < 1e-12).all() and (slopes > 0).all()
    assert (x[0], y[-1]) == (axis.cost(BYTES)[0], axis.num_correct[-1])


@given(seed=st.integers(0, 1000), budget=st.floats(0, 500))
def test_the_expected_cost_equals_the_budget(seed, budget):
    correct, scores = realistic_case(seed, 80)
    found = frontier(table_of(correct), scores)
    mix = mix_for_budget(found, BYTES, budget)
    cost = float(mean_cost(np.asarray(mix.exit_counts), BYTES))
    dearest = hull(found, BYTES).cost(BYTES)[-1]
    assert cost == pytest.approx(min(budget, dearest), abs=1e-9)
    assert 0 <= mix.share < 1
    for thresholds, share in ((mix.first, 1 - mix.share), (mix.second, mix.share)):
        exits = decide(scores, thresholds)
        cost -= share * np.asarray(BYTES)[exits].mean()
    assert cost == pytest.approx(0, abs=1e-9)
    within = found.cost(BYTES) <= budget
    assert mix.num_correct >= found.num_correct[within].max() - 1e-9


def test_a_budget_above_all_or_on_a_corner_needs_no_mix_and_one_below_all_is_refused():
    correct, scores = realistic_case(0, 100)
    found = frontier(table_of(correct), scores)
    corners = hull(found, BYTES)
    generous = mix_for_budget(found, BYTES, 1e6)
    assert (generous.share, generous.first) == (0.0, tuple(corners.thresholds[-1]))
    assert generous.first == generous.second
    on_corner = mix_for_budget(found, BYTES, float(corners.cost(BYTES)[1]))
    assert (on_corner.share, on_corner.first) == (0.0, tuple(corners.thresholds[1]))
    with pytest.raises(
        RunError,
        match="a budget of 4 for latency_ms can't be met: never escalating costs 5 already",
    ):
        mix_for_budget(found, (5, 6, 7), 4, axis="latency_ms")


def test_draws_belong_to_the_sample_and_the_seed():
    ids = np.random.default_rng(0).permutation(10_000) - 50
    drawn = mixed_draw(ids, 7, 0.3)
    order = np.random.default_rng(1).permutation(len(ids))
    assert (mixed_draw(ids[order], 7, 0.3) == drawn[order]).all()
    assert [bool(mixed_draw(ids[k : k + 1], 7, 0.3)[0]) for k in range(50)] == drawn[:50].tolist()
    assert abs(drawn.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(ids))
    assert (
        abs((drawn == mixed_draw(ids, 8, 0.3)).mean() - (0.3**2 + 0.7**2)) < 0.03
    )  # another seed, another draw
    assert (mixed_draw(ids, 7, 0.5) >= drawn).all()
    assert not mixed_draw(ids, 7, 0.0).any() and mixed_draw(ids, 7, 1.0).all()


def test_draws_are_uniform_over_consecutive_ids():
    shares = np.linspace(0.05, 0.95, 19)
    counts = np.asarray([mixed_draw(np.arange(50_000), 3, share).mean() for share in shares])
    assert (np.abs(counts - shares) < 1.63 / np.sqrt(50_000)).all()  # Kolmogorov-Smirnov at 1 %
    pairs = mixed_draw(np.arange(50_000), 3, 0.5).reshape(-1, 2)
    assert abs((pairs[:, 0] == pairs[:, 1]).mean() - 0.5) < 0.015


def test_mixed_decisions_and_their_cost():
    correct, scores = realistic_case(4, 20_000)
    ids = np.arange(20_000) + 17
    first, second = (0.4, 0.4), (0.9, 0.9)
    exits = decide_mixed(scores, first, second, 0.25, sample_ids=ids, seed=1)
    draw = mixed_draw(ids, 1, 0.25)
    assert (exits[draw] == decide(scores, second)[draw]).all() and (
        exits[~draw] == decide(scores, first)[~draw]
    ).all()
    means = [np.asarray(BYTES)[decide(scores, thresholds)].mean() for thresholds in (first, second)]
    assert np.asarray(BYTES)[exits].mean() == pytest.approx(
        0.75 * means[0] + 0.25 * means[1], rel=0.02
    )
