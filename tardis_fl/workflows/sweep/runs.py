"""Runs a grid, one run after the other, and keeps what is done."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tardis_fl.config import Config
from tardis_fl.core.atomic import write_json, write_text
from tardis_fl.errors import ConfigError, RunError, TardisError
from tardis_fl.report.render import render_template
from tardis_fl.report.terminal import Screen
from tardis_fl.report.text import percent
from tardis_fl.runs.finished import finished_report, is_unfinished
from tardis_fl.workflows.experiment import simulate
from tardis_fl.workflows.sweep.grid import Grid
from tardis_fl.workflows.sweep.summary import Run, Summary, pending, with_run


def run_sweep(grid: Grid, folder: Path, console: Console) -> Summary:
    """Runs what isn't finished yet, seed by seed over all points, and shows the table.

    After every run `sweep.json` and `sweep.md` are written, so a sweep that was interrupted goes on
    when it is called again.

    Args:
        grid: What to run.
        folder: Holds a folder for each point, with one for each seed.
        console: One line a run, and the table.

    Returns:
        All runs; those that failed say why.

    Raises:
        ConfigError: A folder holds a run of another configuration; nothing was trained.
        RunError: The sweep's folder can't be written.
    """
    order = [
        (number, index) for index in range(len(grid.seeds)) for number in range(len(grid.points))
    ]
    paths = {
        (number, index): folder / grid.points[number].name / f"seed_{grid.seeds[index]}"
        for number, index in order
    }
    there = {key: finished_report(paths[key], grid.points[key[0]].configs[key[1]]) for key in order}
    _make(folder)
    summary = pending(grid)
    for position, (number, index) in enumerate(order, start=1):
        point, seed, report = grid.points[number], grid.seeds[index], there[number, index]
        what = f"{position}/{len(order)}  {point.name}  seed {seed}"
        if report is not None:
            run, after = Run(seed, "done", report=report), "was there"
        else:
            started = time.monotonic()
            with console.status(escape(what)):
                run = _run(point.configs[index], paths[number, index])
            after = f"{time.monotonic() - started:.1f} s"
        summary = with_run(summary, number, run)
        console.print(f"{escape(what)}  {_outcome(run)}  {after}", soft_wrap=True)
        write_json(folder / "sweep.json", summary.to_json())
        write_text(folder / "sweep.md", render_template("sweep.md.jinja", sweep=summary))
    _show(summary, folder, console)
    return summary


def _run(config: Config, folder: Path) -> Run:
    quiet = Screen(Console(quiet=True, force_terminal=False))
    try:
        report = simulate(config, folder, quiet, resume=is_unfinished(folder))
    except TardisError as error:
        return Run(config.seed, "failed", error=str(error))
    return Run(config.seed, "done", report=report)


def _outcome(run: Run) -> str:
    if run.report is None:
        return f"[bold yellow]failed:[/bold yellow] {escape(str(run.error))}"
    point = run.report.operating_point
    return f"accuracy {percent(point.accuracy)}  offload {percent(point.offload_rate)}"


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; wanted a folder for the sweep, see --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: can't make this folder ({error.strerror or error}); "
            "choose another with --output DIR"
        ) from None


def _show(summary: Summary, folder: Path, console: Console) -> None:
    title = "mean over seeds ± half width of its 95 % interval, on the test split"
    table = Table(title=f"{summary.grid.name}: {title}", title_justify="left")
    for number, heading in enumerate(summary.headings()):
        varied = number < max(1, len(summary.grid.labels))
        table.add_column(escape(heading), justify="left" if varied else "right", no_wrap=not varied)
    for row in summary.rows():
        table.add_row(*(escape(cell) for cell in row))
    console.print()
    console.print(table)
    for warning in summary.warnings:
        console.print(f"[bold yellow]warning:[/bold yellow] {escape(warning)}", soft_wrap=True)
    console.print(
        f"\nsweep: [bold]{escape(str(folder / 'sweep.md'))}[/bold] (also sweep.json)",
        soft_wrap=True,
    )
