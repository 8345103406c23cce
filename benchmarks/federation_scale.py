"""What a large or a careful federation costs, in time and memory.

    python -m benchmarks.federation_scale [--repeats 7] [--output FILE]

1. many: 1,000 clients, all of them each round, whose training does nothing: what messages, checks
  and averaging take.
2. pool: 10,000 clients of which 100 train a few images each round: peak memory of the whole
  process, mapped images included, and the peak up to the end of each round without them, looked at
  after every client.
3. care: the same rounds with real training, once with faults drawn for each client (and one reply
  in ten sent twice), every byte counted and a checkpoint written, once without any of it, in turns
  within one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TARDIS_FL_CACHE", str(Path(tempfile.gettempdir()) / "tardis_fl_benchmarks"))

import torch

from benchmarks.engine_overhead import Quiet, resident_mib
from tardis_fl.config import Config, parse_config
from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.conditions.faults import Faults
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.rounds import FederationServer
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.fleet import Fleet
from tardis_fl.federation.transport.messages import Counts, Ledger
from tardis_fl.runs.checkpoint import write_checkpoint
from tardis_fl.runs.folder import machine_facts

SECONDS_A_ROUND, POOL_MIB, MEMORY_RATIO, CARE_RATIO = 3.0, 1024, 1.05, 1.05


def configuration(num_clients: int, client_fraction: float, images: int, *overrides: str) -> Config:
    """Plain FedAvg of a network with 185,518 parameters and buffers; two images of each client are held out."""
    return parse_config(
        f"""
name: federation_scale
data:
  dataset: synthetic
  synthetic: {{num_train: {num_clients * (images + 2)}, num_test: 100}}
  partition: {{scheme: iid, min_samples: 4}}
  fit_fraction: 0.005
  calibration_fraction: 0.005
model: {{width: 16, exit_hidden: 32}}
federation:
  rounds: 1000
  num_clients: {num_clients}
  client_fraction: {client_fraction}
  client_depth: 3
  client: {{batch_size: 32, schedule: constant}}
  final_server_epochs: 0
  evaluate_every: 0
deployment: {{max_accuracy_drop: 0.01}}
""",
        overrides=overrides,
    )


def build_server(config: Config) -> FederationServer:
    return FederationServer(
        Fleet(InlineGrid(client_app.app, config.federation.num_clients), config), config, Quiet()
    )


def measure_many(repeats: int) -> dict:
    """Times rounds of 1,000 clients that send back what they got; the first round warms up."""
    original, client_app.train_segments = (
        client_app.train_segments,
        lambda segments, *_, **__: Counts(2, 0.0, (0,) * len(segments)),
    )
    try:
        server, seconds = build_server(configuration(1000, 1.0, 2)), []
        for number in range(1, repeats + 2):
            started = time.perf_counter()
            server.run_round(number)
            seconds.append(time.perf_counter() - started)
            print(f"  round {number}: {seconds[-1]:.2f} s", flush=True)
    finally:
        client_app.train_segments = original
    seconds = seconds[1:]
    return {
        "clients": 1000,
        "n": repeats,
        "seconds": seconds,
        "median_s": statistics.median(seconds),
        "target_s": SECONDS_A_ROUND,
    }


class PeakMemory(Quiet):
    """A callback that looks at the memory whenever a client is done."""

    def __init__(self) -> None:
        self.mib = 0.0

    def on_progress(self, work, num_samples):
        self.mib = max(self.mib, resident_mib())


def measure_pool(rounds: int) -> dict:
    """Runs rounds of 100 out of 10,000 clients and notes the peak of memory up to each."""
    config, watch, peaks = configuration(10_000, 0.01, 4), PeakMemory(), []
    server = FederationServer(Fleet(InlineGrid(client_app.app, 10_000), config), config, watch)
    for number in range(1, rounds + 1):
        server.run_round(number)
        peaks.append(round(watch.mib, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  peak up to round 3 {peaks[2]} MiB, up to round {rounds} {peaks[-1]} MiB; of the process, mapped images included, {peak:.0f} MiB",
        flush=True,
    )
    return {
        "clients": 10_000,
        "clients_per_round": 100,
        "peak_mib_up_to_round": peaks,
        "ratio_to_round_3": peaks[-1] / peaks[2],
        "peak_mib": peak,
        "target_mib": POOL_MIB,
        "target_ratio": MEMORY_RATIO,
    }


class Stopwatch:
    """Adds up the seconds spent in some functions, each of which calls none of the others."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function):
        def call(*arguments, **options):
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return call


def measure_care(repeats: int) -> dict:
    """Times rounds of 20 clients with 128 images each, with care and without, in turns; and what care itself takes of a round."""
    faults = "federation.faults=[{kind: dropout, probability: 1.0e-9}, {kind: nan, probability: 1.0e-9}, {kind: repeat, probability: 0.1}]"
    configs = {"with": configuration(20, 1.0, 128, faults), "without": configuration(20, 1.0, 128)}
    servers, seconds, shares = (
        {side: build_server(config) for side, config in configs.items()},
        {"with": [], "without": []},
        [],
    )
    ledger, count = (Ledger.add_up, Ledger.add_down), messages.content_bytes
    strike, damage, watch = Faults.strike, Faults.damage, Stopwatch()
    nothing = dict.fromkeys(messages.KINDS, 0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, repeats + 2):
            for side in ("with", "without") if number % 2 else ("without", "with"):
                watch.seconds = 0.0
                if side == "without":
                    Ledger.add_up = Ledger.add_down = lambda *_: None
                    messages.content_bytes = lambda _: nothing
                else:
                    Ledger.add_up, Ledger.add_down = map(watch.timed, ledger)
                    messages.content_bytes = watch.timed(count)
                    Faults.strike, Faults.damage = (
                        strike,
                        watch.timed(damage),
                    )  # damage draws the client's own
                gc.collect()
                started = time.perf_counter()
                servers[side].run_round(number)
                if side == "with":
                    save = watch.timed(
                        lambda: write_checkpoint(
                            Path(folder) / "checkpoint" / "round.safetensors",
                            servers["with"].snapshot(),
                            configs["with"],
                        )
                    )
                    save()
                taken = time.perf_counter() - started
                if number > 1:
                    seconds[side].append(taken)
                    if side == "with":
                        shares.append(watch.seconds / taken)
    (Ledger.add_up, Ledger.add_down), messages.content_bytes, Faults.strike, Faults.damage = (
        ledger,
        count,
        strike,
        damage,
    )
    ratios = sorted(a / b for a, b in zip(seconds["with"], seconds["without"], strict=True))
    print(
        f"  with / without: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}, n = {repeats})",
        flush=True,
    )
    print(
        f"  share of a round spent in care: {statistics.median(shares):.4f} ({min(shares):.4f} to {max(shares):.4f})",
        flush=True,
    )
    return {
        "clients": 20,
        "images_per_client": 128,
        "n": repeats,
        "with_s": seconds["with"],
        "without_s": seconds["without"],
        "ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
        "target_ratio": CARE_RATIO,
        "share": {"min": min(shares), "median": statistics.median(shares), "max": max(shares)},
        "target_share": CARE_RATIO - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of the pool")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "federation_scale.json"
    )
    arguments = parser.parse_args()
    print("pool: 10,000 clients, 100 a round")
    pool = measure_pool(arguments.rounds)
    print("many: 1,000 clients a round, training that does nothing")
    many = measure_many(arguments.repeats)
    print("care: faults, ledger and checkpoints, beside the same rounds without")
    care = measure_care(2 * arguments.repeats)
    result = {
        "command": " ".join(["python", "-m", "benchmarks.federation_scale", *sys.argv[1:]]),
        **machine_facts(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "many": many,
        "pool": pool,
        "care": care,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, figure, limit in (
        ("seconds a round of 1,000", many["median_s"], SECONDS_A_ROUND),
        ("peak of the pool in MiB", pool["peak_mib"], POOL_MIB),
        ("peak memory up to the last round / round 3", pool["ratio_to_round_3"], MEMORY_RATIO),
        ("round with care / without", care["ratio"]["median"], CARE_RATIO),
        ("share of a round spent in care", care["share"]["median"], CARE_RATIO - 1),
    ):
        print(f"{name}: {figure:.3f}, target {limit} {'met' if figure <= limit else 'NOT met'}")


if __name__ == "__main__":
    main()
