"""The content of `frontier.json`: accuracy against each cost, exactly.

Keys are a contract: add, don't rename.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tardis_fl.deployment.pipeline import Prepared
from tardis_fl.deployment.thresholds.frontier import Frontier, frontier
from tardis_fl.deployment.thresholds.sweep import decide, mean_cost

SCHEMA_VERSION = 1
AXES = {
    "offload_rate": ("share that leaves the device", "%"),
    "bytes": ("bytes a sample, all boundaries", "B"),
    "macs": ("multiply-accumulates a sample", "M"),
    "latency_ms": ("mean latency without load", "ms"),
    "energy_mj": ("mean energy of the device", "mJ"),
}
"""What a person reads for each axis of cost, and its unit."""


@dataclass(frozen=True)
class FrontierPoint:
    """Thresholds that no others beat on the calibrate role, and how they do on the test role.

    thresholds: one for each exit but the last. cost: mean of a sample on the axis (offload_rate is
        a share).
    """

    thresholds: list[float]
    accuracy: float
    cost: float
    exit_fractions: list[float]
    test_accuracy: float
    test_cost: float


@dataclass(frozen=True)
class AxisFrontier:
    """The frontier of accuracy against one cost, in ascending order of cost; exit_costs: the cost of a sample answered at each exit."""

    axis: str
    exit_costs: list[float]
    points: list[FrontierPoint]


@dataclass(frozen=True)
class FrontierReport:
    """All of `frontier.json`. kind: per_exit, or shared where there are more than three exits."""

    name: str
    policy: str
    kind: str
    num_calibration: int
    num_test: int
    tiers: list[str]
    axes: list[AxisFrontier]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries."""
        return asdict(self)

    def axis(self, name: str) -> AxisFrontier:
        """Returns the frontier against one cost."""
        return next(axis for axis in self.axes if axis.axis == name)

    def rows(self) -> list[dict[str, float | str]]:
        """Returns a flat row for each point, for a table of another program."""
        return [
            {
                "axis": axis.axis,
                "cost": point.cost,
                "accuracy": point.accuracy,
                "test_cost": point.test_cost,
                "test_accuracy": point.test_accuracy,
                **{
                    f"threshold_{tier}": value
                    for tier, value in zip(self.tiers, point.thresholds, strict=False)
                },
                **{
                    f"share_{tier}": value
                    for tier, value in zip(self.tiers, point.exit_fractions, strict=True)
                },
            }
            for axis in self.axes
            for point in axis.points
        ]


def frontier_report(name: str, policy: str, tiers: list[str], ready: Prepared) -> FrontierReport:
    """Finds the frontier on the calibrate role, and measures its thresholds on the test role."""
    tables = ready.tables
    assert tables.calibrate is not None
    found = frontier(tables.calibrate, ready.scoring.table_scores(tables.calibrate))
    scores, correct = ready.scoring.table_scores(tables.test), tables.test.correct()
    axes = [
        AxisFrontier(axis, list(costs), _points(found.axis(costs), costs, scores, correct))
        for axis, costs in ready.axes.items()
    ]
    return FrontierReport(
        name, policy, found.kind, len(tables.calibrate), len(tables.test), tiers, axes
    )


def _points(
    found: Frontier, costs: list[float], scores: np.ndarray, correct: np.ndarray
) -> list[FrontierPoint]:
    points = []
    for thresholds, right, counts, cost in zip(
        found.thresholds, found.num_correct, found.exit_counts.T, found.cost(costs), strict=True
    ):
        exits = decide(scores, thresholds)
        fractions = counts / found.num_samples
        test_counts = np.bincount(exits, minlength=len(correct))
        points.append(
            FrontierPoint(
                thresholds.tolist(),
                float(right / found.num_samples),
                float(cost),
                fractions.tolist(),
                float(correct[exits, np.arange(len(exits))].mean()),
                float(mean_cost(test_counts, costs)),
            )
        )
    return points


def thinned(axis: AxisFrontier, most: int = 12) -> list[FrontierPoint]:
    """Returns the two ends of a frontier and a few points between, evenly spaced in accuracy, for a person to read."""
    accuracy = np.array([point.accuracy for point in axis.points])
    wanted = np.linspace(accuracy[0], accuracy[-1], most)
    return [
        axis.points[index]
        for index in np.unique([int(np.abs(accuracy - value).argmin()) for value in wanted])
    ]
