"""A SuperLink with its SuperNodes on this machine, from the first process to the last one's end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tardis_fl.errors import RunError
from tardis_fl.federation.engines.local_flower.certificates import (
    write_certificates,
    write_node_key,
)
from tardis_fl.federation.engines.local_flower.commands import (
    CONNECTION,
    node_command,
    node_environment,
    run_flwr,
    superlink_command,
    write_app,
    write_connection,
    write_run_config,
)
from tardis_fl.federation.engines.local_flower.processes import (
    Program,
    end_all,
    free_ports,
    is_listening,
)


class LocalDeployment:
    """A SuperLink and nodes.

    As a context manager it starts them, and ends them whatever happens inside.

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
        self.folder = folder
        self._num_nodes = num_nodes
        self._certificate = folder / "ca.crt" if secure else None
        self._node_threads = node_threads
        free_port, *self._node_ports = free_ports(num_nodes + 1)
        self.port = port or free_port
        self._apps = (server_app, client_app)
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

    def __exit__(self, *_: object) -> None:
        self._end()

    def start_superlink(self) -> None:
        """Starts the SuperLink and waits until it answers.

        It uses the database that an earlier one may have left.
        """
        secure = self._certificate is not None
        command = superlink_command(self.folder, self.port, secure=secure)
        self.superlink = self._start(
            "SuperLink", "superlink", command, {"FLWR_HOME": str(self.folder / "superlink")}
        )
        self.superlink.await_port(self.port)

    def start_node(
        self, number: int, *, partition: int | None = None, registered: bool = True
    ) -> Program:
        """Starts a SuperNode, whose partition-id is its number where none is given.

        Where nodes have keys, the SuperLink knows its key only if it is registered.
        """
        partition = number if partition is None else partition
        home = self.folder / f"node_{number}"
        home.mkdir(exist_ok=True)
        if number >= len(self._node_ports):
            self._node_ports += free_ports(number + 1 - len(self._node_ports))
        key = home / "key" if self._certificate else None
        if key is not None and not key.exists():
            public = write_node_key(key)
            if registered:
                self.flwr("supernode", "register", str(public), CONNECTION)
        command = node_command(
            self.port,
            self._node_ports[number],
            partition=partition,
            num_partitions=self._num_nodes,
            certificate=self._certificate,
            key=key,
        )
        self._ended.discard(number)
        environment = node_environment(home, self._node_threads)
        self.nodes[number] = self._start(f"node {number}", f"node_{number}", command, environment)
        return self.nodes[number]

    def submit(self, run_config: Mapping[str, str | bool]) -> str:
        """Starts a run; returns its id.

        Raises:
            RunError: The SuperLink refuses it.
        """
        path = self.folder / "run.toml"
        write_run_config(path, run_config)
        app = str(self.folder / "app")
        return str(self.flwr("run", app, CONNECTION, "--run-config", str(path))["run-id"])

    def flwr(self, *arguments: str) -> dict[str, object]:
        """Runs Flower's command against the SuperLink; returns what it answers.

        Raises:
            RunError: It fails, with its message, or doesn't end.
        """
        return run_flwr(self.folder / "superlink", *arguments)

    def newly_ended(self) -> list[str]:
        """Returns a line for each node that has ended since the last call.

        Raises:
            RunError: The SuperLink has ended.
        """
        self.superlink.check()
        ended = {number for number, node in self.nodes.items() if node.exit_code is not None}
        new = sorted(ended - self._ended)
        self._ended |= ended
        return [f"node {number}'s process {self.nodes[number].ending()}" for number in new]

    @property
    def logs(self) -> list[Path]:
        """The programs' logs."""
        return sorted({program.log for program in self._programs})

    def _write_files(self) -> None:
        write_connection(self.folder / "superlink", self.port, certificate=self._certificate)
        write_app(self.folder / "app", *self._apps)
        if self._certificate:
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
        # nodes before the SuperLink, which they would only call in vain
        end_all(self._programs[::-1])
