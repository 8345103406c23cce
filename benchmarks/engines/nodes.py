"""A round on real Flower processes of this machine, and where its time goes.

Two nodes train 128 images each, once a round, and send the whole network; two threads of training
would take what the side `inline, workers` takes for two of its hundred clients.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from benchmarks.engine_overhead import Quiet
from benchmarks.engines.settings import HELD_OUT, configuration
from benchmarks.engines.timed_app import TIMES
from tardis_fl.config import load_config
from tardis_fl.federation.engines.local_flower.deployment import LocalDeployment
from tardis_fl.federation.rounds import FederationServer
from tardis_fl.federation.transport.fleet import Fleet

NODES, POLL_SECONDS, LONGEST_SECONDS = 2, 0.2, 600.0
STAGES = [
    "message waits until a process begins",
    "process starts and imports",
    "opens data and network",
    "trains and packs",
    "reply travels",
]

server_app = ServerApp()


class TimedGrid:
    """Passes on to a grid, and notes when messages leave and arrive."""

    def __init__(self, grid: Grid) -> None:
        self._grid, self._pushed = grid, dict[str, float]()
        self.messages: list[list[float]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends requests."""
        sent = time.time()
        ids = list(self._grid.push_messages(messages))
        self._pushed |= dict.fromkeys(ids, sent)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetches replies, which came from `timed_app`."""
        replies = list(self._grid.pull_messages(message_ids))
        for reply in replies:
            times: Any = reply.content.metric_records[TIMES]
            moments = [
                self._pushed[reply.metadata.reply_to_message_id],
                times["began"],
                times["called"],
                times["opened"],
                times["done"],
                time.time(),
            ]
            self.messages.append(
                [after - before for before, after in zip(moments, moments[1:], strict=False)]
            )
        return replies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains the rounds of the configuration, and writes their times to the file `output`."""
    config, timed = load_config(Path(str(context.run_config["config"]))), TimedGrid(grid)
    server, rounds = FederationServer(Fleet(timed, config), config, Quiet()), []  # type: ignore[arg-type]  # it has what is used of a grid
    for number in range(1, config.federation.rounds + 1):
        timed.messages.clear()
        began = time.perf_counter()
        record = server.run_round(number)
        assert not record.failures
        rounds.append({"seconds": time.perf_counter() - began, "messages": list(timed.messages)})
    part = Path(f"{context.run_config['output']}.part")
    part.write_text(json.dumps(rounds))
    part.rename(str(context.run_config["output"]))


def measure_nodes(rounds: int) -> dict[str, Any]:
    """Runs a deployment of two nodes; returns seconds a round, and the median seconds of a message's stages. The first round doesn't count."""
    config = configuration(
        "real",
        "runtime.engine=deployment",
        f"federation.num_clients={NODES}",
        f"federation.rounds={rounds + 1}",
        f"data.synthetic.num_train={NODES * (128 + HELD_OUT)}",
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    with tempfile.TemporaryDirectory() as name:
        private, found = Path(name), Path(name) / "found.json"
        (private / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        apps = {
            "server_app": "benchmarks.engines.nodes:server_app",
            "client_app": "benchmarks.engines.timed_app:app",
        }
        with LocalDeployment(private, NODES, **apps) as deployment:
            deployment.submit({"config": str(private / "config.yaml"), "output": str(found)})
            began = time.monotonic()
            while not found.exists():
                if time.monotonic() - began > LONGEST_SECONDS:
                    raise RuntimeError(
                        f"no result after {LONGEST_SECONDS:g} s: {deployment.superlink.last_lines()}"
                    )
                time.sleep(POLL_SECONDS)
        counted = json.loads(found.read_text())[1:]
    seconds = [entry["seconds"] for entry in counted]
    stages = zip(*(message for entry in counted for message in entry["messages"]), strict=True)
    return {
        "nodes": NODES,
        "n": rounds,
        "seconds_a_round": seconds,
        "median_seconds_a_round": statistics.median(seconds),
        "median_seconds_of_a_message": dict(
            zip(STAGES, map(statistics.median, stages), strict=True)
        ),
    }
