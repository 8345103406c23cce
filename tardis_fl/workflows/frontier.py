"""What accuracy costs: `python -m tardis_fl frontier RUN`, from a finished run's tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from tardis_fl.core.atomic import write_json, write_text
from tardis_fl.errors import ConfigError
from tardis_fl.workflows.redeploy import free_folder, read_finished_run

if TYPE_CHECKING:
    from tardis_fl.report.frontiers import FrontierReport
    from tardis_fl.report.terminal import Screen


def write_frontier(
    folder: Path, overrides: Sequence[str], screen: Screen, *, axis: str, name: str | None = None
) -> tuple[FrontierReport, Path]:
    """Finds the exact frontier of accuracy against every cost, and writes it into the run's folder.

    Args:
        folder: The run's folder.
        overrides: Texts of the form `deployment.key=value`: another policy, codec or hardware.
        screen: Shows some points of one axis.
        axis: Which.
        name: Of the folder under frontiers/; None: the next free number.

    Raises:
        ConfigError, DataError: See `tardis_fl.errors`.
    """
    from tardis_fl.deployment.pipeline import prepare
    from tardis_fl.report.frontiers import AXES, frontier_report
    from tardis_fl.report.render import render_frontier

    if axis not in AXES:
        raise ConfigError(f"--axis: got {axis!r}; wanted one of {', '.join(AXES)}")
    target = free_folder(folder / "frontiers", name)
    run = read_finished_run(folder, overrides, screen, measures=False)
    ready = prepare(run.config, run.tables, run.costs)
    if axis not in ready.axes:
        raise ConfigError(
            f"--axis: got {axis!r}; wanted one of {', '.join(ready.axes)}; "
            "latency_ms and energy_mj need deployment.hardware"
        )
    for link, sizes in zip(
        ready.machines.system.links if ready.machines else (), run.tables.test_bytes, strict=False
    ):
        link.check_payload(int(sizes.max()) + ready.extra_bytes)
    report = frontier_report(
        run.config.name,
        run.config.deployment.policy,
        [tier.name for tier in run.config.tiers],
        ready,
    )
    target.mkdir(parents=True)
    write_json(target / "frontier.json", report.to_json())
    write_text(target / "frontier.csv", _csv(report))
    write_text(target / "frontier.html", render_frontier(report))
    _show(report, axis, target, screen)
    return report, target


def _csv(report: FrontierReport) -> str:
    rows = report.rows()
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _show(report: FrontierReport, axis: str, target: Path, screen: Screen) -> None:
    from tardis_fl.report.frontiers import AXES, thinned
    from tardis_fl.report.text import cost_text, percent

    found = report.axis(axis)
    table = Table(
        AXES[axis][0],
        "accuracy",
        "on test",
        "accuracy on test",
        *(f"threshold {escape(tier)}" for tier in report.tiers[:-1]),
        title=f"some of the {len(found.points)} points that no others beat on the calibrate role",
        title_justify="left",
    )
    for column in table.columns:
        column.justify = "right"
    for point in thinned(found):
        thresholds = (f"{value:.4f}" for value in point.thresholds)
        table.add_row(
            cost_text(axis, point.cost),
            percent(point.accuracy),
            cost_text(axis, point.test_cost),
            percent(point.test_accuracy),
            *thresholds,
        )
    screen.console.print(table)
    path = escape(str(target / "frontier.html"))
    screen.console.print(
        f"\nfrontiers of all axes: [bold]{path}[/bold] (also frontier.csv, frontier.json)",
        soft_wrap=True,
    )
