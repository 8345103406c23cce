"""The project's ClientApp, but one node's process is killed while it trains: imported by worker processes, by name."""

from __future__ import annotations

import os
import signal

from flwr.clientapp import ClientApp

from tardis_fl.federation.client.app import app as original

VICTIM, ROUND = 1, "2"


def _call(message, context):
    if (
        message.metadata.message_type == "train"
        and message.metadata.group_id == ROUND
        and context.node_config["partition-id"] == VICTIM
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(message, context)


class _Killing(ClientApp):
    def __call__(self, message, context):
        return _call(message, context)


app = _Killing()
