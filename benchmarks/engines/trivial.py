"""The ClientApp with a training that sends back what it got, for engines whose clients are other processes."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.transport.messages import Counts


class TrivialApp(ClientApp):
    """Replaces the training wherever it is unpacked, and passes messages on."""

    def __call__(self, message: Message, context: Context) -> Message:
        client_app.train_segments = lambda segments, *_, **__: Counts(2, 0.0, (0,) * len(segments))
        return client_app.app(message, context)


app = TrivialApp()
