"""The clients as the server sees them: asked by number, answering in the order of their numbers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from tardis_fl.errors import RunError
from tardis_fl.federation import messages
from tardis_fl.federation.messages import Ledger

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Reply:
    """What came back from one client: content, or the reason there is none."""

    client: int
    content: RecordDict | None
    error: str | None


@dataclass(frozen=True)
class ImageKind:
    """What the fleet's images are like: classes, and the shape (C, H, W) of one."""

    num_classes: int
    shape: tuple[int, int, int]


class Fleet:
    """Sends requests through a Flower grid and counts every byte.

    Args:
        grid: Any engine's grid.
        config_json: The resolved configuration, which goes with every request.
        num_clients: Clients to wait for.
    """

    def __init__(self, grid: Grid, config_json: str, num_clients: int) -> None:
        self._grid = grid
        self._config_json = config_json
        self.ledger = Ledger()
        self._nodes: dict[int, int] = {}
        self.num_train: dict[int, int] = {}
        self.image_kind = self._identify(num_clients)

    def ask(self, message_type: str, clients: Sequence[int], *, round_number: int, weights: messages.State | None = None, **values: float) -> Iterator[Reply]:
        """Asks clients and yields their replies in ascending order of client, each as soon as its turn has come.

        Args:
            message_type: One of the types in `messages`.
            clients: Whom to ask; their order doesn't matter.
            round_number: The round, from 1; 0 is before the first.
            weights: State of the held segments to send along.
            values: Further numbers of the request.
        """
        content = RecordDict({"instruction": messages.instruction(self._config_json, round=round_number, **values)})
        if weights is not None:
            content[messages.WEIGHTS] = messages.pack_weights(weights)
        order = sorted(clients)
        self.ledger.add_down(messages.content_bytes(content), times=len(order))
        requests = [Message(content, dst_node_id=self._nodes[client], message_type=message_type, group_id=str(round_number)) for client in order]
        yield from self._collect(order, self._grid.push_messages(requests))

    def _collect(self, order: Sequence[int], message_ids: Iterable[str]) -> Iterator[Reply]:
        waiting = dict(zip(message_ids, order, strict=True))
        early: dict[int, Reply] = {}
        for client in order:
            while client not in early:
                arrived = list(self._grid.pull_messages(waiting.keys()))
                for message in arrived:
                    sender = waiting.pop(message.metadata.reply_to_message_id)
                    early[sender] = self._open(sender, message)
                if not arrived:
                    time.sleep(POLL_SECONDS)
            yield early.pop(client)

    def _open(self, client: int, message: Message) -> Reply:
        if message.has_error():
            return Reply(client, None, message.error.reason or f"Flower error {message.error.code}")
        self.ledger.add_up(message.content)
        return Reply(client, message.content, None)

    def _identify(self, num_clients: int) -> ImageKind:
        """Asks every node which client it is, since node ids are random and in no order."""
        while len(node_ids := sorted(self._grid.get_node_ids())) < num_clients:
            time.sleep(POLL_SECONDS)
        self._nodes = dict(enumerate(node_ids))  # provisional numbers, to ask with
        kinds, nodes = set(), {}
        for reply in self.ask(messages.IDENTIFY, list(self._nodes), round_number=0):
            if reply.content is None:
                raise RunError(f"node {self._nodes[reply.client]} can't tell which client it is:\n{reply.error}")
            record = reply.content.metric_records[messages.METRICS]
            client = int(record["client"])  # type: ignore[arg-type]
            if client in nodes:
                raise RunError(f"two nodes are client {client}: give each node a partition-id of its own")
            nodes[client] = self._nodes[reply.client]
            self.num_train[client] = int(record["num_train"])  # type: ignore[arg-type]
            kinds.add(ImageKind(int(record["num_classes"]), tuple(int(side) for side in record["image_shape"])))  # type: ignore[arg-type, union-attr]
        missing = [client for client in range(num_clients) if client not in nodes]
        if missing:
            raise RunError(f"no node is client {missing[0]} (partition-id); got the clients {sorted(nodes)}")
        if len(kinds) > 1:
            raise RunError(f"the clients' data differs in kind: {sorted(kinds, key=str)}")
        self._nodes = {client: nodes[client] for client in range(num_clients)}
        return kinds.pop()
