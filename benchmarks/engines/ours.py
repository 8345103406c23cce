"""Our side: python -m benchmarks.engines.ours SETTING ENGINE WORKERS."""

from __future__ import annotations

import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from benchmarks.engine_overhead import Quiet
from benchmarks.engines.settings import CLIENT_APPS, configuration, take_turns
from tardis_fl.core.compute import use_threads
from tardis_fl.federation.engines import run_apps
from tardis_fl.federation.rounds import FederationServer
from tardis_fl.federation.transport.fleet import Fleet


def main() -> None:
    setting, engine, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = configuration(setting, f"runtime.engine={engine}", f"runtime.workers={workers}")
    server_app = ServerApp()

    @server_app.main()
    def run(grid: Grid, context: Context) -> None:
        use_threads(config.runtime)
        server = FederationServer(Fleet(grid, config), config, Quiet())

        def run_round(number: int) -> int:
            record = server.run_round(number)
            assert record.train is not None
            return record.train.num_samples

        take_turns(run_round)

    run_apps(server_app, config, workers=workers, client_app=CLIENT_APPS[setting])


if __name__ == "__main__":
    main()
