"""Runs the cases of a side, each command in a fork of a warm process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from benchmarks.same_results.case import TREE, Case, Step
from benchmarks.same_results.pictures import write_pictures

WARM = Path(__file__).with_name("warm.py")
# What all versions import, and what takes most of the time of a small run.
LIBRARIES = (
    "numpy",
    "scipy.optimize",
    "scipy.stats",
    "torch",
    "torch._dynamo",
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "matplotlib.figure",
    "safetensors.torch",
    "pydantic",
    "jinja2",
    "rich.console",
    "rich.progress",
    "typer",
    "yaml",
    "PIL.Image",
)
TIMEOUT_S = 300.0
OUTCOME = "outcome.json"
LINES_OF_A_MESSAGE = 12
# Results don't depend on what the user has set: neither another checkout nor own data.
UNSET = ("PYTHONPATH", "TARDIS_FL_DATA", "TARDIS_FL_CACHE")
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "NO_COLOR": "1",
    "COLUMNS": "120",
}


class WarmProcess:
    """A process that runs commands one at a time."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in UNSET}
        # -P: the folder of warm.py isn't searched for modules.
        # A session of its own: Ctrl-C reaches this process only, which then ends the whole group.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WARM), *LIBRARIES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | SETTINGS,
            start_new_session=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Runs a command and returns its exit code and seconds.

        Raises:
            RuntimeError: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError("the process that runs commands has ended")
        result: dict[str, Any] = json.loads(answer)
        return result

    def end(self) -> None:
        """Ends the process and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


@dataclass(frozen=True)
class Side:
    """One version of the project at work.

    Attributes:
        tree: Its checkout.
        folder: Gets a folder a case.
    """

    tree: Path
    folder: Path

    def run(self, case: Case, process: WarmProcess) -> float:
        """Runs a case's commands until one doesn't end as expected.

        What each command ended with lies in the case's `outcome.json` afterwards.

        Returns:
            The seconds that the commands took.
        """
        folder = self.folder / case.name
        self._prepare(case, folder)
        outcomes = []
        seconds = 0.0
        for number, step in enumerate(case.steps):
            output = folder / f"step_{number}"
            answer = process.ask(self._request(step, folder, output))
            seconds += answer["seconds"]
            code = answer["code"]
            outcome = {"command": " ".join(step.arguments[:1]), "code": code}
            if code > 0:
                outcome["message"] = self._message(Path(f"{output}.err"), folder)
            outcomes.append(outcome)
            if code != step.expects:
                break
        (folder / OUTCOME).write_text(json.dumps(outcomes, indent=2))
        return seconds

    def _prepare(self, case: Case, folder: Path) -> None:
        if case.after is not None:
            # Its warm start: hard links would let a command write into another case's files.
            shutil.copytree(self.folder / case.after, folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in case.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        if case.pictures is not None:
            write_pictures(folder / "pictures", case.pictures)

    def _request(self, step: Step, folder: Path, output: Path) -> dict[str, Any]:
        tree = str(self.tree)
        return {
            "tree": tree,
            "folder": str(folder),
            "arguments": [argument.replace(TREE, tree) for argument in step.arguments],
            "output": str(output),
            "kill_at": str(folder / step.kill_at) if step.kill_at else None,
            "timeout_s": TIMEOUT_S,
            "environment": {
                "PYTHONPATH": tree,
                "TARDIS_FL_CACHE": str(self.folder / "_cache"),
                "FLWR_HOME": str(self.folder / "_flwr"),
            },
        }

    def _message(self, path: Path, folder: Path) -> str:
        """Returns the end of what a failed command wrote, without the paths of this run."""
        text = path.read_text(errors="replace").strip()
        text = text.replace(str(folder), "FOLDER").replace(str(self.tree), "TREE")
        return "\n".join(text.splitlines()[-LINES_OF_A_MESSAGE:])


def run_cases(
    work: Sequence[tuple[Side, Case]], *, jobs: int, report: Callable[[Side, Case, float], None]
) -> dict[tuple[Path, str], float]:
    """Runs cases of both sides, those that others begin with first.

    Args:
        work: What to run. A case that begins with another wants that one here, or its folder
            there already.
        jobs: Commands at a time.
        report: Hears of each case that is done.

    Returns:
        Seconds of each, by the side's folder and the case's name.
    """
    processes = [WarmProcess() for _ in range(jobs)]
    free: Queue[WarmProcess] = Queue()
    for process in processes:
        free.put(process)
    seconds: dict[tuple[Path, str], float] = {}

    def run_one(side: Side, case: Case) -> float:
        process = free.get()
        try:
            return side.run(case, process)
        finally:
            free.put(process)

    executor = ThreadPoolExecutor(jobs)
    try:
        for first in (True, False):
            futures: dict[Future[float], tuple[Side, Case]] = {
                executor.submit(run_one, side, case): (side, case)
                for side, case in work
                if (case.after is None) == first
            }
            for future in as_completed(futures):
                side, case = futures[future]
                seconds[side.folder, case.name] = future.result()
                report(side, case, seconds[side.folder, case.name])
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.end()
    return seconds
