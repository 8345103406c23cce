"""Flower's programs as processes of ours.

They start with a log of their own, and end with everything that they have started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tardis_fl.errors import RunError

SECONDS_TO_START = 60.0
SECONDS_TO_END = 5.0
SHOWN_LOG_LINES = 15
PR_SET_PDEATHSIG = 1


@dataclass
class Program:
    """One running program of Flower's.

    Attributes:
        name: For people.
        log: Where its output goes.
        home: Its FLWR_HOME, of which all that it starts know; None: it has none of its own.
    """

    name: str
    log: Path
    home: str | None
    _process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> Program:
        """Starts a program of this Python's installation.

        It has a session of its own, so that Ctrl-C reaches us alone.

        Raises:
            RunError: It isn't there.
        """
        folder = Path(sys.executable).parent
        variables = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            **QUIET,
            **environment,
        }
        try:
            with open(log, "wb") as file:
                process = subprocess.Popen(
                    [str(folder / command[0]), *command[1:]],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=variables,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
        except OSError as error:
            raise RunError(
                f"{command[0]} can't be started ({error.strerror or error}); "
                f"is Flower installed beside {sys.executable}?"
            ) from None
        return cls(name, log, environment.get("FLWR_HOME"), process)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def await_port(self, port: int) -> None:
        """Waits until it listens at a port of this machine.

        Raises:
            RunError: It ended, or doesn't in time.
        """
        began = time.monotonic()
        while time.monotonic() - began < SECONDS_TO_START:
            if self.exit_code is not None:
                raise RunError(
                    f"the {self.name} ended at once with code {self.exit_code}. "
                    f"The end of its log:\n{self.last_lines()}"
                )
            if is_listening(port):
                return
            time.sleep(0.1)
        raise RunError(
            f"the {self.name} doesn't answer at port {port} after {SECONDS_TO_START:g} s. "
            f"The end of its log:\n{self.last_lines()}"
        )

    def check(self) -> None:
        """Refuses to go on without it.

        Raises:
            RunError: It has ended.
        """
        if self.exit_code is not None:
            raise RunError(
                f"the {self.name} ended with code {self.exit_code}. "
                f"The end of its log:\n{self.last_lines()}"
            )

    def ending(self) -> str:
        """Returns how it ended, for people."""
        return f"ended with code {self.exit_code} (its log: {self.log.name})"

    def last_lines(self) -> str:
        """Returns the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:])


QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "NO_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
}


def _end_with_parent() -> None:
    """Lets the kernel end a program whose parent was killed; its own children then end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_all(programs: Sequence[Program]) -> None:
    """Ends programs and everything that they have started, first politely.

    This includes what a killed program left behind.
    """
    homes = {program.home for program in programs} - {None}
    processes = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("FLWR_HOME") in homes
    ]
    for program in programs:
        try:
            found = psutil.Process(program.pid)
            processes += [found, *found.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    processes = list(dict.fromkeys(processes))
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                stop(process)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=SECONDS_TO_END)
    for program in programs:
        program._process.wait()


def is_listening(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
