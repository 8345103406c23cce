"""Budgets between two points of the frontier: each sample is decided by one of two choices of thresholds, at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.core.randomness import Purpose, integer_seed
from tardis_fl.deployment.thresholds.frontier import Frontier
from tardis_fl.deployment.thresholds.sweep import Integers, checked_budget, decide


@dataclass(frozen=True)
class Mix:
    """Two choices of thresholds, and how often the second is taken.

    Attributes:
        first: One for each exit but the last; the cheaper choice.
        second: The dearer choice; as the first where nothing is mixed.
        share: Of samples that the second decides on, in [0, 1).
        num_correct: Right answers on the table, expected over draws.
        exit_counts: Samples of the table that each exit answers, expected over draws.
        num_samples: Samples in the table.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    share: float
    num_correct: float
    exit_counts: tuple[float, ...]
    num_samples: int


def hull(frontier: Frontier, axis_costs: Sequence[float]) -> Frontier:
    """Returns the points of the upper concave hull of accuracy against one cost, in ascending order of cost (Andrew's monotone chain)."""
    rows = frontier.axis(axis_costs)
    points = list(zip(rows.cost(axis_costs).tolist(), rows.num_correct.tolist(), strict=True))
    kept: list[int] = []
    for index, (cost, right) in enumerate(points):
        while len(kept) > 1:
            (x0, y0), (x1, y1) = points[kept[-2]], points[kept[-1]]
            if (y1 - y0) * (cost - x0) > (right - y0) * (x1 - x0):
                break
            kept.pop()  # on or below the line from the point before it to the new one
        kept.append(index)
    return rows.rows(np.asarray(kept))


def mix_for_budget(
    frontier: Frontier, axis_costs: Sequence[float], budget: float, *, axis: str = "cost"
) -> Mix:
    """Mixes the two neighbours on the hull between which a budget lies, so that the expected mean cost equals the budget.

    No random choice among thresholds of the frontier is more accurate in expectation. Where the
    budget is larger than the cost of the most accurate point, that point is taken alone and costs
    less.

    Args:
        frontier: Of the calibrate role.
        axis_costs: For each exit, the whole cost of a sample that it answers.
        budget: Largest mean cost of a sample.
        axis: Name of the cost, for the error.

    Raises:
        RunError: The budget is below the least cost.
    """
    points = hull(frontier, axis_costs)
    costs = points.cost(axis_costs)
    checked_budget(axis, budget, float(costs[0]))
    below = int(np.searchsorted(costs, budget * (1 + 1e-12), side="right")) - 1
    below = max(below, 0)
    above, share = below, 0.0
    if below + 1 < len(costs) and costs[below] < budget:
        above, share = below + 1, float((budget - costs[below]) / (costs[below + 1] - costs[below]))

    def mixed(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return (1 - share) * values[..., below] + share * values[..., above]

    first, second = (tuple(points.thresholds[row].tolist()) for row in (below, above))
    return Mix(
        first,
        second,
        share,
        float(mixed(points.num_correct)),
        tuple(mixed(points.exit_counts).tolist()),
        points.num_samples,
    )


def mixed_draw(sample_ids: npt.NDArray[np.int64], seed: int, share: float) -> npt.NDArray[np.bool_]:
    """Draws which samples the second choice decides on (N,), each with probability `share`.

    A sample's draw depends on the seed and its id alone, not on its batch or place, and a larger
    share only adds samples. Uniform numbers are the finalised counters of SplitMix64 (Steele, Lea,
    Flood 2014), the id being the counter.
    """
    counter = np.atleast_1d(np.asarray(sample_ids)).astype(np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        bits = counter * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
            integer_seed(seed, Purpose.MIXING)
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)) * 2.0**-53 < share


def decide_mixed(
    scores: npt.NDArray[np.float64],
    first: Sequence[float],
    second: Sequence[float],
    share: float,
    *,
    sample_ids: npt.NDArray[np.int64],
    seed: int,
) -> Integers:
    """Returns which exit answers each sample (N,), where `mixed_draw` says which thresholds decide on it."""
    return np.where(
        mixed_draw(sample_ids, seed, share), decide(scores, second), decide(scores, first)
    )
