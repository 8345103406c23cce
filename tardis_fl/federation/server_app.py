"""The Flower ServerApp: find the fleet, train, hand over what came out."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tardis_fl.config.schema import Config
from tardis_fl.federation.events import Listener
from tardis_fl.federation.fleet import Fleet
from tardis_fl.federation.rounds import Past, Trained, train_federated


def build_server_app(listener: Listener, receive: Callable[[Trained], None], past: Past | None = None) -> ServerApp:
    """Builds a ServerApp that trains the configuration in its run config (key `config`, as JSON).

    Args:
        listener: Is told of every round.
        receive: Gets the result, since a ServerApp returns nothing.
        past: Where an interrupted run goes on; None: from the start.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = Config.model_validate_json(str(context.run_config["config"]))
        receive(train_federated(Fleet(grid, config), config, listener, past))

    return app
