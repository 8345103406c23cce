"""Several runs in one plot: accuracy of each operating point against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tardis_fl.report.plots import drawn
from tardis_fl.report.results import Report
from tardis_fl.report.style import SERIES

Cost = Literal["offload_rate", "bytes_per_sample"]
LABELS: dict[Cost, str] = {
    "offload_rate": "share that leaves the device (%)",
    "bytes_per_sample": "bytes a sample, all boundaries",
}


def comparison_figure(names: Sequence[str], reports: Sequence[Report], cost: Cost) -> Figure:
    """Draws a point for each run, with the 95 % interval of its accuracy.

    Args:
        names: One a run.
        reports: One a run.
        cost: Of the operating point, on the horizontal axis.

    Raises:
        ValueError: There is no such cost.
    """
    if cost not in LABELS:
        raise ValueError(f"cost: got {cost!r}; wanted one of {', '.join(LABELS)}")

    def draw(axes: Axes) -> None:
        for number, (name, report) in enumerate(zip(names, reports, strict=True)):
            point = report.operating_point
            low, high = point.accuracy_interval
            below_and_above = [[100 * (point.accuracy - low)], [100 * (high - point.accuracy)]]
            axes.errorbar(
                [100 * point.offload_rate if cost == "offload_rate" else point.bytes_per_sample],
                [100 * point.accuracy],
                yerr=below_and_above,
                color=SERIES[number % len(SERIES)],
                marker="o",
                linestyle="none",
                capsize=3,
                label=name,
            )
        axes.set(xlabel=LABELS[cost], ylabel="accuracy (%)")
        axes.margins(x=0.1)
        axes.legend()

    return drawn(draw)
