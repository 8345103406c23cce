"""The Flower ServerApp: reads the configuration and calls the loop."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tardis_fl.config.schema import Config
from tardis_fl.core.compute import use_threads
from tardis_fl.data.images import Dataset
from tardis_fl.federation.callbacks.base import Callback
from tardis_fl.federation.rounds import Interrupted, Trained, train_federated
from tardis_fl.federation.transport.fleet import Fleet


def build_server_app(
    config: Config,
    callbacks: Callback,
    receive: Callable[[Trained], None],
    interrupted: Interrupted | None = None,
) -> ServerApp:
    """Builds a ServerApp that trains a configuration.

    Args:
        config: The resolved configuration.
        callbacks: Are called as it goes on.
        receive: Gets the result, since a ServerApp returns nothing.
        interrupted: Where an interrupted run goes on; None: from the start.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        use_threads(config.runtime)  # an engine may run this in a thread of its own
        fleet = Fleet(grid, config, callbacks.on_notice)
        receive(train_federated(fleet, config, callbacks, interrupted))

    return app


def meet_nodes(
    grid: Grid, config: Config, dataset: Dataset, notice: Callable[[str], None]
) -> Fleet:
    """Waits for real nodes and asks them who they are.

    Args:
        grid: Their grid.
        config: The resolved configuration.
        dataset: The server's, of which nodes have copies, or only the classes where they keep their
            own images.
        notice: Is told of nodes that come and go.

    Raises:
        RunError: There are too few in time, two are the same client, or their images aren't what
            they should be.
    """
    if not config.nodes_keep_images:
        return Fleet(grid, config, notice, content_hash=dataset.content_hash)
    data = config.data.model_copy(
        update={"classes": list(dataset.class_names)}
    )  # a node can't know those that it has no image of
    return Fleet(grid, config.model_copy(update={"data": data}), notice)
