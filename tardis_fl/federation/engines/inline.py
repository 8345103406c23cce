"""The engine `inline`: a Flower Grid whose nodes are calls of the ClientApp.

The calls are made in this process or in worker processes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from tardis_fl.federation.client.errors import CLIENT_APP_RAISED, own_traceback

FIRST_NODE_ID = 1
SERVER_NODE_ID = 0


@dataclass(frozen=True)
class Request:
    """A message for a node, with what the node kept from earlier ones."""

    message: Message
    state: RecordDict

    @property
    def message_id(self) -> str:
        """The message's id."""
        return self.message.metadata.message_id

    @property
    def node_id(self) -> int:
        """The node that it is for."""
        return self.message.metadata.dst_node_id


@dataclass(frozen=True)
class Answer:
    """A reply, with what the node keeps until the next message."""

    node_id: int
    message: Message
    state: RecordDict


class Workplace(Protocol):
    """Where requests are worked on."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Takes requests, for different nodes."""

    def next(self, message_ids: Sequence[str]) -> Answer:
        """Returns an answer to one of these requests; waits where there is none yet.

        The requests must be all that are open.
        """


class InThisProcess:
    """Works on a request when its answer is wanted, one at a time.

    So only one reply is ever held.

    Args:
        client_app: The app that every node runs.
        num_nodes: Nodes; node i holds partition i.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int) -> None:
        self._client_app = client_app
        self._num_nodes = num_nodes
        self._requests: dict[str, Request] = {}

    def submit(self, requests: Sequence[Request]) -> None:
        """Keeps requests."""
        self._requests |= {request.message_id: request for request in requests}

    def next(self, message_ids: Sequence[str]) -> Answer:
        """Works on the first of these requests."""
        return answer(self._client_app, self._requests.pop(message_ids[0]), self._num_nodes)


def answer(client_app: ClientApp, request: Request, num_nodes: int) -> Answer:
    """Lets the app answer a request as the node that it is for."""
    context = Context(
        run_id=0,
        node_id=request.node_id,
        state=request.state,
        run_config={},
        node_config={"partition-id": request.node_id - FIRST_NODE_ID, "num-partitions": num_nodes},
    )
    try:
        reply = client_app(request.message, context)
    except Exception as error:
        reply = Message(Error(CLIENT_APP_RAISED, own_traceback(error)), reply_to=request.message)
    return Answer(request.node_id, reply, context.state)


def imported_app(reference: str) -> ClientApp:
    """Returns the app MODULE:ATTRIBUTE."""
    module, _, attribute = reference.partition(":")
    app: ClientApp = getattr(importlib.import_module(module), attribute)
    return app


def take_identity() -> None:
    """Lets this process build messages, which Flower's own runtimes do for theirs.

    This and the message's id below are the private parts of Flower used here.
    """
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, SERVER_NODE_ID


def give_id(message: Message, message_id: str) -> None:
    """Gives a message the id that a SuperLink would; it has no setter."""
    message.metadata.__dict__["_message_id"] = message_id


class InlineGrid(Grid):
    """A grid without a network.

    A node's state lives from message to message where the app put something into it.

    Args:
        work: The app that every node runs in this process, or another place where their work is
            done.
        num_nodes: Nodes; node i holds partition i.
    """

    def __init__(self, work: ClientApp | Workplace, num_nodes: int) -> None:
        take_identity()
        self._num_nodes = num_nodes
        if isinstance(work, ClientApp):
            work = InThisProcess(work, num_nodes)
        self._workplace = work
        self._states: dict[int, RecordDict] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        """Returns the nodes' ids."""
        return range(FIRST_NODE_ID, FIRST_NODE_ID + self._num_nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Passes requests on to where they are worked on; returns their ids."""
        requests = []
        for message in messages:
            self._sent += 1
            give_id(message, str(self._sent))
            requests.append(
                Request(message, self._states.get(message.metadata.dst_node_id) or RecordDict())
            )
        self._workplace.submit(requests)
        return [request.message_id for request in requests]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns a reply to one of these requests, which must be all that are open."""
        open_ids = list(message_ids)
        return [self._next(open_ids)] if open_ids else []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pushes and pulls, for apps that want all replies at once; nothing can time out."""
        open_ids = list(self.push_messages(messages))
        replies = []
        while open_ids:
            replies.append(self._next(open_ids))
            open_ids.remove(replies[-1].metadata.reply_to_message_id)
        return replies

    def _next(self, open_ids: Sequence[str]) -> Message:
        found = self._workplace.next(open_ids)
        if found.state:
            self._states[found.node_id] = found.state
        else:
            self._states.pop(found.node_id, None)
        return found.message

    def states(self) -> dict[int, RecordDict]:
        """Returns the state of each node that has one."""
        return dict(self._states)

    def restore_state(self, node_id: int, state: RecordDict) -> None:
        """Gives a node a state."""
        self._states[node_id] = state

    def create_message(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuses: `flwr.app.Message` is built directly."""
        raise NotImplementedError("build a flwr.app.Message instead")

    def set_run(self, run: object) -> None:
        """Does nothing: there is one run."""

    @property
    def run(self) -> NoReturn:
        """Refuses: an inline run is registered nowhere."""
        raise NotImplementedError("an inline run is registered nowhere")
