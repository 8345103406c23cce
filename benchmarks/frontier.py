"""What exact choices cost: the frontier over 10,000 samples and three exits, and decisions on a million samples.

    python -m benchmarks.frontier [--repeats 9] [--output FILE]

1. frontier: all thresholds of each exit's own, then accuracy against each of five costs, and
  accuracy with all five together; on generated tables of different kinds, scores and correctness
  given.
2. decide: which exit answers, and how many of these answers are right, for a million samples and
  three exits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tardis_fl.deployment.scoring.policies import table_scores
from tardis_fl.deployment.thresholds.frontier import frontier
from tardis_fl.deployment.thresholds.sweep import decide
from tardis_fl.early_exit.evaluation import CalibrationTable
from tardis_fl.runs.folder import machine_facts

FRONTIER_S, DECIDE_S = 1.0, 0.5
COSTS = {
    "offload_rate": (0, 1, 1),
    "bytes": (0, 2056, 4112),
    "macs": (3_442_816, 5_378_816, 7_476_608),
    "latency_ms": (5.0, 20.0, 80.0),
    "energy_mj": (10.0, 30.0, 35.0),
}
KINDS = {
    "better with depth": (1.0, 1.7, 2.4),
    "weak until the cloud": (0.1, 0.2, 2.4),
    "weak device": (0.5, 1.5, 1.6),
    "equal exits": (2.0, 2.0, 2.0),
}


def generated(
    count: int, skill: tuple[float, ...], *, classes: int = 10
) -> tuple[CalibrationTable, np.ndarray]:
    """A table with easy and hard samples, and its early exits' max-softmax scores."""
    rng = np.random.default_rng(0)
    labels, ease = rng.integers(0, classes, count), rng.uniform(0, 2, count)
    logits = rng.normal(size=(len(skill), count, classes))
    logits[:, np.arange(count), labels] += np.asarray(skill)[:, None] * ease
    table = CalibrationTable(
        (1.5 * logits).astype(np.float32), labels, np.arange(count), np.zeros(count, np.int64)
    )
    return table, table_scores("max_softmax", table, [1.0] * len(skill)).numpy()[:-1]


def timed(function, repeats: int):
    """Calls a function once more than `repeats`, the first time to warm up; returns its result and the seconds."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return result, seconds[1:]


def spread(seconds: list[float]) -> dict:
    return {
        "n": len(seconds),
        "min_s": min(seconds),
        "median_s": statistics.median(seconds),
        "max_s": max(seconds),
    }


def measure_frontier(repeats: int) -> list[dict]:
    rows = []
    for name, skill in KINDS.items():
        table, scores = generated(10_000, skill)

        def work(table=table, scores=scores):
            found = frontier(table, scores)
            return (
                found,
                {axis: found.axis(costs) for axis, costs in COSTS.items()},
                found.joint(COSTS),
            )

        (found, axes, joint), seconds = timed(work, repeats)
        rows.append(
            {
                "kind": name,
                "accuracies": table.accuracies(),
                **spread(seconds),
                "points": len(found),
                "points_of_all_costs": len(joint),
                "points_by_axis": {axis: len(rows) for axis, rows in axes.items()},
            }
        )
        print(
            f"  {name}: {rows[-1]['median_s']:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, n = {repeats}), {len(found):,} points",
            flush=True,
        )
    return rows


def measure_decide(repeats: int) -> dict:
    rng = np.random.default_rng(0)
    scores, correct = rng.random((2, 1_000_000)), rng.random((3, 1_000_000)) < 0.7
    samples = np.arange(1_000_000)

    def work():
        exits = decide(scores, (0.7, 0.6))
        return int(correct[exits, samples].sum()), np.bincount(exits, minlength=3)

    _, seconds = timed(work, repeats)
    print(
        f"  {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, n = {repeats})",
        flush=True,
    )
    return {"samples": 1_000_000, "exits": 3, **spread(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "frontier.json"
    )
    arguments = parser.parse_args()
    print("frontier: 10,000 samples, three exits, five costs each alone and all together")
    rows = measure_frontier(arguments.repeats)
    print("decide: a million samples, three exits")
    decisions = measure_decide(arguments.repeats)
    result = {
        "command": " ".join(["python", "-m", "benchmarks.frontier", *sys.argv[1:]]),
        **machine_facts(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "target_frontier_s": FRONTIER_S,
        "target_decide_s": DECIDE_S,
        "frontier": rows,
        "decide": decisions,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    slowest = max(row["median_s"] for row in rows)
    for name, figure, limit in (
        ("seconds for a frontier", slowest, FRONTIER_S),
        ("seconds for a million decisions", decisions["median_s"], DECIDE_S),
    ):
        print(f"{name}: {figure:.3f}, target {limit} {'met' if figure <= limit else 'NOT met'}")


if __name__ == "__main__":
    main()
