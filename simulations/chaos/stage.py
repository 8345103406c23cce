"""A small run on real nodes of this machine, and what can be done to them meanwhile."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from tardis_fl.config import parse_config
from tardis_fl.errors import TardisError
from tardis_fl.federation.engines.local_flower.deployment import LocalDeployment
from tardis_fl.workflows.federate import _follow

CONFIG = """
name: chaos
data:
  dataset: synthetic
  synthetic: {num_train: 300, num_test: 60}
  partition: {scheme: iid}
model: {width: 4, exit_hidden: 8}
federation:
  rounds: 4
  num_clients: 3
  client_depth: 3
  client: {batch_size: 16}
  final_server_epochs: 0
  evaluate_every: 0
  max_failed_fraction: 0.5
deployment: {max_accuracy_drop: 0.1}
runtime: {engine: deployment, threads: 1, reply_timeout_s: 30, nodes_timeout_s: 60}
"""
PATIENCE_SECONDS = 180.0


@dataclass
class Stage:
    """Where a scenario takes place.

    Attributes:
        deployment: SuperLink and nodes.
        run: The run's folder.
        told: What the scenario did, with seconds since the start.
    """

    deployment: LocalDeployment
    run: Path
    began: float = field(default_factory=time.monotonic)
    told: list[str] = field(default_factory=list)

    def tell(self, what: str) -> None:
        """Notes what is done now."""
        self.told.append(f"{time.monotonic() - self.began:.0f} s: {what}")

    def rounds(self) -> list[dict]:
        """Returns the records of the rounds that are done."""
        path = self.run / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def await_round(self, number: int) -> None:
        """Waits until a round is done."""
        self.await_that(lambda: len(self.rounds()) >= number, f"round {number}")

    def await_client(self, node: int) -> psutil.Process:
        """Waits until a node works on a message; returns the process that does."""
        found: list[psutil.Process] = []

        def works() -> bool:
            found[:] = [
                process
                for process in self.processes(node)
                if any(word.endswith("flwr-clientapp") for word in _words(process))
            ]
            return bool(found)

        self.await_that(works, f"a client process of node {node}")
        return found[0]

    def await_that(self, holds: Callable[[], bool], what: str) -> None:
        """Waits for something, not for ever."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"waited for {what}")
            time.sleep(0.05)

    def processes(self, node: int) -> list[psutil.Process]:
        """Returns the processes of a node, the SuperNode first."""
        try:
            supernode = psutil.Process(self.deployment.nodes[node].pid)
            return [supernode, *supernode.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, node: int) -> None:
        """Ends all processes of a node with SIGKILL."""
        self.tell(f"node {node} is killed")
        _signal_all(self.processes(node), signal.SIGKILL)

    def cut_off(self, node: int, seconds: float) -> None:
        """Stops all processes of a node for a while, as if its network were cut."""
        processes = self.processes(node)
        self.tell(f"node {node} is stopped for {seconds:g} s")
        _signal_all(processes, signal.SIGSTOP)
        time.sleep(seconds)
        _signal_all(processes, signal.SIGCONT)


@dataclass(frozen=True)
class Outcome:
    """How a scenario ended.

    Attributes:
        error: What the run ended with; None where it finished.
        failures: (round, client, kind) of every failure.
        round_seconds: Of each round.
        screen: What the server showed.
        told: What the scenario did.
        seconds: Of all.
        left_behind: Processes that were still there afterwards.
    """

    error: str | None
    failures: list[tuple[int, int, str]]
    round_seconds: list[float]
    screen: str
    told: list[str]
    seconds: float
    left_behind: int


def perform(
    folder: Path,
    act: Callable[[Stage], None],
    *,
    overrides: tuple[str, ...] = (),
    nodes: int = 3,
    secure: bool = False,
    before: Callable[[LocalDeployment], None] | None = None,
    resume: bool = False,
    restart: Callable[[Stage, dict[str, str | bool]], Path] | None = None,
) -> Outcome:
    """Runs the small run while something happens to its nodes.

    Args:
        folder: For the run and the programs' files.
        act: What happens, in a thread of its own, from the start of the run.
        overrides: Of the configuration.
        nodes: SuperNodes that are there from the start.
        secure: TLS and keys.
        before: What is done when the nodes have been started, before the run.
        resume: Go on with the run in the folder.
        restart: Ends the SuperLink and starts another with the run; given the run config, returns
            the folder to follow then.
    """
    config = parse_config(CONFIG, overrides=overrides)
    private = folder / f"private_{'again' if resume else 'first'}"
    follow, run = private / "follow", folder / "run"
    follow.mkdir(parents=True)
    (private / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    deployment, error = LocalDeployment(private, nodes, secure=secure), None
    stage = Stage(deployment, run)
    with _thread_of(stage, act) as start, deployment:
        if before:
            before(deployment)
        try:
            run_config = {
                "config": str(private / "config.yaml"),
                "output": str(run),
                "resume": resume,
                "follow": str(follow),
            }
            deployment.submit(run_config)
            start()
            if restart is not None:
                follow = restart(stage, run_config)
            _follow(deployment, follow)
        except TardisError as caught:
            error = str(caught)
    records = stage.rounds()
    failures = [
        (record["round"], failure["client"], failure["kind"])
        for record in records
        for failure in record["failures"]
    ]
    screen = follow / "screen.txt"
    return Outcome(
        error,
        failures,
        [record["seconds"] for record in records],
        screen.read_text() if screen.exists() else "",
        stage.told,
        time.monotonic() - stage.began,
        _num_running(private),
    )


@contextmanager
def _thread_of(stage: Stage, act: Callable[[Stage], None]):
    """Yields what starts the acting; raises what went wrong in it at the end."""
    problems: list[BaseException] = []
    over, acted = threading.Event(), threading.Event()

    def run() -> None:
        try:
            act(stage)
        except BaseException as problem:
            problems.append(problem)
        acted.set()
        over.wait()  # programs end with the thread that started them

    thread = threading.Thread(target=run, daemon=True)
    yield thread.start
    over.set()
    if thread.ident is not None and not acted.wait(PATIENCE_SECONDS):
        raise TimeoutError(
            f"the run is over, and {act.__qualname__} isn't after {PATIENCE_SECONDS:g} s more"
        )
    if problems:
        raise problems[0]


def _num_running(folder: Path) -> int:
    """Returns how many processes run that were started for programs whose files lie in a folder, whoever their parents are by now."""
    running = [
        process.info["environ"] or {}
        for process in psutil.process_iter(["environ", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    return sum(
        Path(environment.get("FLWR_HOME", "/")).is_relative_to(folder) for environment in running
    )


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()[:2]
    except psutil.NoSuchProcess:
        return []
