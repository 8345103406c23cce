"""What the engine costs: a federation through Flower messages against a bare PyTorch loop with the same gradient steps.

    python -m benchmarks.engine_overhead [--repeats 7] [--rounds 8] [--output FILE]

Two measurements, both of plain FedAvg (every client holds the whole network) on generated images:
1. time: 100 clients with 128 training images each, in rounds of 20 that the engine and the bare
  loop take in turns within one process; the ratio is taken over each 100;
2. memory: 1,000 clients of which 100 train a round, and a pool of 200 of which 100 do; resident
  memory (without the memory-mapped images) after each round must grow neither with the rounds nor
  with the pool.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TARDIS_FL_CACHE", str(Path(tempfile.gettempdir()) / "tardis_fl_benchmarks"))

import torch

from tardis_fl.config import Config, parse_config
from tardis_fl.core.compute import training_arithmetic
from tardis_fl.data.augmentation import crop_and_flip
from tardis_fl.federation.callbacks.base import Callback
from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.federation.conditions.population import Population
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.rounds import FederationServer
from tardis_fl.federation.transport.fleet import Fleet
from tardis_fl.federation.transport.weights import HeldWeights
from tardis_fl.runs.folder import machine_facts

EPOCH_IMAGES = 128
SLICES = 5
TARGET_RATIO = 1.05


class Quiet(Callback):
    """A callback that ends the benchmark where a client fails."""

    def on_failure(self, failure):
        raise RuntimeError(failure.details)


def configuration(num_clients: int, client_fraction: float) -> Config:
    """FedAvg of the whole network with 128 training images a client, evaluated only at the end."""
    held_out = 2  # one image each for fit and calibrate
    return parse_config(f"""
name: engine_overhead
data:
  dataset: synthetic
  synthetic: {{num_train: {num_clients * (EPOCH_IMAGES + held_out)}, num_test: 100}}
  partition: {{scheme: iid}}
  fit_fraction: 0.005
  calibration_fraction: 0.005
model: {{width: 16, exit_hidden: 32}}
federation:
  rounds: 1000
  num_clients: {num_clients}
  client_fraction: {client_fraction}
  client_depth: 3
  client: {{batch_size: 32, schedule: constant}}
  server: {{batch_size: 128}}
  final_server_epochs: 0
  evaluate_every: 0
deployment: {{max_accuracy_drop: 0.01}}
""")


def bare_round(work, network, clients, generator: torch.Generator) -> None:
    """One round of FedAvg as a plain loop: the same steps, batches, augmentation and average, no messages."""
    settings, weights = work.config.federation.client, work.config.exit_weights
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in start.items()}
    for client in clients:
        network.load_state_dict(start)
        network.train()
        own = torch.from_numpy(work.partition.shard(client).train)
        optimizer = torch.optim.SGD(
            network.parameters(),
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        )
        for rows in torch.randperm(len(own), generator=generator).split(settings.batch_size):
            images = crop_and_flip(work.data.images[own[rows]], generator)
            labels = work.data.labels[own[rows]]
            with training_arithmetic(work.precision, work.device):
                logits = network(work.data.normalisation(images)).unbind(1)
                loss = sum(
                    weight * torch.nn.functional.cross_entropy(row.float(), labels)
                    for weight, row in zip(weights, logits, strict=True)
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, tensor in network.state_dict().items():
            total[name] += tensor.double() / len(clients)
    network.load_state_dict({name: tensor.to(start[name].dtype) for name, tensor in total.items()})


def measure_time(repeats: int) -> dict:
    """Trains 100 clients on each side in every repeat, in slices of 20 that take turns: a busy machine slows both alike.

    A slice is a whole round with its own average. The side that goes first changes from slice to
    slice, and the first repeat warms up.
    """
    config = configuration(100, 1 / SLICES)
    work = open_resources(config.model_dump_json())
    server = FederationServer(Fleet(InlineGrid(client_app.app, 100), config), config, Quiet())
    network, generator, population = (
        new_network(config, 10),
        torch.Generator().manual_seed(0),
        Population(config.federation.population, config.seed),
    )
    engine_s, bare_s = [], []
    for repeat in range(repeats + 1):
        seconds = {"engine": 0.0, "bare": 0.0}
        for number in range(repeat * SLICES + 1, (repeat + 1) * SLICES + 1):
            for side in ("engine", "bare") if number % 2 else ("bare", "engine"):
                started = time.perf_counter()
                if side == "engine":
                    seen = server.run_round(number).train.num_samples
                else:
                    bare_round(work, network, population.choose(number), generator)
                seconds[side] += time.perf_counter() - started
            assert seen == 100 // SLICES * EPOCH_IMAGES, (
                "both sides must see the same number of images"
            )
        engine, bare = seconds["engine"], seconds["bare"]
        if repeat:
            engine_s.append(engine)
            bare_s.append(bare)
            print(
                f"  engine {engine:.2f} s, bare loop {bare:.2f} s, ratio {engine / bare:.3f}",
                flush=True,
            )
    ratios = sorted(engine / bare for engine, bare in zip(engine_s, bare_s, strict=True))
    return {
        "clients": 100,
        "images_per_client": EPOCH_IMAGES,
        "n": repeats,
        "engine_s": engine_s,
        "bare_s": bare_s,
        "ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
        "target_ratio": TARGET_RATIO,
    }


def resident_mib() -> float:
    """Resident memory of this process without the memory-mapped images, whose pages the system can drop at any time."""
    gc.collect()
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) / 1024


def measure_memory(num_clients: int, rounds: int) -> dict:
    """Runs rounds of 100 clients and notes the resident memory after each."""
    config = configuration(num_clients, 100 / num_clients)
    server = FederationServer(
        Fleet(InlineGrid(client_app.app, num_clients), config), config, Quiet()
    )
    memory = []
    for number in range(1, rounds + 1):
        server.run_round(number)
        memory.append(round(resident_mib(), 1))
        print(f"  {num_clients} clients, round {number}: {memory[-1]} MiB", flush=True)
    return {"clients": num_clients, "clients_per_round": 100, "resident_mib_after_round": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of the memory measurement")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "engine_overhead.json"
    )
    arguments = parser.parse_args()
    print("time: 100 clients, 128 images each")
    timing = measure_time(arguments.repeats)
    print("memory: 100 clients a round")
    memory = [measure_memory(200, arguments.rounds), measure_memory(1000, arguments.rounds)]
    result = {
        "command": " ".join(["python", "-m", "benchmarks.engine_overhead", *sys.argv[1:]]),
        **machine_facts(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "precision": open_resources(configuration(1000, 0.1).model_dump_json()).precision,
        "weights_bytes": sum(
            values.nbytes
            for values in HeldWeights(list(new_network(configuration(100, 1.0), 10)))
            .flatten()
            .values()
        ),
        "time": timing,
        "memory": memory,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    ratio = timing["ratio"]
    verdict = "met" if ratio["median"] <= TARGET_RATIO else "NOT met"
    last = [row["resident_mib_after_round"] for row in memory]
    steady = max(rows[-1] / rows[min(2, len(rows) - 1)] for rows in last)
    print(
        f"memory: last round / round 3 at most {steady:.3f}; pool of 1,000 / pool of 200: {last[1][-1] / last[0][-1]:.3f}"
    )
    print(
        f"engine / bare loop: median {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}, n = {timing['n']}); target {TARGET_RATIO} {verdict}"
    )


if __name__ == "__main__":
    main()
