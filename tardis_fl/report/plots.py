"""The plots of the report, as SVG text or as figures. Every one is drawn from the report alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tardis_fl.report import load_plots
from tardis_fl.report.results import Report
from tardis_fl.report.style import MUTED, RIGHT, SERIES, STYLE, WRONG

Plot = Literal["rounds", "frontier", "thresholds", "tiers", "classes", "clients"]
FAILURE_COLOURS = {"dropout": "#d98b1f", "late": "#8a5a2b", "error": WRONG, "rejected": "#a3477f"}


def draw_all(report: Report) -> list[tuple[str, str, str]]:
    """Returns (title, what to see in it, SVG) for each plot."""
    plots: list[tuple[str, str, Callable[[Axes, Report], None]]] = [
        (
            "Accuracy of each exit, round by round",
            "On samples the clients held out. The shaded part is the server's final training of the deeper segments.",
            _learning,
        ),
        (
            "Accuracy and offload against the threshold",
            "Lines: test role. Dashes: calibrate role. Vertical: the operating point's threshold.",
            _thresholds,
        ),
        (
            "Accuracy against bytes",
            "Up and left is better. The curve is every shared threshold on the test role.",
            _frontier,
        ),
        (
            "Who answers, and how well",
            "Test samples that each tier answers, split in right and wrong.",
            _tiers,
        ),
        (
            "Per class",
            "Accuracy at the operating point, and the share of the class that leaves the device.",
            _classes,
        ),
        ("Labels of the clients", "Samples that each client holds, by class.", _clients),
    ]
    if any(row.failures or row.num_late for row in report.participation):
        plots.append(
            (
                "Who took part",
                "Clients chosen in each round: whose updates were taken at once, came late, or failed, and how.",
                _participation,
            )
        )
    if report.simulation is not None:
        plots += [
            (
                "How long requests take",
                "Share of answers that arrived within a time, under the simulated load.",
                load_plots.latency_cdf,
            ),
            (
                "What the time is spent on",
                "Means over all requests, also those that were given up on the way; a stage that few reach adds little.",
                load_plots.breakdown,
            ),
        ]
        if len(report.simulation.saturation) > 1:
            plots.append(
                (
                    "Latency against load",
                    "The same deployment at other arrival rates.",
                    load_plots.saturation,
                )
            )
    return [(title, caption, svg(partial(draw, report=report))) for title, caption, draw in plots]


class NotebookFigure(Figure):
    """A figure that a notebook shows without `pyplot`, and so without a window or a second copy."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def figure(report: Report, what: Plot) -> Figure:
    """Draws one of the report's plots.

    Args:
        report: Of a run or of a deployment.
        what: Which.

    Raises:
        ValueError: There is no such plot.
    """
    drawings: dict[Plot, Callable[[Axes, Report], None]] = {
        "rounds": _learning,
        "frontier": _frontier,
        "thresholds": _thresholds,
        "tiers": _tiers,
        "classes": _classes,
        "clients": _clients,
    }
    if what not in drawings:
        raise ValueError(f"plot: got {what!r}; wanted one of {', '.join(get_args(Plot))}")
    return drawn(lambda axes: drawings[what](axes, report))


def drawn(draw: Callable[[Axes], None]) -> Figure:
    """Returns a figure of one pair of axes in the style of the report."""
    with matplotlib.rc_context(STYLE):
        made = NotebookFigure(figsize=(6.4, 3.6), layout="constrained")
        draw(made.add_subplot())
    return made


def svg(draw: Callable[[Axes], None]) -> str:
    """Returns a figure of one pair of axes as SVG text, the same for the same content."""
    with matplotlib.rc_context(STYLE):
        buffer = io.StringIO()
        drawn(draw).savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _learning(axes: Axes, report: Report) -> None:
    points = [*report.history, *report.final_epochs]
    rounds = [point.round for point in points]
    for number, exit in enumerate(report.exits):
        accuracy = [100 * point.validation_accuracy[number] for point in points]
        axes.plot(
            rounds,
            accuracy,
            color=SERIES[number % len(SERIES)],
            marker="o",
            markersize=3,
            label=exit.tier,
        )
    if report.final_epochs:
        axes.axvspan(
            report.federation.rounds + 0.5, rounds[-1] + 0.5, color=MUTED, alpha=0.12, linewidth=0
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="round, then final epoch", ylabel="held-out accuracy (%)")
    axes.legend()


def _thresholds(axes: Axes, report: Report) -> None:
    for sweep in report.threshold_sweeps:
        dashed = "--" if sweep.role == "calibrate" else "-"
        chosen = [index for index, threshold in enumerate(sweep.thresholds) if threshold <= 1]
        thresholds = [sweep.thresholds[index] for index in chosen]
        axes.step(
            thresholds,
            [100 * sweep.accuracy[i] for i in chosen],
            color=SERIES[0],
            linestyle=dashed,
            where="pre",
            label="accuracy" if dashed == "-" else None,
        )
        axes.step(
            thresholds,
            [100 * sweep.offload_rate[i] for i in chosen],
            color=SERIES[1],
            linestyle=dashed,
            where="pre",
            label="leaves the device" if dashed == "-" else None,
        )
    for threshold in sorted(set(report.operating_point.thresholds)):
        axes.axvline(min(threshold, 1.0), color="#444", linewidth=1)
    axes.set(
        xlabel=f"shared threshold on {report.operating_point.policy.replace('_', ' ')}",
        ylabel="% of test samples",
        xlim=(-0.02, 1.02),
    )
    axes.legend(loc="lower right")


def _frontier(axes: Axes, report: Report) -> None:
    boundaries = [boundary.bytes for boundary in report.boundaries]
    test = next(sweep for sweep in report.threshold_sweeps if sweep.role == "test")
    axes.plot(
        test.bytes_per_sample,
        [100 * value for value in test.accuracy],
        color=SERIES[0],
        linewidth=1.5,
    )
    marks = {
        "device_only": "s",
        "edge_only": "D",
        "cloud_only_raw_image": "^",
        "random_escalation": "x",
        "oracle": "*",
    }
    for name, row in report.baselines.items():
        axes.scatter(
            [row.bytes_per_sample],
            [100 * row.accuracy],
            marker=marks.get(name, "o"),
            color=MUTED,
            zorder=3,
        )
        right_side = name == "edge_only" or row.bytes_per_sample > 0.6 * max(
            sum(boundaries), report.dataset.raw_image_bytes
        )
        axes.annotate(
            name.replace("_", " "),
            (row.bytes_per_sample, 100 * row.accuracy),
            xytext=(-6 if right_side else 6, 4),
            textcoords="offset points",
            fontsize=8,
            ha="right" if right_side else "left",
            color="#555",
        )
    point = report.operating_point
    axes.scatter([point.bytes_per_sample], [100 * point.accuracy], color=WRONG, zorder=4, s=45)
    axes.annotate(
        "operating point",
        (point.bytes_per_sample, 100 * point.accuracy),
        xytext=(6, -11),
        textcoords="offset points",
        fontsize=8,
        color=WRONG,
    )
    axes.set(xlabel="bytes a sample, all boundaries", ylabel="accuracy (%)")
    axes.margins(y=0.12)


def _tiers(axes: Axes, report: Report) -> None:
    names = [tier.tier for tier in report.tiers]
    right = np.array([tier.num_correct for tier in report.tiers])
    wrong = np.array([tier.num_answered for tier in report.tiers]) - right
    axes.bar(names, right, color=RIGHT, width=0.6, label="right")
    axes.bar(names, wrong, bottom=right, color=WRONG, width=0.6, label="wrong")
    for position, tier in enumerate(report.tiers):
        share = (
            f"{100 * tier.num_correct / tier.num_answered:.1f} % right"
            if tier.num_answered
            else "none"
        )
        axes.annotate(
            share,
            (position, tier.num_answered),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set(ylabel="test samples")
    axes.margins(y=0.15)
    axes.grid(axis="x", visible=False)
    axes.legend()


def _participation(axes: Axes, report: Report) -> None:
    rows = report.participation
    kinds = [kind for kind in FAILURE_COLOURS if any(row.failures.get(kind) for row in rows)]
    parts = {kind: np.array([row.failures.get(kind, 0) for row in rows]) for kind in kinds}
    late = np.array([row.num_late for row in rows])
    taken = np.array([row.num_chosen for row in rows]) - late - sum(parts.values())
    bars = [
        ("taken", taken, RIGHT),
        *([("late, for a later round", late, MUTED)] if late.any() else []),
        *((kind, parts[kind], FAILURE_COLOURS[kind]) for kind in kinds),
    ]
    bottom = np.zeros(len(rows))
    for label, heights, colour in bars:
        axes.bar(
            [row.round for row in rows],
            heights,
            bottom=bottom,
            width=0.8,
            color=colour,
            label=label,
        )
        bottom += heights
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="round", ylabel="clients", ylim=(0, 1.2 * max(bottom.max(), 1)))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper center", ncols=3, fontsize=8)


def _classes(axes: Axes, report: Report) -> None:
    classes = [row for row in report.classes if row.num_samples][:40]
    positions = np.arange(len(classes))
    axes.bar(
        positions - 0.2,
        [100 * row.num_correct / row.num_samples for row in classes],
        width=0.4,
        color=SERIES[0],
        label="accuracy",
    )
    axes.bar(
        positions + 0.2,
        [100 * row.num_offloaded / row.num_samples for row in classes],
        width=0.4,
        color=SERIES[1],
        label="leaves the device",
    )
    axes.set_xticks(positions, [row.name for row in classes], rotation=40, ha="right", fontsize=8)
    axes.set(ylabel="% of the class", ylim=(0, 112))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right", ncols=2, fontsize=8)


def _clients(axes: Axes, report: Report) -> None:
    counts = np.asarray(report.clients.label_counts)
    image = axes.imshow(counts, aspect="auto", cmap="Blues", interpolation="nearest")
    names = report.dataset.class_names
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(ylabel="client")
    axes.grid(visible=False)
    if counts.size <= 160:
        for (client, label), count in np.ndenumerate(counts):
            axes.text(
                label,
                client,
                str(count),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if count > 0.6 * counts.max() else "#333",
            )
    axes.figure.colorbar(image, ax=axes, label="samples")
