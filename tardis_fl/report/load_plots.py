"""Plots of requests over time: how long they take, what on, and what more of them would do."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tardis_fl.report.results import Report
from tardis_fl.report.style import MUTED, SERIES, WRONG

SPENT_ON = {
    "compute": SERIES[0],
    "queue": WRONG,
    "serialise": SERIES[1],
    "propagate": MUTED,
    "retry": SERIES[3],
}


def latency_cdf(axes: Axes, report: Report) -> None:
    """Draws the share of answers that arrived within a time."""
    load = report.simulation
    assert load is not None
    axes.plot(
        np.maximum(load.latency_cdf_ms, 1e-6),
        np.linspace(0, 100, len(load.latency_cdf_ms)),
        color=SERIES[0],
    )
    overall = load.latency[0]
    for name, value in (("p50", overall.p50), ("p95", overall.p95), ("p99", overall.p99)):
        if value is not None:
            axes.axvline(value, color=MUTED, linewidth=1, linestyle=":")
            axes.annotate(
                name,
                (value, 3),
                xytext=(2, 0),
                textcoords="offset points",
                fontsize=8,
                color="#555",
            )
    axes.set(
        xlabel="ms from the intended send time", ylabel="% of answers", ylim=(0, 101), xscale="log"
    )


def breakdown(axes: Axes, report: Report) -> None:
    """Draws what the mean latency is spent on, stage by stage."""
    load = report.simulation
    assert load is not None
    names = [stage.stage for stage in load.breakdown]
    left = np.zeros(len(names))
    for kind, colour in SPENT_ON.items():
        widths = np.array([getattr(stage, kind) for stage in load.breakdown])
        if widths.any():
            axes.barh(names, widths, left=left, color=colour, height=0.6, label=kind)
        left += widths
    axes.invert_yaxis()
    axes.set(xlabel="ms, mean over all requests")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper right", fontsize=8)


def saturation(axes: Axes, report: Report) -> None:
    """Draws latency against the arrival rate."""
    load = report.simulation
    assert load is not None
    rates = [point.rate_per_device for point in load.saturation]
    axes.plot(
        rates,
        [point.mean for point in load.saturation],
        color=SERIES[0],
        marker="o",
        markersize=3,
        label="mean",
    )
    known = [
        (point.rate_per_device, point.p95) for point in load.saturation if point.p95 is not None
    ]
    if known:
        axes.plot(*zip(*known, strict=True), color=SERIES[1], marker="o", markersize=3, label="p95")
    limits = [
        station.max_rate_per_device
        for station in load.stations
        if station.max_rate_per_device is not None
    ]
    if limits and min(limits) < 3 * max(rates):
        axes.axvline(
            min(limits), color=WRONG, linewidth=1, linestyle="--", label="all that it holds"
        )
    axes.set(xlabel="requests a second and device", ylabel="latency (ms)", yscale="log")
    axes.legend()
