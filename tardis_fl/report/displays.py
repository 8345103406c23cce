"""What an object of the Python API shows of itself: a table, as text or in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from tardis_fl.report.text import bytes_text, millijoules, milliseconds, percent

if TYPE_CHECKING:
    from tardis_fl.report.results import Report

GAP = "   "


@dataclass(frozen=True)
class Display:
    """A small table with a title and notes.

    Attributes:
        title: One line.
        headings: Of the columns.
        rows: Cells as text; the first column is aligned left, the others right.
        notes: Lines below the table.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Returns the table as lines of text."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        aligned = [_aligned(line, widths) for line in lines]
        return "\n".join([self.title, *aligned, *self.notes])

    def html(self) -> str:
        """Returns the table as HTML, for a notebook."""
        head = "".join(_cell("th", text, column) for column, text in enumerate(self.headings))
        body = "".join(
            f"<tr>{''.join(_cell('td', text, column) for column, text in enumerate(row))}</tr>"
            for row in self.rows
        )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return (
            f"<div><b>{escape(self.title)}</b></div>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"
        )


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    others = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
    return GAP.join(["", first, *others]).rstrip()


def _cell(tag: str, text: str, column: int) -> str:
    side = "right" if column else "left"
    return f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>'


def report_line(report: Report) -> str:
    """Returns the result of a report in a few words."""
    point = report.operating_point
    return f"accuracy {percent(point.accuracy)}, {percent(point.offload_rate)} leaves the device"


def report_display(report: Report, notes: Sequence[str] = ()) -> Display:
    """Returns each exit, the operating point and what to compare it with.

    Args:
        report: Of a run or of a deployment.
        notes: Lines below, before the report's own warnings.
    """
    point = report.operating_point
    hardware = report.hardware
    headings = ["", "accuracy", "leaves the device", "bytes a sample"]
    if hardware:
        headings += ["latency, no load", "device energy, no load"]
    rows = []
    for exit_, fraction in zip(report.exits, point.exit_fractions, strict=True):
        answers = f"exit {exit_.tier} (answers {percent(fraction)})"
        rows.append(_padded([answers, percent(exit_.accuracy)], len(headings)))
    own = [
        f"operating point ({point.policy})",
        percent(point.accuracy),
        percent(point.offload_rate),
        f"{point.bytes_per_sample:,.0f}",
    ]
    if hardware:
        own.append(milliseconds(hardware.no_load_latency_ms))
        own.append(millijoules(hardware.no_load_energy_mj))
    rows.append(own)
    for name, baseline in report.baselines.items():
        cells = [
            name.replace("_", " "),
            percent(baseline.accuracy),
            percent(baseline.offload_rate),
            f"{baseline.bytes_per_sample:,.0f}",
        ]
        if hardware:
            cells.append(milliseconds(baseline.latency_ms))
            cells.append(millijoules(baseline.energy_mj))
        rows.append(cells)
    sent = f"training sent {bytes_text(sum(report.federation.bytes_up.values()))} up"
    warnings = [f"warning: {warning}" for warning in report.warnings]
    title = f"{report.name}, on {report.dataset.num_test:,} test samples of {report.dataset.name}"
    return Display(title, headings, rows, [sent, *notes, *warnings])


def _padded(cells: list[str], count: int) -> list[str]:
    return [*cells, *[""] * (count - len(cells))]
