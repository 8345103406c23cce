"""The main job on real Flower processes of this machine.

`python -m tardis_fl federate CONFIG --engine deployment` starts them, follows the server's screen,
and ends them.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psutil
import yaml

from tardis_fl.config.schema import Config
from tardis_fl.errors import ConfigError, DataError, RunError
from tardis_fl.federation.engines.local_flower.deployment import LocalDeployment

SECONDS_TO_BEGIN = 90.0
POLL_SECONDS = 0.2
LOGS = "flower_logs"


def federate(
    config: Config,
    folder: Path,
    *,
    num_nodes: int | None,
    secure: bool,
    port: int | None,
    resume: bool,
) -> None:
    """Starts a SuperLink and SuperNodes, runs the main job on them, and always ends them.

    Args:
        config: The experiment.
        folder: The run's folder.
        num_nodes: SuperNodes; None: one for each client.
        secure: Use TLS and node keys, made for this run alone.
        port: Of the SuperLink; None: a free one.
        resume: Continue the unfinished run in the folder.

    Raises:
        RunError: Something can't be started, or the run failed.
        ConfigError, DataError: See `tardis_fl.workflows.experiment`.
    """
    from tardis_fl.core.compute import num_cores
    from tardis_fl.federation.engines import check_engine
    from tardis_fl.runs.folder import RunFolder

    config = config.model_copy(
        update={"runtime": config.runtime.model_copy(update={"engine": "deployment"})}
    )
    num_clients = config.federation.num_clients
    num_nodes = num_clients if num_nodes is None else num_nodes
    needed = min(config.runtime.min_nodes or num_clients, num_clients)
    if not needed <= num_nodes <= num_clients:
        wanted = str(num_clients) if needed == num_clients else f"{needed} to {num_clients}"
        raise RunError(
            f"--nodes: got {num_nodes}; this configuration needs {wanted}, one for each client "
            "(federation.num_clients, runtime.min_nodes)"
        )
    RunFolder.check_free(folder, resume=resume)
    check_engine(config, resume=resume, has_nodes=True)

    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="tardis_fl_") as name:
        private = Path(name)
        follow = private / "follow"
        follow.mkdir()
        (private / "config.yaml").write_text(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        )
        secured = " with TLS and keys" if secure else ""
        print(f"starting a SuperLink and {num_nodes} SuperNodes{secured} ...", flush=True)
        deployment = LocalDeployment(
            private,
            num_nodes,
            secure=secure,
            port=port,
            node_threads=max(1, num_cores() // num_nodes),
        )
        try:
            with deployment:
                run: dict[str, str | bool] = {
                    "config": str(private / "config.yaml"),
                    "output": str(folder.resolve()),
                    "resume": resume,
                    "follow": str(follow),
                }
                deployment.submit(run)
                _follow(deployment, follow)
        finally:
            if RunFolder.holds_run(folder):
                (folder / LOGS).mkdir(exist_ok=True)
                for log in deployment.logs:
                    shutil.copy(log, folder / LOGS / log.name)


def _follow(deployment: LocalDeployment, follow: Path) -> None:
    """Shows what the server shows, until the run has ended.

    Raises:
        ConfigError, DataError, RunError: As the server raised it, or because it ended without a
            message.
    """
    from tardis_fl.workflows.flower_app import OUTCOME, PROCESS, SCREEN

    began = time.monotonic()
    shown = 0
    while True:
        outcome = _read(follow / OUTCOME)
        server_runs = _runs(_read(follow / PROCESS))
        shown += _show(follow / SCREEN, shown)
        if outcome is not None:
            _raise_if_failed(outcome)
            return
        for line in deployment.newly_ended():
            print(f"note: {line}", flush=True)
        if server_runs is False:
            if _read(follow / OUTCOME) is not None:
                continue
            raise RunError(f"the server's process ended without a message. {_log_of(deployment)}")
        if server_runs is None and time.monotonic() - began > SECONDS_TO_BEGIN:
            raise RunError(
                f"the server did not begin within {SECONDS_TO_BEGIN:g} s. {_log_of(deployment)}"
            )
        time.sleep(POLL_SECONDS)


def _log_of(deployment: LocalDeployment) -> str:
    return f"The end of the SuperLink's log:\n{deployment.superlink.last_lines()}"


def _show(path: Path, offset: int) -> int:
    """Prints a file from an offset on; returns how many bytes that were."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(offset)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    sys.stdout.write(whole.decode(errors="replace"))
    sys.stdout.flush()
    return len(whole)


def _read(path: Path) -> dict[str, object] | None:
    if not path.exists():
        return None
    content: dict[str, object] = json.loads(path.read_text())
    return content


def _runs(process: dict[str, object] | None) -> bool | None:
    """Whether the server's process runs; None where it hasn't begun."""
    if process is None:
        return None
    try:
        status = psutil.Process(int(str(process["pid"]))).status()
    except psutil.NoSuchProcess:
        return False
    return bool(status != psutil.STATUS_ZOMBIE)


def _raise_if_failed(outcome: dict[str, object]) -> None:
    kinds = {kind.exit_code: kind for kind in (ConfigError, DataError, RunError)}
    if outcome["exit_code"]:
        raise kinds[int(str(outcome["exit_code"]))](str(outcome["message"]))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Lets SIGTERM end what was started, as Ctrl-C does."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
