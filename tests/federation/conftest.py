"""What tests of whole federations share."""

from __future__ import annotations

import hashlib

from tardis_fl.federation.callbacks.base import Callback
from tardis_fl.federation.engines import CLIENT_APP, run_apps
from tardis_fl.federation.server.app import build_server_app
from tardis_fl.federation.transport import messages


class Recorder(Callback):
    """A callback that keeps what it is called with."""

    def __init__(self):
        self.rounds, self.epochs, self.failures, self.notes, self.worked_on = [], [], [], [], {}

    def on_progress(self, work, num_samples):
        self.worked_on[work] = self.worked_on.get(work, 0) + num_samples

    def on_failure(self, failure):
        self.failures.append(failure)

    def on_notice(self, text):
        self.notes.append(text)

    def on_round_end(self, record, snapshot):
        self.rounds.append(record)

    def on_epoch_end(self, record, snapshot):
        self.epochs.append(record)


def federate(config, recorder=None, *, workers=1, client_app=CLIENT_APP):
    """Runs a federation on this machine and returns what came out."""
    received = []
    run_apps(
        build_server_app(config, recorder or Recorder(), received.append),
        config,
        workers=workers,
        client_app=client_app,
    )
    return received[0]


def fingerprint(trained):
    """Returns a digest of all weights, and the bytes of weights and features that travelled; what else travels names the engine."""
    digest = hashlib.sha256()
    for name, tensor in trained.network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    payload = [
        [direction[kind] for kind in (messages.WEIGHTS, messages.FEATURES_KIND)]
        for direction in (trained.ledger.up, trained.ledger.down)
    ]
    return [digest.hexdigest(), payload]
