"""A SuperLink with its SuperNodes on this machine, from the first process to the last one's end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tardis_fl.errors import RunError
from tardis_fl.federation.engines.local_flower.certificates import (
    write_certificates,
    write_node_key,
)
from tardis_fl.federation.engines.local_flower.processes import (
    QUIET,
    Program,
    end_all,
    free_ports,
    is_listening,
)

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


class LocalDeployment:
    """A SuperLink and nodes; as a context manager it starts them, and ends them whatever happens inside.

    Args:
        folder: For keys, databases and logs; private.
        num_nodes: SuperNodes; node i has partition-id i.
        secure: Encrypt, and let in only nodes whose keys are registered.
        port: Of the SuperLink; None: a free one.
        node_threads: Threads that each node computes with at most.
        server_app, client_app: MODULE:ATTRIBUTE of the apps.
    """

    def __init__(
        self,
        folder: Path,
        num_nodes: int,
        *,
        secure: bool = False,
        port: int | None = None,
        node_threads: int = 1,
        server_app: str = "tardis_fl.workflows.flower_app:server_app",
        client_app: str = "tardis_fl.federation.client.app:app",
    ) -> None:
        if port is not None and is_listening(port):
            raise RunError(
                f"port {port} of this machine is in use; give another one with --port, or none"
            )
        self.folder, self._num_nodes, self._secure, self._node_threads = (
            folder,
            num_nodes,
            secure,
            node_threads,
        )
        self.port, *self._node_ports = free_ports(num_nodes + 1)
        self.port = port or self.port
        self._app = APP.format(server_app=server_app, client_app=client_app)
        self._ended: set[int] = set()
        self._programs: list[Program] = []
        self.nodes: dict[int, Program] = {}

    def __enter__(self) -> LocalDeployment:
        try:
            self._write_files()
            self.start_superlink()
            for number in range(self._num_nodes):
                self.start_node(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._end()

    def start_superlink(self) -> None:
        """Starts the SuperLink, on the database that an earlier one may have left, and waits until it answers."""
        command = [
            "flower-superlink",
            "--disable-runtime-dependency-installation",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        command += ["--database", str(self.folder / "superlink.db")]
        if self._secure:
            pairs = {
                "--ssl-ca-certfile": "ca.crt",
                "--ssl-certfile": "server.crt",
                "--ssl-keyfile": "server.key",
            }
            command += [
                part for option, name in pairs.items() for part in (option, str(self.folder / name))
            ] + ["--enable-supernode-auth"]
        else:
            command.append("--insecure")
        self.superlink = self._start(
            "SuperLink", "superlink", command, {"FLWR_HOME": str(self.folder / "superlink")}
        )
        self.superlink.await_port(self.port)

    def start_node(
        self, number: int, *, partition: int | None = None, registered: bool = True
    ) -> Program:
        """Starts a SuperNode.

        Args:
            number: Its number here.
            partition: Its partition-id; None: its number.
            registered: Whether the SuperLink is told its key before, where nodes have keys.
        """
        partition = number if partition is None else partition
        home = self.folder / f"node_{number}"
        home.mkdir(exist_ok=True)
        if number >= len(self._node_ports):
            self._node_ports += free_ports(number + 1 - len(self._node_ports))
        command = [
            "flower-supernode",
            "--superlink",
            f"127.0.0.1:{self.port}",
            "--host",
            "127.0.0.1",
            "--port",
            str(self._node_ports[number]),
        ]
        command += ["--node-config", f"partition-id={partition} num-partitions={self._num_nodes}"]
        if self._secure:
            key = home / "key"
            if not key.exists():
                public = write_node_key(key)
                if registered:
                    self.flwr("supernode", "register", str(public), CONNECTION)
            command += [
                "--root-certificates",
                str(self.folder / "ca.crt"),
                "--auth-supernode-private-key",
                str(key),
            ]
        else:
            command.append("--insecure")
        self._ended.discard(number)
        threads = str(self._node_threads)
        environment = {
            "FLWR_HOME": str(home),
            "TARDIS_FL_THREADS": threads,
            "OMP_NUM_THREADS": threads,
        }
        self.nodes[number] = self._start(f"node {number}", f"node_{number}", command, environment)
        return self.nodes[number]

    def submit(self, run_config: Mapping[str, str | bool]) -> str:
        """Starts a run; returns its id.

        Raises:
            RunError: The SuperLink refuses it.
        """
        path = self.folder / "run.toml"
        path.write_text(
            "".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items())
        )
        return str(
            self.flwr("run", str(self.folder / "app"), CONNECTION, "--run-config", str(path))[
                "run-id"
            ]
        )

    def flwr(self, *arguments: str) -> dict[str, object]:
        """Runs Flower's command against the SuperLink; returns what it answers.

        Raises:
            RunError: It fails, with its message, or doesn't end.
        """
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(self.folder / "superlink")}
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
                f"`flwr {arguments[0]}` doesn't end within {COMMAND_SECONDS:g} s; does the SuperLink answer?"
            ) from None
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"error-message": done.stderr or done.stdout}
        if not answer.get("success", done.returncode == 0):
            raise RunError(
                f"`flwr {arguments[0]}` failed: {str(answer.get('error-message')).strip()}"
            )
        return answer

    def newly_ended(self) -> list[str]:
        """Returns a line for each node that has ended since the last call.

        Raises:
            RunError: The SuperLink has ended.
        """
        if self.superlink.exit_code is not None:
            raise RunError(
                f"the SuperLink ended with code {self.superlink.exit_code}. The end of its log:\n{self.superlink.last_lines()}"
            )
        gone = {
            number: program
            for number, program in self.nodes.items()
            if program.exit_code is not None and number not in self._ended
        }
        self._ended |= gone.keys()
        return [
            f"node {number}'s process ended with code {program.exit_code} (its log: {program.log.name})"
            for number, program in gone.items()
        ]

    @property
    def logs(self) -> list[Path]:
        """The programs' logs."""
        return sorted({program.log for program in self._programs})

    def _write_files(self) -> None:
        for name in ("superlink", "app"):
            (self.folder / name).mkdir()
        (self.folder / "app" / "pyproject.toml").write_text(self._app)
        trust = (
            f'root-certificates = "{self.folder / "ca.crt"}"' if self._secure else "insecure = true"
        )
        (self.folder / "superlink" / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{self.port}"\n{trust}\n'
        )
        if self._secure:
            write_certificates(self.folder)

    def _start(
        self, name: str, file_name: str, command: list[str], environment: dict[str, str]
    ) -> Program:
        program = Program.start(
            name, command, log=self.folder / f"{file_name}.log", environment=environment
        )
        self._programs.append(program)
        return program

    def _end(self) -> None:
        end_all(
            self._programs[::-1]
        )  # nodes before the SuperLink, which they would only call in vain
