"""Where the apps run. `inline`: ServerApp and ClientApps in this process, through a Flower Grid."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from typing import NoReturn

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

CLIENT_APP_RAISED = 2  # Flower's code for a ClientApp that raised
FIRST_NODE_ID = 1
SERVER_NODE_ID = 0


class InlineGrid(Grid):
    """A grid whose nodes are calls of a ClientApp in this process.

    A request is answered when its reply is pulled, one at a time, so that only one reply is ever
    held. A node's context lives from message to message where the app put something into it.

    Args:
        client_app: The app that every node runs.
        num_nodes: Nodes; node i holds partition i.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int) -> None:
        self._client_app = client_app
        self._num_nodes = num_nodes
        self._requests: dict[str, Message] = {}
        self._contexts: dict[int, Context] = {}
        self._sent = 0
        # Building a Message needs a task's identity; this and the message's id below are the private parts of Flower used here.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, SERVER_NODE_ID

    def get_node_ids(self) -> Iterable[int]:
        """Returns the nodes' ids."""
        return range(FIRST_NODE_ID, FIRST_NODE_ID + self._num_nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keeps requests until their replies are pulled; returns their ids."""
        message_ids = []
        for message in messages:
            self._sent += 1
            message_id = str(self._sent)
            message.metadata.__dict__["_message_id"] = message_id  # a SuperLink's task, and it has no setter
            self._requests[message_id] = message
            message_ids.append(message_id)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Lets the client of the first of these requests work; returns its reply."""
        message_id = next(iter(message_ids), None)
        return [] if message_id is None else [self._answer(self._requests.pop(message_id))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pushes and pulls, for apps that want all replies at once; there is nothing to time out."""
        return [self._answer(self._requests.pop(message_id)) for message_id in list(self.push_messages(messages))]

    def _answer(self, request: Message) -> Message:
        node_id = request.metadata.dst_node_id
        context = self._contexts.get(node_id) or self._context(node_id, RecordDict())
        try:
            reply = self._client_app(request, context)
        except Exception:
            reply = Message(Error(CLIENT_APP_RAISED, traceback.format_exc()), reply_to=request)
        if context.state:
            self._contexts[node_id] = context
        else:
            self._contexts.pop(node_id, None)
        return reply

    def states(self) -> dict[int, RecordDict]:
        """Returns the state of each node that has one."""
        return {node_id: context.state for node_id, context in self._contexts.items()}

    def restore_state(self, node_id: int, state: RecordDict) -> None:
        """Gives a node a state."""
        self._contexts[node_id] = self._context(node_id, state)

    def _context(self, node_id: int, state: RecordDict) -> Context:
        return Context(
            run_id=0, node_id=node_id, state=state, run_config={}, node_config={"partition-id": node_id - FIRST_NODE_ID, "num-partitions": self._num_nodes}
        )

    def create_message(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuses: `flwr.app.Message` is built directly."""
        raise NotImplementedError("build a flwr.app.Message instead")

    def set_run(self, run: object) -> None:
        """Does nothing: there is one run."""

    @property
    def run(self) -> NoReturn:
        """Refuses: an inline run is registered nowhere."""
        raise NotImplementedError("an inline run is registered nowhere")


def run_inline(server_app: ServerApp, client_app: ClientApp, *, num_clients: int, run_config: dict[str, bool | float | int | str]) -> None:
    """Runs the apps in this process until the ServerApp's main returns."""
    context = Context(run_id=0, node_id=SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config=run_config)
    server_app(InlineGrid(client_app, num_clients), context)
