"""The content of `sweep.json`, and its table. Keys are a contract: add, don't rename."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tardis_fl.report.results import Report
from tardis_fl.report.text import bytes_text
from tardis_fl.workflows.sweep.grid import Grid, Point, value_text
from tardis_fl.workflows.sweep.intervals import Estimate

SCHEMA_VERSION = 1
FEWEST_SEEDS = 3
FIGURES = ("accuracy", "offload_rate", "bytes_per_sample", "bytes_up")


@dataclass(frozen=True)
class Run:
    """One seed of one point.

    Attributes:
        seed: The run's.
        state: done, failed or pending.
        error: What a failed run said.
        report: Of a run that is done.
    """

    seed: int
    state: Literal["done", "failed", "pending"]
    error: str | None = None
    report: Report | None = None

    def figures(self) -> dict[str, Any] | None:
        """Returns the figures that a sweep compares.

        Those of the test role, the bytes of all kinds that training sent up, and its seconds.
        """
        if self.report is None:
            return None
        point = self.report.operating_point
        return {
            "exit_accuracy": [row.accuracy for row in self.report.exits],
            "accuracy": point.accuracy,
            "offload_rate": point.offload_rate,
            "bytes_per_sample": point.bytes_per_sample,
            "bytes_up": sum(self.report.federation.bytes_up.values()),
            "seconds": self.report.federation.seconds,
        }


@dataclass(frozen=True)
class PointSummary:
    """A point with its runs, one a seed."""

    point: Point
    runs: tuple[Run, ...]

    @property
    def reports(self) -> list[Report]:
        """Reports of the runs that are done."""
        return [run.report for run in self.runs if run.report]

    @property
    def tiers(self) -> list[str]:
        """Names of the point's tiers."""
        return [tier.name for tier in self.point.configs[0].tiers]

    def estimate(self, figure: str) -> Estimate:
        """Returns one of `FIGURES` over the seeds that are done."""
        return Estimate.of([figures[figure] for run in self.runs if (figures := run.figures())])

    def exit_estimate(self, number: int) -> Estimate:
        """Returns the accuracy of an exit, counted from 0, over the seeds that are done."""
        return Estimate.of([report.exits[number].accuracy for report in self.reports])

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries."""
        return {
            "name": self.point.name,
            "settings": self.point.settings,
            "num_runs": len(self.reports),
            "tiers": self.tiers,
            "exit_accuracy": [
                _plain(self.exit_estimate(number)) for number in range(len(self.tiers))
            ],
            **{figure: _plain(self.estimate(figure)) for figure in FIGURES},
            "runs": [
                {
                    "seed": run.seed,
                    "folder": f"{self.point.name}/seed_{run.seed}",
                    "state": run.state,
                    "error": run.error,
                    "figures": run.figures(),
                }
                for run in self.runs
            ],
        }


@dataclass(frozen=True)
class Summary:
    """All of a sweep so far."""

    grid: Grid
    points: tuple[PointSummary, ...]

    @property
    def failed(self) -> list[tuple[str, Run]]:
        """The runs that failed, with their points' names."""
        return [
            (row.point.name, run)
            for row in self.points
            for run in row.runs
            if run.state == "failed"
        ]

    @property
    def fixed(self) -> dict[str, str]:
        """The keys that were set to one value, with it as text."""
        return {key: value_text(value) for key, value in self.grid.fixed.items()}

    @property
    def num_pending(self) -> int:
        """Runs that are still to come."""
        return sum(run.state == "pending" for row in self.points for run in row.runs)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know: few seeds, failed runs, and what the runs warn of."""
        count = len(self.grid.seeds)
        found = []
        if count < FEWEST_SEEDS:
            seeds = "1 seed" if count == 1 else f"{count} seeds"
            found.append(
                f"{seeds} a point: too few to tell a difference from chance; "
                f"wanted --seeds {FEWEST_SEEDS} or more"
            )
        found += [f"{name}, seed {run.seed} failed: {run.error}" for name, run in self.failed]
        return found + self._warnings_of_runs()

    def _warnings_of_runs(self) -> list[str]:
        """Returns each warning of the runs once, with its points where these aren't all."""
        points: dict[str, list[str]] = {}
        for row in self.points:
            for warning in dict.fromkeys(
                warning for report in row.reports for warning in report.warnings
            ):
                points.setdefault(warning, []).append(row.point.name)
        count = sum(bool(row.reports) for row in self.points)
        return [
            warning if len(names) == count else f"{', '.join(names)}: {warning}"
            for warning, names in points.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns what stands in `sweep.json`.

        Counts are integers, rates lie in [0, 1], and what isn't known is null.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.grid.name,
            "seeds": list(self.grid.seeds),
            "varied": list(self.grid.labels),
            "fixed": self.grid.fixed,
            "num_pending": self.num_pending,
            "points": [row.to_json() for row in self.points],
            "warnings": self.warnings,
        }

    def headings(self) -> list[str]:
        """Returns the columns of the table: varied keys, runs, exits, operating point, bytes."""
        named = [row.tiers for row in self.points]
        most = max(named, key=len)
        exits = [
            name
            if all(number >= len(tiers) or tiers[number] == name for tiers in named)
            else f"exit {number + 1}"
            for number, name in enumerate(most)
        ]
        keys = list(self.grid.labels.values()) or ["point"]
        return [
            *keys,
            "n",
            *exits,
            "operating point",
            "leaves the device",
            "bytes a sample",
            "sent up in training",
        ]

    def rows(self) -> list[list[str]]:
        """Returns the table, a row for each point; estimates as mean ± half width."""
        num_exits = max(len(row.tiers) for row in self.points)
        return [
            [
                *(
                    [value_text(row.point.settings[key]) for key in self.grid.labels]
                    or [row.point.name]
                ),
                str(len(row.reports)),
                *(
                    _percents(row.exit_estimate(number)) if number < len(row.tiers) else ""
                    for number in range(num_exits)
                ),
                _percents(row.estimate("accuracy")),
                _percents(row.estimate("offload_rate")),
                _shown(row.estimate("bytes_per_sample"), lambda value: f"{value:,.0f}"),
                bytes_text(mean) if (mean := row.estimate("bytes_up").mean) is not None else "-",
            ]
            for row in self.points
        ]


def pending(grid: Grid) -> Summary:
    """Returns a sweep of which nothing has run."""
    return Summary(
        grid,
        tuple(
            PointSummary(point, tuple(Run(seed, "pending") for seed in grid.seeds))
            for point in grid.points
        ),
    )


def with_run(summary: Summary, number: int, run: Run) -> Summary:
    """Returns the sweep with one run of a point, counted from 0, replaced."""
    row = summary.points[number]
    runs = tuple(run if other.seed == run.seed else other for other in row.runs)
    points = (
        *summary.points[:number],
        PointSummary(row.point, runs),
        *summary.points[number + 1 :],
    )
    return Summary(summary.grid, points)


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {"values": estimate.values, "mean": estimate.mean, "interval": estimate.interval}


def _percents(estimate: Estimate) -> str:
    return _shown(estimate, lambda value: f"{100 * value:.1f}", " %")


def _shown(estimate: Estimate, text: Callable[[float], str], unit: str = "") -> str:
    if estimate.mean is None:
        return "-"
    half_width = "-" if estimate.half_width is None else text(estimate.half_width)
    return f"{text(estimate.mean)} ± {half_width}{unit}"
