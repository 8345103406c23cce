"""Where the apps run.

In this process and worker processes (`inline`), on Flower's simulation engine (`ray`), or as real
nodes (`deployment`).
"""

from __future__ import annotations

from importlib.metadata import version

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from tardis_fl.codecs.names import has_fixed_size
from tardis_fl.config.schema import Config
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.engines.inline import SERVER_NODE_ID, InlineGrid, imported_app
from tardis_fl.federation.engines.ray_engine import check_ray, run_on_ray
from tardis_fl.federation.engines.workers import WorkerProcesses

TESTED_FLOWER = "1.41."
CLIENT_APP = "tardis_fl.federation.client.app:app"


def check_engine(config: Config, *, resume: bool, has_nodes: bool = False) -> None:
    """Refuses an engine that can't run here, or can't go on with a run.

    Args:
        config: The configuration.
        resume: Whether a run is to go on.
        has_nodes: Whether real nodes are there already.

    Raises:
        RunError: Flower is of another version than those tested, or the engine isn't installed.
        ConfigError: The engine is started otherwise, a resumed run needs what clients kept in
            processes that have ended, or the server needs images that nodes keep.
    """
    check_flower()
    engine = config.runtime.engine
    codec = config.deployment.feature_codec
    if (
        config.data.partition.scheme == "natural"
        and engine == "deployment"
        and not config.calibrates_by_sums
        and not has_fixed_size(codec)
    ):
        raise ConfigError(
            f"deployment.feature_codec: got {codec!r}, whose bytes depend on each image, while the "
            "server has none of those that the nodes keep (data.partition.scheme: natural); wanted "
            "a codec without compression, such as uint8, or federation.calibration: sums"
        )
    if engine == "deployment" and not has_nodes:
        raise ConfigError(
            "runtime.engine: got 'deployment', whose server and clients are processes; "
            "wanted the command 'federate', or `flwr run`"
        )
    if engine == "ray":
        check_ray()
    if resume and engine != "inline" and config.model.norm == "batch_local":
        raise ConfigError(
            f"model.norm: got 'batch_local' with --resume on the engine {engine}, "
            "where clients' own norm layers end with a run; wanted inline"
        )


def check_flower() -> None:
    """Refuses versions of Flower that this wasn't tested with.

    Raises:
        RunError: Says which ones were.
    """
    found = version("flwr")
    if not found.startswith(TESTED_FLOWER):
        raise RunError(
            f"Flower {found} is installed, and this was tested with {TESTED_FLOWER}x alone; "
            f"run `pip install 'flwr>={TESTED_FLOWER}0,<1.42'`"
        )


def run_apps(
    server_app: ServerApp, config: Config, *, workers: int, client_app: str = CLIENT_APP
) -> None:
    """Runs the apps on the configured engine until the ServerApp's main returns.

    Args:
        server_app: The server's side.
        config: The configuration.
        workers: Clients that train at a time; 1 on the engine `inline`: in this process.
        client_app: MODULE:ATTRIBUTE of the clients' side, which other processes import.
    """
    num_clients = config.federation.num_clients
    if config.runtime.engine == "ray":
        run_on_ray(
            server_app,
            imported_app(client_app),
            num_clients,
            workers=workers,
            address=config.runtime.ray_address,
        )
    elif workers == 1:
        serve(server_app, InlineGrid(imported_app(client_app), num_clients))
    else:
        with WorkerProcesses(client_app, workers, num_clients) as processes:
            serve(server_app, InlineGrid(processes, num_clients))


def serve(server_app: ServerApp, grid: Grid) -> None:
    """Runs the ServerApp's main over a grid."""
    server_app(
        grid,
        Context(
            run_id=0, node_id=SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config={}
        ),
    )
