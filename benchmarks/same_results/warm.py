"""A process that has imported the large libraries once and runs `python -m tardis_fl` in forks.

Importing PyTorch, Flower and their like takes five times as long as a small run. What is imported
here is the same for every version of tardis_fl; tardis_fl itself is imported in the fork only.

The libraries are the arguments. Reads one request a line as JSON: tree, folder, arguments, output, kill_at and timeout_s. Answers
with one line: code (negative: the signal that ended it) and seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 0.005
WRONG_TREE = 99


def main() -> None:
    """Serves requests until the standard input ends."""
    for library in sys.argv[1:]:
        # A command that needs a library which isn't there says so itself.
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    while line := sys.stdin.readline():
        request = json.loads(line)
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            run(request)
        status = wait(child, request["kill_at"], request["timeout_s"])
        seconds = time.perf_counter() - start
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": seconds}))
        sys.stdout.flush()


def run(request: dict[str, Any]) -> None:
    """Becomes `python -m tardis_fl ARGUMENTS` in a folder; ends this process."""
    redirect(os.devnull, os.O_RDONLY, 0)
    redirect(request["output"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1)
    redirect(request["output"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 2)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # As `python -m` has it: the current folder first, then PYTHONPATH.
    sys.path[:0] = [request["folder"], request["tree"]]
    found = importlib.util.find_spec("tardis_fl")
    if found is None or not Path(str(found.origin)).is_relative_to(request["tree"]):
        print(f"tardis_fl isn't imported from {request['tree']}", file=sys.stderr)
        sys.exit(WRONG_TREE)
    sys.argv = ["tardis_fl", *request["arguments"]]
    runpy.run_module("tardis_fl", run_name="__main__", alter_sys=True)
    sys.exit(0)


def redirect(path: str, flags: int, descriptor: int) -> None:
    """Makes a standard stream a file."""
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)


def wait(child: int, kill_at: str | None, timeout_s: float) -> int:
    """Waits for a process and returns its status; kills it when a file appears or time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if (kill_at and os.path.exists(kill_at)) or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
