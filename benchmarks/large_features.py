"""Features of 300 MB from one node of a real deployment: do they arrive, and what memory do they take on either side?

    python -m benchmarks.large_features [--pieces 32] [--output FILE]

One SuperNode sends the features of its whole shard to the server in pieces. The resident memory of
the processes that work on it (without mapped files) is looked at ten times a second, and its peak
compared with that of a run with a twentieth of the images in pieces of the same size, whose
training takes the same memory. What is beyond it are the features themselves, which the client
computes piece by piece and the server keeps twice (the round's, and those of the final epoch), and
what pieces cost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil
import yaml

from tardis_fl.config import parse_config
from tardis_fl.federation.engines.local_flower.deployment import LocalDeployment
from tardis_fl.runs.folder import machine_facts
from tardis_fl.workflows.federate import _follow

MIB, IMAGES = 2**20, 10_200
CONFIG = """
name: large_features
data:
  dataset: synthetic
  synthetic: {num_test: 100}
  partition: {scheme: iid}
model: {width: 64}
federation:
  rounds: 1
  num_clients: 1
  client: {batch_size: 256}
  server: {batch_size: 256}
  feature_codec: float32
  final_server_epochs: 1
  evaluate_every: 0
deployment: {max_accuracy_drop: 0.1}
runtime: {engine: deployment}
"""


def private_mib(process: psutil.Process) -> float:
    """Returns a process's resident memory without mapped files."""
    info = process.memory_info()
    return (info.rss - info.shared) / MIB


class Memory(threading.Thread):
    """Looks at the server's and the node's processes, ten times a second."""

    def __init__(self, deployment: LocalDeployment) -> None:
        super().__init__(daemon=True)
        self._deployment, self.over = deployment, threading.Event()
        self.seen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def run(self) -> None:
        began = time.monotonic()
        while not self.over.wait(0.1):
            for name, words in (
                ("server", "flwr-serverapp"),
                ("client", "flwr-clientapp"),
                ("SuperLink", "flower-superlink"),
                ("SuperNode", "flower-supernode"),
            ):
                for program in [self._deployment.superlink, *self._deployment.nodes.values()]:
                    try:
                        found = psutil.Process(program.pid)
                        for process in [found, *found.children(recursive=True)]:
                            if any(word.endswith(words) for word in process.cmdline()[:2]):
                                self.seen[name].append(
                                    (time.monotonic() - began, private_mib(process))
                                )
                    except psutil.NoSuchProcess:
                        continue


def measure(pieces_mib: int, num_train: int) -> dict:
    """Runs the deployment once; returns peaks of memory, and the bytes that travelled."""
    config = parse_config(
        CONFIG,
        overrides=[
            f"federation.piece_bytes={pieces_mib * MIB}",
            f"data.synthetic.num_train={num_train}",
        ],
    )
    with tempfile.TemporaryDirectory() as name:
        private = Path(name)
        follow, run = private / "follow", private / "run"
        follow.mkdir()
        (private / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        with LocalDeployment(private, 1) as deployment:
            memory = Memory(deployment)
            memory.start()
            began = time.monotonic()
            deployment.submit(
                {
                    "config": str(private / "config.yaml"),
                    "output": str(run),
                    "resume": False,
                    "follow": str(follow),
                }
            )
            _follow(deployment, follow)
            seconds = time.monotonic() - began
            memory.over.set()
            memory.join()
        epoch = json.loads((run / "final_epochs.jsonl").read_text().splitlines()[-1])
        report = json.loads((run / "report.json").read_text())
    peaks = {name: max(value for _, value in values) for name, values in memory.seen.items()}
    return {
        "piece_mib": pieces_mib,
        "features_up_mib": report["federation"]["bytes_up"]["features"] / MIB,
        "samples_trained": epoch["server"]["num_samples"],
        "seconds": seconds,
        "peak_private_mib": peaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pieces",
        type=int,
        nargs="+",
        default=[32, 1024],
        help="largest pieces in MiB; the last one holds everything",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "large_features.json"
    )
    arguments = parser.parse_args()
    few = measure(min(arguments.pieces), IMAGES // 20)
    rows = [measure(size, IMAGES) for size in arguments.pieces]
    for row in rows:
        row["beyond_few_images_mib"] = {
            name: peak - few["peak_private_mib"][name]
            for name, peak in row["peak_private_mib"].items()
        }
        beyond = ", ".join(
            f"{name} {value:.0f} MiB" for name, value in row["beyond_few_images_mib"].items()
        )
        print(
            f"pieces of {row['piece_mib']} MiB: {row['features_up_mib']:.0f} MiB of features in {row['seconds']:.0f} s; memory beyond few images: {beyond}"
        )
    result = {
        "command": "python -m benchmarks.large_features",
        **machine_facts(),
        "few_images": few,
        "runs": rows,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
