"""How fast requests are simulated through three tiers, beside simpy on the same workload, and how much memory ten million take.

    taskset -c 0 python -m benchmarks.queue_simulation [--repeats 7] [--output FILE]

1. single: one server on edge and cloud; many: four of each, with fixed and with exponential service
  times.
2. simpy: the same single-server system and the same requests, fewer of them, in turns with ours on
  just these.
3. memory: ten million requests in a process of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tardis_fl.deployment.queueing.arrivals import Poisson
from tardis_fl.deployment.queueing.simulation import simulate
from tardis_fl.deployment.queueing.system import Link, Power, Radio, System, Tier
from tardis_fl.deployment.queueing.workload import Workload
from tardis_fl.runs.folder import machine_facts
from tests.reference.queueing import staged

TARGETS = {
    "single_requests_per_s": 2e6,
    "many_requests_per_s": 5e5,
    "times_simpy": 25.0,
    "memory_gb": 2.0,
}
REQUESTS, SIMPY_REQUESTS, MEMORY_REQUESTS = 1_000_000, 20_000, 10_000_000
NUM_DEVICES = 100
MEASURE_MEMORY = (
    "import resource; from benchmarks.queue_simulation import *; found = simulate(system(1), workload(MEMORY_REQUESTS), seed=1); "
    "print(found.num_answered, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def system(servers: int, service: str = "deterministic") -> System:
    """Devices, an edge and a cloud that are busy about half of the time."""
    edge, cloud = 0.0002 * servers, 0.0005 * servers
    tiers = (
        Tier("device", 0.005, service=service),
        Tier("edge", edge, servers, service=service),
        Tier("cloud", cloud, servers, service=service),
    )
    return System(
        tiers,
        (Link("wifi", 15e6, 30e6, 0.002), Link("wan", 100e6, 100e6, 0.02)),
        Power(2.7, 6.4),
        Radio(1.0, 0.71, 0.02),
    )


def workload(count: int) -> Workload:
    """Poisson requests of which half leave the device and a fifth reach the cloud."""
    exits = np.repeat([0, 1, 2], [5000, 3000, 2000])
    return Workload(
        Poisson(50.0),
        NUM_DEVICES,
        count,
        exits,
        np.array([[4096.0], [2056.0]]),
        np.ones((3, len(exits)), dtype=bool),
        0.1,
    )


def measured(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def spread(values: list[float]) -> dict:
    return {
        "n": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/queue_simulation.json")
    )
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        sys.exit("--repeats: wanted at least 5")
    kinds = {"single": system(1), "many": system(4), "many_exponential": system(4, "exponential")}
    requests, few = workload(REQUESTS), workload(SIMPY_REQUESTS)
    for kind in kinds.values():  # warm up
        simulate(kind, few, seed=0)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    ours, theirs = [], []
    first = simulate(kinds["single"], few, seed=1)
    _, devices = few.arrivals.draw(
        SIMPY_REQUESTS, NUM_DEVICES, np.random.default_rng(np.random.SeedSequence(1).spawn(5)[0])
    )
    exits = few.exits[first.samples].tolist()
    sizes = [[float(row[0])] * SIMPY_REQUESTS for row in few.bytes_up]
    for repeat in range(arguments.repeats):
        for name, kind in kinds.items():
            seconds[name].append(
                measured(lambda kind=kind, repeat=repeat: simulate(kind, requests, seed=repeat))
            )
        ours.append(measured(lambda: simulate(kinds["single"], few, seed=1)))
        theirs.append(
            measured(
                lambda: staged(kinds["single"], first.sent.tolist(), devices.tolist(), exits, sizes)
            )
        )
        print(
            f"turn {repeat + 1}: "
            + ", ".join(
                f"{name} {REQUESTS / times[-1] / 1e6:.2f} M/s" for name, times in seconds.items()
            )
            + f", simpy {theirs[-1] / ours[-1]:.0f} x"
        )
    latency = staged(kinds["single"], first.sent.tolist(), devices.tolist(), exits, sizes)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True
    )
    answered, kilobytes = map(int, done.stdout.split())
    result = {
        "command": "python -m benchmarks.queue_simulation",
        **machine_facts(),
        "cores": len(os.sched_getaffinity(0)),
        "targets": TARGETS,
        "requests": REQUESTS,
        "requests_per_s": {
            name: spread([REQUESTS / value for value in times]) for name, times in seconds.items()
        },
        "simpy": {
            "requests": SIMPY_REQUESTS,
            "times_faster": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
            "simpy_requests_per_s": spread([SIMPY_REQUESTS / value for value in theirs]),
            "largest_difference_s": float(np.abs(first.latency - latency).max()),
        },
        "memory": {"requests": answered, "peak_gb": kilobytes * 1024 / 1e9},
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("requests_per_s", "simpy", "memory")}, indent=2))


if __name__ == "__main__":
    main()
