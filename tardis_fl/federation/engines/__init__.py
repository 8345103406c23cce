"""Where the apps run: in this process and worker processes (`inline`), or on Flower's simulation engine (`ray`)."""

from __future__ import annotations

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from tardis_fl.config.schema import Config
from tardis_fl.errors import ConfigError
from tardis_fl.federation.engines.inline import SERVER_NODE_ID, InlineGrid
from tardis_fl.federation.engines.ray_engine import check_ray, run_on_ray
from tardis_fl.federation.engines.workers import WorkerProcesses

CLIENT_APP = "tardis_fl.federation.client_app:app"


def check_engine(config: Config, *, resume: bool) -> None:
    """Refuses an engine that can't run here, or can't go on with a run.

    Raises:
        RunError: It isn't installed.
        ConfigError: A resumed run needs what clients kept, and that was in processes of the engine.
    """
    if config.runtime.engine != "ray":
        return
    check_ray()
    if resume and config.model.norm == "batch_local":
        raise ConfigError("model.norm: got 'batch_local' with --resume on the engine ray, where clients' own norm layers end with the run; wanted inline")


def run_apps(server_app: ServerApp, config: Config, *, workers: int) -> None:
    """Runs the apps on the configured engine until the ServerApp's main returns.

    Args:
        server_app: The server's side.
        config: The configuration.
        workers: Clients that train at a time; 1 on the engine `inline`: in this process.
    """
    if config.runtime.engine == "ray":
        run_on_ray(server_app, config, workers=workers)
    elif workers == 1:
        from tardis_fl.federation.client_app import app

        _run_inline(server_app, InlineGrid(app, config.federation.num_clients))
    else:
        with WorkerProcesses(CLIENT_APP, workers, config.federation.num_clients) as processes:
            _run_inline(server_app, InlineGrid(processes, config.federation.num_clients))


def _run_inline(server_app: ServerApp, grid: InlineGrid) -> None:
    server_app(grid, Context(run_id=0, node_id=SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config={}))
