"""What the Python API returns: runs, deployments, frontiers and comparisons.

Each prints itself: `repr` in a line, `print` and a notebook as a small table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tardis_fl.config import Config
from tardis_fl.report.displays import Display, report_display, report_line
from tardis_fl.report.results import Report
from tardis_fl.report.text import bytes_text, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tardis_fl.deployment.bundles.artefacts import Bundle
    from tardis_fl.early_exit.evaluation import ExitTable
    from tardis_fl.federation.records import RoundRecord
    from tardis_fl.report.frontiers import AxisFrontier, FrontierReport
    from tardis_fl.report.plots import Plot

Role = Literal["fit", "calibrate", "test"]


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: Where it lies.
        config: As it was resolved.
        report: All of `report.json`.
    """

    folder: Path
    config: Config
    report: Report

    def rounds(self) -> list[RoundRecord]:
        """Returns what happened in each round.

        Raises:
            DataError: A line can't be read.
        """
        return _records(self.folder / "rounds.jsonl")

    def final_epochs(self) -> list[RoundRecord]:
        """Returns what happened in each of the server's final epochs.

        Raises:
            DataError: A line can't be read.
        """
        return _records(self.folder / "final_epochs.jsonl")

    def exit_table(self, role: Role = "test") -> ExitTable:
        """Returns every exit's logits for each sample of a role.

        Args:
            role: `test`; `calibrate` or `fit`, which a run with `federation.calibration: sums`
                doesn't have.

        Returns:
            A table with `logits` (exits, N, classes), `labels`, `sample_ids` and `client_ids` (N,).

        Raises:
            DataError: The file is missing or damaged.
            ValueError: The run has no samples of this role.
        """
        from tardis_fl.deployment.exit_tables import read_exit_table

        tables = read_exit_table(self.folder / "exit_table.npz")
        if role not in tables:
            raise ValueError(f"role: got {role!r}; this run has {', '.join(tables)}")
        return tables[role]

    def bundle(self) -> Bundle:
        """Loads the trained network with what each tier decides by.

        Raises:
            DataError: A file is missing or damaged.
        """
        from tardis_fl.deployment.bundles.artefacts import load_bundle

        return load_bundle(self.folder / "model", trust_functions=True)  # the user's own run

    def plot(self, what: Plot = "rounds") -> Figure:
        """Draws one of the report's plots.

        Args:
            what: `rounds` (accuracy of each exit, round by round), `frontier` (accuracy against
                bytes), `thresholds`, `tiers`, `classes` or `clients`.

        Raises:
            ValueError: There is no such plot.
        """
        from tardis_fl.report.plots import figure

        return figure(self.report, what)

    def __repr__(self) -> str:
        return f"Run({self.config.name!r}: {report_line(self.report)}; {self.folder})"

    def __str__(self) -> str:
        return self._display().text()

    def _repr_html_(self) -> str:
        return self._display().html()

    def _display(self) -> Display:
        return report_display(self.report, [f"folder: {self.folder}"])


@dataclass(frozen=True, repr=False)
class Deployment:
    """A finished run, deployed again with other settings.

    Attributes:
        folder: Where it lies, in the run's folder.
        config: With the changes.
        report: All of its `report.json`.
    """

    folder: Path
    config: Config
    report: Report

    def plot(self, what: Plot = "frontier") -> Figure:
        """Draws one of the report's plots; see `Run.plot`."""
        from tardis_fl.report.plots import figure

        return figure(self.report, what)

    def __repr__(self) -> str:
        return f"Deployment({self.folder.name!r}: {report_line(self.report)}; {self.folder})"

    def __str__(self) -> str:
        return self._display().text()

    def _repr_html_(self) -> str:
        return self._display().html()

    def _display(self) -> Display:
        return report_display(self.report, [f"folder: {self.folder}"])


@dataclass(frozen=True, repr=False)
class FrontierResult:
    """The exact frontier of accuracy against every cost of a run.

    Attributes:
        folder: Where it lies, in the run's folder.
        report: All of `frontier.json`.
        axis: The cost that it shows and plots.
    """

    folder: Path
    report: FrontierReport
    axis: str

    @property
    def points(self) -> AxisFrontier:
        """The frontier against the cost `axis`."""
        return self.report.axis(self.axis)

    def plot(self) -> Figure:
        """Draws accuracy against the cost, on the calibrate and the test role."""
        from tardis_fl.report.frontier_plots import frontier_figure

        return frontier_figure(self.points)

    def __repr__(self) -> str:
        count = len(self.points.points)
        return f"FrontierResult({self.axis}: {count} points; {self.folder})"

    def __str__(self) -> str:
        return self._display().text()

    def _repr_html_(self) -> str:
        return self._display().html()

    def _display(self) -> Display:
        from tardis_fl.report.frontiers import AXES, thinned
        from tardis_fl.report.text import cost_text

        cost = AXES[self.axis][0]
        headings = [cost, "accuracy", "on test", "accuracy on test"]
        headings += [f"threshold {tier}" for tier in self.report.tiers[:-1]]
        rows = []
        for point in thinned(self.points):
            cells = [cost_text(self.axis, point.cost), percent(point.accuracy)]
            cells += [cost_text(self.axis, point.test_cost), percent(point.test_accuracy)]
            cells += [f"{value:.4f}" for value in point.thresholds]
            rows.append(cells)
        title = f"some of the {len(self.points.points)} points that no others beat"
        return Display(title, headings, rows, [f"folder: {self.folder}"])


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs and deployments side by side.

    Attributes:
        names: One a run, unique.
        reports: One a run.
    """

    names: tuple[str, ...]
    reports: tuple[Report, ...]

    def rows(self) -> list[dict[str, float | str | None]]:
        """Returns a flat row for each run, such as for a data frame; rates lie in [0, 1]."""
        return [
            _comparison_row(name, report)
            for name, report in zip(self.names, self.reports, strict=True)
        ]

    def plot(self, cost: Literal["offload_rate", "bytes_per_sample"] = "offload_rate") -> Figure:
        """Draws the accuracy of each operating point against its cost."""
        from tardis_fl.report.comparison_plot import comparison_figure

        return comparison_figure(self.names, self.reports, cost)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.names)})"

    def __str__(self) -> str:
        return self._display().text()

    def _repr_html_(self) -> str:
        return self._display().html()

    def _display(self) -> Display:
        headings = [
            "",
            "exits",
            "operating point",
            "leaves the device",
            "bytes a sample",
            "sent up in training",
        ]
        rows = [
            [
                name,
                " / ".join(percent(exit_.accuracy) for exit_ in report.exits),
                percent(report.operating_point.accuracy),
                percent(report.operating_point.offload_rate),
                f"{report.operating_point.bytes_per_sample:,.0f}",
                bytes_text(sum(report.federation.bytes_up.values())),
            ]
            for name, report in zip(self.names, self.reports, strict=True)
        ]
        return Display("accuracy on the test split, and what it costs", headings, rows)


def unique_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Returns the shortest ends of folders' paths that tell them apart; a deployment's is RUN/N."""
    paths = [[part for part in folder.parts if part != "deployments"] for folder in folders]
    names = []
    for folder, path in zip(folders, paths, strict=True):
        others = [other for other in paths if other != path]
        shortest = 2 if "deployments" in folder.parts else 1
        counts = range(shortest, len(path) + 1)
        unique = (
            path[-count:]
            for count in counts
            if not any(other[-count:] == path[-count:] for other in others)
        )
        names.append("/".join(next(unique, path)))
    return tuple(names)


def _comparison_row(name: str, report: Report) -> dict[str, float | str | None]:
    point = report.operating_point
    hardware = report.hardware
    row: dict[str, float | str | None] = {
        "name": name,
        "accuracy": point.accuracy,
        "offload_rate": point.offload_rate,
        "bytes_per_sample": point.bytes_per_sample,
        "macs_per_sample": point.macs_per_sample,
        "latency_ms": hardware.no_load_latency_ms if hardware else None,
        "energy_mj": hardware.no_load_energy_mj if hardware else None,
        "training_bytes_up": sum(report.federation.bytes_up.values()),
    }
    return row | {f"accuracy_{exit_.tier}": exit_.accuracy for exit_ in report.exits}


def _records(path: Path) -> list[RoundRecord]:
    from tardis_fl.errors import DataError
    from tardis_fl.federation.records import RoundRecord

    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [RoundRecord.from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: can't be read ({error!r})") from None
