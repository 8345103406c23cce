"""Command lines of Flower's programs, and the files that they read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tardis_fl.errors import RunError
from tardis_fl.federation.engines.local_flower.processes import QUIET

CONNECTION = "local"
COMMAND_SECONDS = 120.0
APP = """
[project]
name = "tardis-fl-run"
version = "0.1.0"
description = "The apps of the installed tardis_fl"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "tardis-fl"

[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "{client_app}"

[tool.flwr.app.config]
config = ""
set = ""
output = ""
resume = false
follow = ""
"""


def superlink_command(folder: Path, port: int, *, secure: bool) -> list[str]:
    """Returns the command of a SuperLink, on the database in a folder."""
    command = [
        "flower-superlink",
        "--disable-runtime-dependency-installation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--database",
        str(folder / "superlink.db"),
    ]
    if not secure:
        return [*command, "--insecure"]
    return [
        *command,
        "--ssl-ca-certfile",
        str(folder / "ca.crt"),
        "--ssl-certfile",
        str(folder / "server.crt"),
        "--ssl-keyfile",
        str(folder / "server.key"),
        "--enable-supernode-auth",
    ]


def node_command(
    superlink_port: int,
    port: int,
    *,
    partition: int,
    num_partitions: int,
    certificate: Path | None,
    key: Path | None,
) -> list[str]:
    """Returns the command of a SuperNode.

    Args:
        superlink_port: Of the SuperLink on this machine.
        port: Of the node itself.
        partition: Its partition-id.
        num_partitions: Partitions of the run.
        certificate: Of who signed the SuperLink's; None: nothing is encrypted.
        key: The node's private key; None: nodes have none.
    """
    command = [
        "flower-supernode",
        "--superlink",
        f"127.0.0.1:{superlink_port}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--node-config",
        f"partition-id={partition} num-partitions={num_partitions}",
    ]
    if certificate is None or key is None:
        return [*command, "--insecure"]
    secured = ["--root-certificates", str(certificate), "--auth-supernode-private-key", str(key)]
    return [*command, *secured]


def node_environment(home: Path, threads: int) -> dict[str, str]:
    """Returns the variables of a SuperNode: its FLWR_HOME, and threads that it computes with."""
    return {
        "FLWR_HOME": str(home),
        "TARDIS_FL_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
    }


def write_run_config(path: Path, values: Mapping[str, str | bool]) -> None:
    """Writes the values that `flwr run` passes on to the apps."""
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))


def write_app(folder: Path, server_app: str, client_app: str) -> None:
    """Writes an app without code, so that every process imports the installed package."""
    folder.mkdir()
    app = APP.format(server_app=server_app, client_app=client_app)
    (folder / "pyproject.toml").write_text(app)


def write_connection(folder: Path, port: int, *, certificate: Path | None) -> None:
    """Writes what the command `flwr` reads: where the SuperLink is, and how to trust it."""
    folder.mkdir()
    trust = f'root-certificates = "{certificate}"' if certificate else "insecure = true"
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n{trust}\n'
    )


def run_flwr(home: Path, *arguments: str) -> dict[str, object]:
    """Runs Flower's command; returns what it answers.

    Args:
        home: Its FLWR_HOME, which says where the SuperLink is.
        arguments: Of the command.

    Raises:
        RunError: It fails, with its message, or doesn't end.
    """
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(home)}
    command = [str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"`flwr {arguments[0]}` doesn't end within {COMMAND_SECONDS:g} s; "
            "does the SuperLink answer?"
        ) from None
    try:
        answer: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        answer = {"error-message": done.stderr or done.stdout}
    if not answer.get("success", done.returncode == 0):
        problem = str(answer.get("error-message")).strip()
        raise RunError(f"`flwr {arguments[0]}` failed: {problem}")
    return answer
