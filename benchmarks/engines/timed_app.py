"""The ClientApp, with the times of its process in every reply: when it began, was called, had its data and network, and was done."""

from __future__ import annotations

import time

import psutil
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.client.resources import resources_of

TIMES = "times"


class TimedApp(ClientApp):
    """Passes messages on, and adds a record to the replies."""

    def __call__(self, message: Message, context: Context) -> Message:
        called = time.time()
        resources_of(message, context)
        opened = time.time()
        reply = client_app.app(message, context)
        reply.content[TIMES] = MetricRecord(
            {
                "began": psutil.Process().create_time(),
                "called": called,
                "opened": opened,
                "done": time.time(),
            }
        )
        return reply


app = TimedApp()
