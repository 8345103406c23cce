"""The engine `ray`: Flower's own simulation engine.

It runs on this machine or on a Ray cluster that is already there.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from tardis_fl.core.compute import MOST_THREADS
from tardis_fl.errors import RunError, TardisError

P = ParamSpec("P")
R = TypeVar("R")

SERVER_SECONDS_TO_END = 30.0
CONNECT_SECONDS = 5.0


def check_ray() -> None:
    """Refuses where Ray isn't installed.

    Raises:
        RunError: Says how to install it.
    """
    if importlib.util.find_spec("ray") is None:
        raise RunError(
            "runtime.engine: got 'ray', and Ray is not installed; "
            "run `pip install 'tardis_fl[ray]'`, or use the engine inline"
        )


def run_on_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    num_clients: int,
    *,
    workers: int,
    address: str | None = None,
) -> None:
    """Runs the apps on Flower's simulation engine until the ServerApp's main returns.

    Args:
        server_app: The server's side; it runs in a thread of this process.
        client_app: The clients' side.
        num_clients: Clients of the run.
        workers: Clients that train at a time, each with one thread; a cluster that is already there
            has its own number.
        address: HOST:PORT of a cluster that is already there (`runtime.ray_address`); None: start
            one here.

    Raises:
        RunError: Ray isn't installed, can't be started, there is no cluster at
            `runtime.ray_address`, or the engine failed.
    """
    check_ray()
    from flwr.simulation import run_simulation

    server = _Server(server_app)
    with _quiet_flower():
        try:
            _start_ray(address, workers)
            run_simulation(
                server.app,
                client_app,
                num_clients,
                backend_config={
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                    "init_args": {},
                },
            )
        except Exception as error:
            if isinstance(error, TardisError) or error is server.error:
                raise
            raise RunError(
                f"Flower's simulation engine failed: {_first_line(error.__cause__ or error)}"
            ) from error
        finally:
            server.end()
            _stop_ray()


def _start_ray(address: str | None, workers: int) -> None:
    import ray

    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        MOST_THREADS: "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of it otherwise
    try:
        _knock(address)
        ray.init(
            runtime_env={"env_vars": environment},
            logging_level=logging.ERROR,
            log_to_driver=False,
            address=address or "local",
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
        )
    except Exception as error:
        where = (
            f"no Ray cluster answers at runtime.ray_address {address}"
            if address
            else "Ray can't be started here"
        )
        raise RunError(f"{where}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _knock(address: str | None) -> None:
    """Raises OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _stop_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()


class _Server:
    """A ServerApp that can be stopped.

    Flower lets its thread run on where the main thread is interrupted.

    Attributes:
        app: What Flower is given.
        error: What the app's main raised; None: nothing yet.
    """

    def __init__(self, server_app: ServerApp) -> None:
        self.app = ServerApp()
        self.error: BaseException | None = None
        self._began = threading.Event()
        self._stop = threading.Event()
        self._ended = threading.Event()

        @self.app.main()
        def main(grid: Grid, context: Context) -> None:
            self._began.set()
            # what a server calls again and again while it waits
            for name in ("pull_messages", "get_node_ids"):
                setattr(grid, name, self._unless_stopped(getattr(grid, name)))
            try:
                server_app(grid, context)
            except BaseException as error:
                self.error = error
                raise
            finally:
                self._ended.set()

    def _unless_stopped(self, call: Callable[P, R]) -> Callable[P, R]:
        def checked(*arguments: P.args, **options: P.kwargs) -> R:
            if self._stop.is_set():
                raise RunError("the run was stopped")
            return call(*arguments, **options)

        return checked

    def end(self) -> None:
        """Ends the app's main, where it has begun, and waits for it."""
        self._stop.set()
        if self._began.is_set():
            self._ended.wait(SERVER_SECONDS_TO_END)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Keeps Flower's log from between our lines.

    What goes wrong is raised, or comes with a reply.
    """
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
