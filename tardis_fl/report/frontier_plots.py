"""The plots of the frontier's page, as SVG text or as figures."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tardis_fl.report.frontiers import AXES, AxisFrontier, FrontierReport
from tardis_fl.report.plots import drawn, svg
from tardis_fl.report.style import MUTED, SERIES


def draw_frontiers(report: FrontierReport) -> list[tuple[str, str, str]]:
    """Returns (title, what to see in it, SVG) for each axis of cost."""
    caption = "Lines: the calibrate role, on which the thresholds are best. Dots: the same thresholds on the test role. Up and left is better."
    return [
        (f"Accuracy against {AXES[axis.axis][0]}", caption, svg(_drawing(axis)))
        for axis in report.axes
    ]


def frontier_figure(axis: AxisFrontier) -> Figure:
    """Draws accuracy against one cost, on the calibrate and the test role."""
    return drawn(_drawing(axis))


def _drawing(axis: AxisFrontier) -> Callable[[Axes], None]:
    scale = {"%": 100.0, "M": 1e-6}.get(AXES[axis.axis][1], 1.0)

    def draw(axes: Axes) -> None:
        costs = [scale * point.cost for point in axis.points]
        axes.step(
            costs,
            [100 * point.accuracy for point in axis.points],
            where="post",
            color=SERIES[0],
            label="calibrate",
        )
        axes.scatter(
            [scale * point.test_cost for point in axis.points],
            [100 * point.test_accuracy for point in axis.points],
            s=6,
            color=SERIES[1],
            label="test",
        )
        axes.scatter(
            [costs[0], costs[-1]],
            [100 * axis.points[0].accuracy, 100 * axis.points[-1].accuracy],
            s=18,
            color=MUTED,
            zorder=3,
        )
        axes.set(xlabel=f"{AXES[axis.axis][0]} ({AXES[axis.axis][1]})", ylabel="accuracy (%)")
        axes.legend(loc="lower right")

    return draw
