"""The exact frontier against all combinations of thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tardis_fl.deployment.thresholds.frontier import frontier
from tardis_fl.deployment.thresholds.sweep import decide, sweep
from tests.deployment.made_tables import random_case, realistic_case, table_of
from tests.reference import frontier as reference

COSTS = {
    "offload_rate": (0, 1, 1),
    "bytes": (0, 3, 5),
    "macs": (1, 2, 6),
    "latency_ms": (2, 2, 7),
    "energy_mj": (3, 9, 9),
}


def points(rows, *axes):
    """(right answers, total of each axis) of each row."""
    return [
        (int(right), *(reference.total(counts.tolist(), axis) for axis in axes))
        for right, counts in zip(rows.num_correct, rows.exit_counts.T, strict=True)
    ]


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    levels=st.sampled_from([None, 1, 3, 8]),
    num_exits=st.sampled_from([2, 3]),
)
@example(seed=0, count=1, levels=1, num_exits=3)
def test_the_frontier_equals_all_combinations_of_thresholds(seed, count, levels, num_exits):
    correct, scores = random_case(seed, count, num_exits=num_exits, levels=levels)
    found = frontier(table_of(correct), scores)
    outcomes = reference.all_outcomes(scores, correct)
    crossings = [(0, 1)] if num_exits == 2 else [(0, 1, 1), (0, 0, 1)]
    got = points(found, *crossings)
    assert len(got) == len(set(got))
    assert set(got) == reference.unbeaten(
        (right, *(reference.total(counts, axis) for axis in crossings))
        for right, counts in outcomes
    )
    axes = [axis[:num_exits] for axis in COSTS.values()]
    for axis in axes:
        assert points(found.axis(axis), axis) == sorted(
            reference.unbeaten((right, reference.total(counts, axis)) for right, counts in outcomes)
        )
    joint = points(found.joint({name: axis[:num_exits] for name, axis in COSTS.items()}), *axes)
    assert len(joint) == len(set(joint))
    assert set(joint) == reference.unbeaten(
        (right, *(reference.total(counts, axis) for axis in axes)) for right, counts in outcomes
    )


@pytest.mark.parametrize("levels", [None, 20])
def test_every_threshold_gives_what_its_row_says(levels):
    correct, scores = realistic_case(1, 300)
    if levels:
        scores = np.round(scores * levels) / levels
    found = frontier(table_of(correct), scores)
    assert len(found) > 50
    for row, thresholds in enumerate(found.thresholds):
        exits = decide(scores, thresholds)
        assert np.bincount(exits, minlength=3).tolist() == found.exit_counts[:, row].tolist()
        assert int(correct[exits, np.arange(300)].sum()) == found.num_correct[row]


def test_rows_come_by_offload_and_right_answers_and_an_axis_by_cost():
    found = frontier(table_of(realistic_case(2, 300)[0]), realistic_case(2, 300)[1])
    rank = found.offload_rate * 1000 + found.num_correct / 1000
    assert (np.diff(rank) > 0).all()
    axis = found.axis(COSTS["macs"])
    assert (np.diff(axis.cost(COSTS["macs"])) > 0).all() and (np.diff(axis.num_correct) > 0).all()
    assert axis.accuracy[-1] == found.accuracy.max()


def test_a_frontier_by_hand():
    # the device is right on sample 0 only, the edge on 0 and 1, the cloud on 0, 1 and 2; scores
    # fall with the number
    correct = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    scores = np.asarray([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.95]])
    found = frontier(table_of(correct), scores)
    # all stay; samples 2 and 3 leave and the cloud answers 2; samples 1 to 3 leave and the edge
    # answers all; or the cloud answers 2
    assert points(found, (0, 1, 1), (0, 0, 1)) == [(1, 0, 0), (2, 2, 1), (2, 3, 0), (3, 3, 1)]
    assert found.thresholds.tolist() == [[0.0, 0.0], [0.8, 0.8], [0.9, 0.0], [0.9, 0.8]]
    assert (found.kind, found.num_samples) == ("per_exit", 4)


def test_the_frontier_is_no_worse_than_a_shared_threshold_anywhere():
    correct, scores = realistic_case(3, 400)
    table = table_of(correct)
    found, shared = frontier(table, scores), sweep(table, scores)
    for costs in COSTS.values():
        axis = found.axis(costs)
        for right, cost in zip(shared.num_correct, shared.cost(costs), strict=True):
            assert ((axis.num_correct >= right) & (axis.cost(costs) <= cost + 1e-9)).any()


def test_four_exits_get_the_frontier_of_shared_thresholds_and_it_says_so():
    correct, scores = random_case(5, 80, num_exits=4)
    found = frontier(table_of(correct), scores)
    assert found.kind == "shared"
    assert (found.thresholds == found.thresholds[:, :1]).all()
    outcomes = {
        reference.outcome(scores, correct, (t, t, t))
        for t in [0.0, *np.unique(scores).tolist(), 1.01]
    }
    crossings = [(0, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1)]
    assert set(points(found, *crossings)) == reference.unbeaten(
        (right, *(reference.total(counts, axis) for axis in crossings))
        for right, counts in outcomes
    )


def test_all_exits_alike_and_useless_deeper_exits():
    same = frontier(table_of(np.ones((3, 5))), np.full((2, 5), 0.5))
    assert points(same, (0, 1, 1)) == [(5, 0)]
    worse = frontier(table_of([[1, 1], [0, 0], [0, 0]]), np.asarray([[0.2, 0.4], [0.1, 0.3]]))
    assert worse.thresholds.tolist() == [[0.0, 0.0]]


def test_bad_input_is_refused():
    correct, scores = random_case(0, 6)
    with pytest.raises(
        ValueError,
        match=r"scores: got the shape \(2, 5\); wanted \(exits - 1, samples\) = \(2, 6\)",
    ):
        frontier(table_of(correct), scores[:, :5])
    with pytest.raises(ValueError, match="scores: got NaN for 6 of 6 samples"):
        frontier(table_of(correct), np.full((2, 6), np.nan))
    with pytest.raises(ValueError, match="wanted at least 2 exits and 1 sample"):
        frontier(table_of(correct[:, :0]), scores[:, :0])
    found = frontier(table_of(correct), scores)
    with pytest.raises(ValueError, match="can't fall with depth"):
        found.cost((0, 2, 1))
    with pytest.raises(ValueError, match="wanted one finite cost for each of 3 exits"):
        found.cost((0, 2))
