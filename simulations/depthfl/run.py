"""Says whether the signs of DepthFL's tables come out: python -m simulations.depthfl.run [--seeds 3] [--results FILE]

Three arms, each with the same data, clients, initial weights and steps for a seed, so that their
differences are taken seed by seed. Runs that are finished are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tardis_fl.config import load_config
from tardis_fl.runs.folder import machine_facts
from tardis_fl.workflows.sweep.grid import Grid, Point
from tardis_fl.workflows.sweep.intervals import Estimate
from tardis_fl.workflows.sweep.runs import run_sweep

HERE = Path(__file__).parent
ARMS = {
    "last_exit_only": ["federation.client_exits=last"],
    "depth_scaled": [],
    "mutual_distillation": ["federation.distillation.teacher=mutual"],
}
QUESTIONS = [
    ("mutual distillation helps every exit", "mutual_distillation", "depth_scaled"),
    ("all exits trained beat last-exit-only clients", "depth_scaled", "last_exit_only"),
    ("both together beat last-exit-only clients", "mutual_distillation", "last_exit_only"),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key in all arms",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/depthfl"), help="folder of the runs"
    )
    parser.add_argument(
        "--results", type=Path, default=None, help="write the figures to this JSON file too"
    )
    arguments = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    points, seeds = [], ()
    for arm, settings in ARMS.items():
        first = load_config(HERE / "config.yaml", [*arguments.overrides, *settings])
        seeds = tuple(range(first.seed, first.seed + arguments.seeds))
        configs = [
            first.model_copy(update={"seed": seed, "name": f"{arm}-seed_{seed}"}) for seed in seeds
        ]
        points.append(Point(arm, {"arm": arm}, tuple(configs)))
    summary = run_sweep(
        Grid("depthfl", {}, {"arm": "arm"}, seeds, tuple(points)), arguments.output, console
    )
    accuracies = {
        point.name: {
            run.seed: [exit.accuracy for exit in run.report.exits]
            for run in row.runs
            if run.report is not None
        }
        for point, row in zip(points, summary.points, strict=True)
    }
    table = Table(
        "difference in points, paired by seed",
        *(tier.name for tier in points[0].configs[0].tiers),
        "sign as in DepthFL",
    )
    answers = []
    for question, better, worse in QUESTIONS:
        differences = differences_by_exit(accuracies[better], accuracies[worse])
        verdict = verdict_of(differences)
        table.add_row(
            question,
            *(f"{100 * d.mean:+.2f} ± {100 * (d.half_width or 0):.2f}" for d in differences),
            verdict,
        )
        answers.append(
            {
                "question": question,
                "verdict": verdict,
                "differences": [asdict(difference) for difference in differences],
            }
        )
    console.print(table)
    if arguments.results:
        result = {
            **machine_facts(),
            "seeds": list(seeds),
            "overrides": arguments.overrides,
            "accuracy": accuracies,
            "answers": answers,
        }
        arguments.results.write_text(json.dumps(result, indent=2) + "\n")
    if summary.failed:
        sys.exit(f"{len(summary.failed)} runs failed; see {arguments.output / 'sweep.md'}")


def differences_by_exit(
    better: dict[int, list[float]], worse: dict[int, list[float]]
) -> list[Estimate]:
    """Returns mean and 95 % interval of the differences over the seeds that both arms finished, for each exit."""
    seeds = sorted(better.keys() & worse.keys())
    rows = [[a - b for a, b in zip(better[seed], worse[seed], strict=True)] for seed in seeds]
    return [Estimate.of(column) for column in zip(*rows, strict=True)]


def verdict_of(differences: list[Estimate]) -> str:
    """Says whether all exits gain, and whether that is more than chance at each of them."""
    if not differences:
        return "no runs to compare"
    if all(lower_end(difference) > 0 for difference in differences):
        return "yes, at every exit"
    return (
        "yes, but some intervals hold 0"
        if all(difference.mean > 0 for difference in differences)
        else "no"
    )


def lower_end(difference: Estimate) -> float:
    """Returns the lower end of the interval; where there is none, minus infinity."""
    return (
        float("-inf") if difference.half_width is None else difference.mean - difference.half_width
    )


if __name__ == "__main__":
    main()
