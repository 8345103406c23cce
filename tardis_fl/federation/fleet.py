"""The clients as the server sees them: asked by number, answering in the order of their numbers."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from tardis_fl.config.schema import Config
from tardis_fl.errors import RunError
from tardis_fl.federation import messages
from tardis_fl.federation.faults import Faults
from tardis_fl.federation.messages import Ledger
from tardis_fl.federation.population import Population
from tardis_fl.federation.weights import Flat

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Reply:
    """What came back from one client: content, or the reason there is none.

    Attributes:
        client: The client's number.
        content: The reply's records; None where it failed.
        error: The reason; None where it didn't fail.
        kind: Of the failure.
        bytes_down, bytes_up: Of request and reply, by kind of content.
    """

    client: int
    content: RecordDict | None
    error: str | None = None
    kind: Literal["error", "dropout"] = "error"
    bytes_down: Mapping[str, int] = field(default_factory=dict)
    bytes_up: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageKind:
    """What the fleet's images are like: classes, and the shape (C, H, W) of one."""

    num_classes: int
    shape: tuple[int, int, int]


class Fleet:
    """Sends requests through a Flower grid and counts every byte.

    Args:
        grid: Any engine's grid; it must have a node for each client.
        config: The resolved configuration, which goes with every request.

    Attributes:
        population: Groups and depths of the clients.
        faults: What goes wrong on purpose.
        ledger: Bytes by direction and kind.
        num_train: Training samples of each client.
        num_repeated: Replies that came a second time and were left out.
    """

    def __init__(self, grid: Grid, config: Config) -> None:
        self._grid = grid
        self._config_json, self._num_segments = config.model_dump_json(), config.num_segments
        self.population, self.faults = Population(config), Faults.of(config)
        self.ledger = Ledger()
        self._nodes: dict[int, int] = {}
        self.num_train: dict[int, int] = {}
        self.num_repeated = 0
        self.image_kind = self._identify(config.federation.num_clients)

    def ask(
        self, message_type: str, clients: Sequence[int], *, round_number: int, weights: Flat | None = None,
        extras: Mapping[int, ArrayRecord] | None = None, max_depth: int | None = None, depth: int | None = None, **values: float | list[float],
    ) -> Iterator[Reply]:  # fmt: skip
        """Asks clients and yields their replies in ascending order of client, each as soon as its turn has come.

        Args:
            message_type: One of the types in `messages`.
            clients: Whom to ask; their order doesn't matter.
            round_number: The round, from 1; 0 is before the first.
            weights: Global weights; each client is sent those of the segments that it works with.
            extras: Features for single clients.
            max_depth: Clients are to work with as many segments at most; None: with all that they hold.
            depth: Clients are to work with just as many segments, whatever they hold.
            values: Further numbers of the request.
        """
        order = sorted(clients)
        depths = {client: depth or min(self.population.depth(client), max_depth or self._num_segments) for client in order}
        contents = self._contents(sorted(set(depths.values())), round_number, weights, values)
        base_sizes = {depth: messages.content_bytes(content) for depth, content in contents.items()}
        begins = message_type == messages.TRAIN or (message_type == messages.SPLIT and weights is not None)
        struck = {client: self.faults.strike(round_number, client) for client in order} if begins and self.faults.entries else {}
        lost = {client for client, kinds in struck.items() if "dropout" in kinds}
        sizes, requests = {}, []
        for client in order:
            content, sizes[client] = contents[depths[client]], base_sizes[depths[client]]
            if extras:
                content = RecordDict({**content, messages.FEATURES_KIND: extras[client]})
                sizes[client] = messages.content_bytes(content)
            self.ledger.add_down(sizes[client])
            if client not in lost:
                requests.append(Message(content, dst_node_id=self._nodes[client], message_type=message_type, group_id=str(round_number)))
        asked = [client for client in order if client not in lost]
        replies = self._collect(asked, self._grid.push_messages(requests), sizes, twice={client for client, kinds in struck.items() if "repeat" in kinds})
        for client in order:
            yield Reply(client, None, "dropped out (federation.faults)", "dropout", sizes[client]) if client in lost else next(replies)

    def _contents(self, depths: Sequence[int], round_number: int, weights: Flat | None, values: Mapping[str, float | list[float]]) -> dict[int, RecordDict]:
        """Returns the request of each depth; arrays are packed once and shared."""
        arrays = messages.pack_tensors(weights) if weights is not None else None
        contents = {}
        for depth in depths:
            content = RecordDict({"instruction": messages.instruction(self._config_json, round=round_number, depth=depth, **values)})
            if arrays is not None:
                content[messages.WEIGHTS] = ArrayRecord({key: array for key, array in arrays.items() if int(key.split(".")[0]) < depth})
            contents[depth] = content
        return contents

    def _collect(
        self, order: Sequence[int], message_ids: Iterable[str], sizes: Mapping[int, Mapping[str, int]], *, twice: Collection[int] = ()
    ) -> Iterator[Reply]:
        waiting = dict(zip(message_ids, order, strict=True))
        early: dict[int, Reply] = {}

        def receive(message: Message) -> None:
            bytes_up = {} if message.has_error() else messages.content_bytes(message.content)
            self.ledger.add_up(bytes_up)
            sender = waiting.pop(message.metadata.reply_to_message_id, None)
            if sender is None:
                self.num_repeated += 1
                return
            early[sender] = _open(sender, message, sizes[sender], bytes_up)
            if sender in twice:
                receive(message)

        for client in order:
            while client not in early:
                arrived = list(self._grid.pull_messages(list(waiting)))
                for message in arrived:
                    receive(message)
                if not arrived:
                    time.sleep(POLL_SECONDS)
            yield early.pop(client)

    def client_states(self) -> dict[str, Tensor]:
        """Returns what clients keep from round to round, where the engine keeps it in this process, for a checkpoint."""
        states = self._grid.states() if isinstance(self._grid, KeepsStates) else {}
        return {
            f"{client}.{name}": tensor for client, node in self._nodes.items() if node in states and messages.OWN_NORMS in states[node]
            for name, tensor in messages.unpack_tensors(states[node].array_records[messages.OWN_NORMS]).items()
        }  # fmt: skip

    def restore_client_states(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `client_states` returned."""
        if not isinstance(self._grid, KeepsStates):
            return
        for client in sorted({int(name.split(".")[0]) for name in state}):
            own = {name.removeprefix(f"{client}."): tensor for name, tensor in state.items() if name.startswith(f"{client}.")}
            self._grid.restore_state(self._nodes[client], RecordDict({messages.OWN_NORMS: messages.pack_tensors(own)}))

    def _identify(self, num_clients: int) -> ImageKind:
        """Asks every node which client it is, since node ids are random and in no order."""
        while len(node_ids := sorted(self._grid.get_node_ids())) < num_clients:
            time.sleep(POLL_SECONDS)
        self._nodes = dict(enumerate(node_ids))  # provisional numbers, to ask with
        kinds, nodes = set(), {}
        for reply in self.ask(messages.IDENTIFY, range(num_clients), round_number=0):
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


def _open(client: int, message: Message, bytes_down: Mapping[str, int], bytes_up: Mapping[str, int]) -> Reply:
    if message.has_error():
        return Reply(client, None, message.error.reason or f"Flower error {message.error.code}", "error", bytes_down)
    return Reply(client, message.content, None, "error", bytes_down, bytes_up)


@runtime_checkable
class KeepsStates(Protocol):
    """A grid whose clients' states lie in this process."""

    def states(self) -> Mapping[int, RecordDict]:
        """Returns the state of each node that has one."""

    def restore_state(self, node_id: int, state: RecordDict) -> None:
        """Gives a node a state."""
