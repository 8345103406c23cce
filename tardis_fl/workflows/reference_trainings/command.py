"""Adds reference rows to a run's report, one by one; rows that are there stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from tardis_fl.config import Config
from tardis_fl.core.atomic import write_json, write_text
from tardis_fl.errors import ConfigError, RunError, TardisError
from tardis_fl.report.render import render_html, render_markdown
from tardis_fl.report.results import ReferenceRow, Report
from tardis_fl.report.terminal import Screen
from tardis_fl.report.text import bytes_text, percent
from tardis_fl.runs.finished import finished_report, is_unfinished
from tardis_fl.workflows.experiment import simulate
from tardis_fl.workflows.reference_trainings.trainings import CLIENT_ALONE, ROWS


def add_reference_rows(config: Config, folder: Path, screen: Screen, *, num_clients: int) -> Report:
    """Trains the rows that the run's report lacks, and writes the report again after each.

    Where there is no finished run in the folder, it is made first.

    Args:
        config: The run's configuration.
        folder: The run's folder.
        screen: Shows the run, and one line a row.
        num_clients: Clients that train alone, at most.

    Returns:
        The report with its rows.

    Raises:
        ConfigError: The folder holds a run of another configuration.
        DataError: The report is damaged, or data is missing.
        RunError: The run, or one or more rows, failed; the others are in the report.
    """
    report = finished_report(folder, config)
    if report is None:
        report = simulate(config, folder, screen, resume=is_unfinished(folder))
    # The rows are trained in this process, whatever engine trained the run itself.
    inline = config.runtime.model_copy(update={"engine": "inline"})
    here = config.model_copy(update={"runtime": inline})
    print_ = screen.console.print
    failed: list[str] = []
    for name in missing_rows(config, report.reference_rows, num_clients):
        try:
            with screen.console.status(f"training {_words(name)}"):
                row = ROWS[name](here, num_clients)
        except ConfigError:
            raise
        except TardisError as error:
            failed.append(name)
            print_(
                f"[bold yellow]{_words(name)} failed:[/bold yellow] {escape(str(error))}",
                soft_wrap=True,
            )
            continue
        report = replace(report, reference_rows=in_order([*report.reference_rows, row]))
        write_reports(report, folder)
        print_(
            f"{_words(name)}  {_accuracies(row)}  {row.seconds:.1f} s{_failures(row)}",
            soft_wrap=True,
        )
    print_()
    print_(_table(report))
    path = escape(str(folder / "report.html"))
    print_(f"\nreport: [bold]{path}[/bold] (also report.md, report.json)", soft_wrap=True)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(ROWS)} reference rows failed ({', '.join(failed)}); "
            "the other rows are in the report"
        )
    return report


def missing_rows(config: Config, rows: Sequence[ReferenceRow], num_clients: int) -> list[str]:
    """Returns the names of the rows to train.

    Those that are missing, and client_alone where it is of another number of clients.
    """
    there = {row.name: row for row in rows}
    wanted_runs = min(num_clients, config.federation.num_clients)
    return [
        name
        for name in ROWS
        if name not in there or (name == CLIENT_ALONE and there[name].num_runs != wanted_runs)
    ]


def in_order(rows: Sequence[ReferenceRow]) -> list[ReferenceRow]:
    """Returns the last row of each name, in the order of `ROWS`, then those of other names."""
    latest = {row.name: row for row in rows}
    known = [latest[name] for name in ROWS if name in latest]
    unknown = [row for name, row in latest.items() if name not in ROWS]
    return [*known, *unknown]


def write_reports(report: Report, folder: Path) -> None:
    """Replaces the three forms of a run's report, the one that is read back last."""
    write_text(folder / "report.md", render_markdown(report))
    write_text(folder / "report.html", render_html(report))
    write_json(folder / "report.json", report.to_json())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _accuracies(row: ReferenceRow) -> str:
    runs = f" (mean of {row.num_runs} clients)" if row.accuracy_std else ""
    return " / ".join(percent(value) for value in row.accuracy) + runs


def _failures(row: ReferenceRow) -> str:
    return f", clients failed {row.num_failures} times" if row.num_failures else ""


def _table(report: Report) -> Table:
    table = Table(
        "",
        *(escape(exit.tier) for exit in report.exits),
        "sent up in training",
        title="reference rows: the same data and budget, trained in other ways",
    )
    table.title_justify = "left"
    for column in table.columns[1:]:
        column.justify = "right"
    own = (percent(exit.accuracy) for exit in report.exits)
    table.add_row(
        "[bold]this run[/bold]", *own, bytes_text(sum(report.federation.bytes_up.values()))
    )
    for row in report.reference_rows:
        deviations = row.accuracy_std or [None] * len(row.accuracy)
        cells = [
            percent(value) + (f" ± {percent(spread)}" if spread is not None else "")
            for value, spread in zip(row.accuracy, deviations, strict=True)
        ]
        name = _words(row.name) + (f", {row.num_runs} clients" if row.name == CLIENT_ALONE else "")
        table.add_row(
            name, *cells, bytes_text(sum(row.bytes_up.values()) + row.raw_images_bytes_up)
        )
    return table
