"""What engines cost, side by side, a round at a time in turns.

    python -m benchmarks.engines [--repeats 7] [--pfl PYTHON] [--output FILE]

Settings: `real` is 100 clients with 128 images each and the whole network on each; `trivial` is the
same with a training that sends back what it got; `pfl` is pfl-research's benchmark on CIFAR-10
(images are generated here, of the same size).
Sides: our engine inline (one process with all threads; as many worker processes as cores, of one
thread each), Flower's simulation engine on Ray with as many actors, and a bare PyTorch loop in both
forms; with --pfl, the Python of an environment with `pip install pfl==0.6.0 torch==2.13.0`, also
pfl with as many processes. Every side is started once, and warms up for two rounds; then each
repeat runs a round of every side, one at a time, in a new order. At the end come rounds on real
Flower processes, and where their time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TARDIS_FL_CACHE", str(Path(tempfile.gettempdir()) / "tardis_fl_benchmarks"))

import numpy as np

from benchmarks.engines.nodes import measure_nodes
from benchmarks.engines.settings import SETTINGS, configuration
from tardis_fl.core.compute import num_cores
from tardis_fl.federation.client.resources import open_resources
from tardis_fl.federation.engines.local_flower.processes import free_ports
from tardis_fl.runs.folder import machine_facts

WARM_UP = 2
TARGETS = [  # setting, side, side that it is compared with, largest ratio of seconds
    ("real", "inline, workers", "bare, processes", 1.05),
    ("real", "inline, one process", "bare, one process", 1.05),
    ("real", "inline, workers", "Ray", 1 / 1.3),
    ("trivial", "inline, workers", "Ray", 1 / 10),
    ("trivial", "inline, one process", "Ray", 1 / 10),
    ("pfl", "inline, workers", "pfl", 1.0),
    ("pfl", "inline, workers", "bare, processes", 1.05),
]


class Side:
    """A process that runs a round when it is its turn."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}")

    def round(self) -> float:
        """Runs a round; returns its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read()["seconds"])

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def write_users(path: Path) -> None:
    """Writes each client's training images of the setting `pfl`, for a side that can't read ours."""
    work = open_resources(configuration("pfl").model_dump_json())
    rows = np.stack([shard.train for shard in work.partition.shards()])
    mean, deviation = (
        np.array(values, dtype=np.float32)
        for values in (work.dataset.normalisation.mean, work.dataset.normalisation.deviation)
    )
    np.savez(
        path,
        images=work.dataset.train.images[rows],
        labels=work.dataset.train.labels[rows],
        mean=mean,
        deviation=deviation,
    )


def start_sides(
    setting: str, folder: Path, pfl_python: str | None
) -> tuple[dict[str, Side], list[subprocess.Popen[bytes]]]:
    """Starts all sides of a setting; also returns processes that only help one of them."""
    count, helpers = str(num_cores()), []
    ours, bare = (
        [sys.executable, "-m", "benchmarks.engines.ours", setting],
        [sys.executable, "-m", "benchmarks.engines.bare", setting],
    )
    sides = {
        "bare, one process": Side([*bare, "1"]),
        "bare, processes": Side([*bare, count]),
        "inline, one process": Side([*ours, "inline", "1"]),
        "inline, workers": Side([*ours, "inline", count]),
        "Ray": Side([*ours, "ray", count]),
    }
    if setting == "pfl" and pfl_python:
        users = folder / "users.npz"
        write_users(users)
        addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(num_cores()))
        command = [pfl_python, str(Path(__file__).with_name("pfl_side.py")), str(users)]
        environment = {"PFL_WORKER_ADDRESSES": addresses, "OMP_NUM_THREADS": "1"}
        for rank in range(1, num_cores()):
            helpers.append(
                subprocess.Popen(
                    command, env={**os.environ, **environment, "PFL_WORKER_RANK": str(rank)}
                )
            )
        sides["pfl"] = Side(command, **environment, PFL_WORKER_RANK="0")
    return sides, helpers


def measure(setting: str, repeats: int, pfl_python: str | None) -> dict[str, list[float]]:
    """Returns the seconds of each side's rounds."""
    with tempfile.TemporaryDirectory() as folder:
        sides, helpers = start_sides(setting, Path(folder), pfl_python)
        try:
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            order = list(sides)
            for repeat in range(WARM_UP + repeats):
                random.Random(repeat).shuffle(order)
                for name in order:
                    taken = sides[name].round()
                    if repeat >= WARM_UP:
                        seconds[name].append(taken)
                print(
                    f"  {setting} {repeat + 1 - WARM_UP}: "
                    + ", ".join(
                        f"{name} {rows[-1]:.2f} s" for name, rows in seconds.items() if rows
                    ),
                    flush=True,
                )
            return seconds
        finally:
            for helper in helpers:
                helper.kill()
            for side in sides.values():
                side.end()


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Returns the spread of the ratios of rounds of the same repeat."""
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    return {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--nodes-rounds", type=int, default=6, help="rounds on real Flower processes; 0: none"
    )
    parser.add_argument(
        "--pfl", metavar="PYTHON", default=None, help="Python of an environment with pfl 0.6.0"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parents[1] / "results" / "engines.json"
    )
    arguments = parser.parse_args()
    seconds = {
        setting: measure(setting, arguments.repeats, arguments.pfl)
        for setting in arguments.settings
    }
    comparisons = []
    for setting, side, other, target in TARGETS:
        if {side, other} <= seconds.get(setting, {}).keys():
            found = ratio(seconds[setting][side], seconds[setting][other])
            comparisons.append(
                {
                    "setting": setting,
                    "side": side,
                    "beside": other,
                    "ratio": found,
                    "target": target,
                    "met": found["median"] <= target,
                }
            )
            verdict = "met" if found["median"] <= target else "NOT met"
            print(
                f"{setting}: {side} / {other}: {found['median']:.3f} ({found['min']:.3f} to {found['max']:.3f}), target {target:.3g} {verdict}"
            )
    deployment = measure_nodes(arguments.nodes_rounds) if arguments.nodes_rounds else None
    if deployment:
        print(f"real nodes: a round {deployment['median_seconds_a_round']:.1f} s; of a message:")
        for stage, median in deployment["median_seconds_of_a_message"].items():
            print(f"  {stage}: {median:.2f} s")
    result = {
        "command": " ".join(
            [
                "python",
                "-m",
                "benchmarks.engines",
                "--repeats",
                str(arguments.repeats),
                *(["--pfl PYTHON"] if arguments.pfl else []),
            ]
        ),
        **machine_facts(),
        "cores": num_cores(),
        "n": arguments.repeats,
        "seconds_a_round": seconds,
        "comparisons": comparisons,
        "deployment": deployment,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
