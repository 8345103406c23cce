"""One worker process of the engine `inline`: it answers requests from a socket, with one thread.

A thread of its own reads the socket, so that the other side never waits for a training to send
something; when the other side is gone, however it went, the process ends at once.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tardis_fl.federation.engines.inline import (
    Request,
    answer,
    give_id,
    imported_app,
    take_identity,
)
from tardis_fl.federation.engines.shared_memory import SharedArrays

from flwr.app import ArrayRecord, Error, Message, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip


@dataclass(frozen=True)
class Handshake:
    """The first thing that a worker is sent.

    Attributes:
        path: Where the other side imports modules from.
        client_app: MODULE:ATTRIBUTE of the app.
        num_nodes: Nodes that it may play.
    """

    path: list[str]
    client_app: str
    num_nodes: int


@dataclass(frozen=True)
class Records:
    """Records that several requests share, by key; those before are forgotten."""

    records: dict[int, Any]


@dataclass(frozen=True)
class Order:
    """A request as it travels: records by name, or the key of a shared one.

    Attributes:
        message_id, node_id, message_type, group_id: Of the message.
        own: Records that only this request has.
        shared: Names and keys of the others.
        state: What the node kept.
    """

    message_id: str
    node_id: int
    message_type: str
    group_id: str
    own: dict[str, Any]
    shared: dict[str, int]
    state: RecordDict = field(default_factory=RecordDict)


@dataclass(frozen=True)
class Done:
    """An answer as it travels."""

    message_id: str
    content: RecordDict | None
    error: Error | None
    state: RecordDict


def main(socket_descriptor: int, memory_descriptor: int) -> None:
    """Answers orders until the other side is gone."""
    connection = Connection(socket_descriptor)
    orders = queue.SimpleQueue[Any]()
    memory = SharedArrays(memory_descriptor)
    handshake: Handshake = connection.recv()
    sys.path[:] = handshake.path
    threading.Thread(target=_read, args=(connection, orders), daemon=True).start()

    take_identity()
    client_app = imported_app(handshake.client_app)
    shared: dict[int, Any] = {}
    while True:
        order = orders.get()
        if isinstance(order, Records):
            shared = order.records
            for record in shared.values():
                _let_share(record)
            continue
        connection.send_bytes(memory.dump(_done(client_app, order, shared, handshake.num_nodes)))


def _read(connection: Connection, orders: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)  # in the middle of a training too: nobody wants its result


def _let_share(record: object) -> None:
    """Makes the contents of arrays writable.

    NumPy hands those out as they are, so that clients that only read them need no copies.
    """
    if isinstance(record, ArrayRecord):
        for array in record.values():
            array.data = bytearray(array.data)  # type: ignore[assignment]


def _done(client_app: ClientApp, order: Order, shared: dict[int, Any], num_nodes: int) -> Done:
    content = RecordDict({**{name: shared[key] for name, key in order.shared.items()}, **order.own})
    message = Message(
        content, dst_node_id=order.node_id, message_type=order.message_type, group_id=order.group_id
    )
    give_id(message, order.message_id)
    found = answer(client_app, Request(message, order.state), num_nodes)
    reply = found.message
    if reply.has_error():
        return Done(order.message_id, None, reply.error, found.state)
    return Done(order.message_id, reply.content, None, found.state)
