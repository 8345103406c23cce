"""What tests of whole federations share."""

from __future__ import annotations

from tardis_fl.federation import client_app as client_module
from tardis_fl.federation.engines import run_inline
from tardis_fl.federation.server_app import build_server_app


class Recorder:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.rounds, self.epochs, self.failures, self.worked_on = [], [], [], {}

    def worked(self, work, num_samples):
        self.worked_on[work] = self.worked_on.get(work, 0) + num_samples

    def failed(self, failure):
        self.failures.append(failure)

    def round_done(self, record, snapshot):
        self.rounds.append(record)

    def epoch_done(self, record, snapshot):
        self.epochs.append(record)


def federate(config, recorder=None):
    """Runs a federation in this process and returns what came out."""
    received = []
    app = build_server_app(recorder or Recorder(), received.append)
    run_inline(app, client_module.app, num_clients=config.federation.num_clients, run_config={"config": config.model_dump_json()})
    return received[0]
