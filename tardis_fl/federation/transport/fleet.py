"""The clients as the server sees them: asked by number, answering in the order of their numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from tardis_fl.config.schema import Config
from tardis_fl.config.wire import wire_json
from tardis_fl.data.datasets.client_folders import with_clients
from tardis_fl.data.images import Dataset
from tardis_fl.federation.conditions.faults import Faults
from tardis_fl.federation.conditions.population import Population
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.exchange import POLL_SECONDS, KeepsStates, MessageExchange
from tardis_fl.federation.transport.handshake import UNREACHABLE, Handshakes
from tardis_fl.federation.transport.messages import Ledger
from tardis_fl.federation.transport.nodes import Nodes
from tardis_fl.federation.transport.weights import Flat

# beyond the timeout, for replies that have come in time; then Flower throws request and reply away
SECONDS_TO_FETCH = 60.0


def _ignore(text: str) -> None:
    """Takes no notice."""


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
        grid: Any engine's grid.
        config: The resolved configuration, which goes with every request.
        notice: Is told what a person should know of nodes that come and go.
        content_hash: Of the server's data set, which nodes' copies must have; None: it isn't
            compared.

    Attributes:
        population: Groups and depths of the clients.
        faults: What goes wrong on purpose.
        ledger: Bytes by direction and kind.
        num_repeated: Replies that came a second time and were left out.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        notice: Callable[[str], None] = _ignore,
        *,
        content_hash: str | None = None,
    ) -> None:
        self._grid = grid
        self._config_json, self._num_segments = wire_json(config), config.num_segments
        real = config.runtime.engine == "deployment"
        self._timeout_s = config.runtime.reply_timeout_s if real else math.inf
        self._ttl = self._timeout_s + SECONDS_TO_FETCH if real else None
        self._exchange = MessageExchange(grid, real=real)
        self.population, self.faults = Population(config), Faults.of(config)
        self.ledger = Ledger()
        self.num_repeated = 0
        handshakes = Handshakes(self._exchange, self._config_json, self.ledger, self._timeout_s)
        self._nodes = Nodes(grid, config, handshakes, notice, content_hash)
        self._nodes.await_all()

    def num_train(self, client: int) -> int:
        """Returns the training samples of a client that was there at least once."""
        return self._nodes.identities[client].num_train

    @property
    def total_train(self) -> int:
        """Training samples of all clients that were there at least once."""
        return sum(identity.num_train for identity in self._nodes.identities.values())

    @property
    def image_kind(self) -> ImageKind:
        """What the clients' images are like."""
        anyone = next(iter(self._nodes.identities.values()))
        return ImageKind(anyone.num_classes, anyone.image_shape)

    def with_own_images(self, servers_side: Dataset) -> Dataset:
        """Adds to a server's data set what its nodes told of the images that they keep."""
        told = [identity for _, identity in sorted(self._nodes.identities.items())]
        return with_clients(
            servers_side,
            np.array([identity.label_counts for identity in told]),
            [identity.content_hash for identity in told],
        )

    def first_sample(self, client: int) -> int:
        """Returns the number that a client's first sample has in the run, where nodes count their own images from 0; else 0."""
        return sum(
            sum(identity.label_counts)
            for other, identity in self._nodes.identities.items()
            if other < client
        )

    def ask(
        self,
        message_type: str,
        clients: Sequence[int],
        *,
        round_number: int,
        weights: Flat | None = None,
        extras: Mapping[int, ArrayRecord] | None = None,
        max_depth: int | None = None,
        depth: int | None = None,
        **values: float | list[float],
    ) -> Iterator[Reply]:
        """Asks clients and yields their replies in ascending order of client, each as soon as its turn has come.

        Args:
            message_type: One of the types in `messages`.
            clients: Whom to ask; their order doesn't matter.
            round_number: The round, from 1; 0 is before the first.
            weights: Global weights; each client is sent those of the segments that it works with.
            extras: Features for single clients.
            max_depth: Clients are to work with as many segments at most; None: with all that they
                hold.
            depth: Clients are to work with just as many segments, whatever they hold.
            values: Further numbers of the request.
        """
        self._nodes.refresh()
        order = sorted(clients)
        depths = {
            client: depth or min(self.population.depth(client), max_depth or self._num_segments)
            for client in order
        }
        contents = self._contents(sorted(set(depths.values())), round_number, weights, values)
        base_sizes = {depth: messages.content_bytes(content) for depth, content in contents.items()}
        begins = message_type == messages.TRAIN or (
            message_type == messages.SPLIT and weights is not None
        )
        struck = (
            {client: self.faults.strike(round_number, client) for client in order}
            if begins and self.faults.entries
            else {}
        )
        lost = {client for client, kinds in struck.items() if "dropout" in kinds}
        away = {client for client in order if self._nodes.node(client) is None}
        sizes: dict[int, Mapping[str, int]] = {client: {} for client in away}
        requests = []
        for client in order:
            if client in away:
                continue
            content, sizes[client] = contents[depths[client]], base_sizes[depths[client]]
            if extras:
                content = RecordDict({**content, messages.FEATURES_KIND: extras[client]})
                sizes[client] = messages.content_bytes(content)
            self.ledger.add_down(sizes[client])
            if client not in lost:
                node, group = self._nodes.node(client), str(round_number)
                requests.append(
                    Message(
                        content,
                        dst_node_id=node,
                        message_type=message_type,
                        group_id=group,
                        ttl=self._ttl,
                    )
                )
        asked = [client for client in order if client not in lost | away]
        replies = self._collect(
            asked,
            self._exchange.send(requests),
            sizes,
            twice={client for client, kinds in struck.items() if "repeat" in kinds},
        )
        for client in order:
            if client in away:
                yield Reply(client, None, "no node of this client is connected", "dropout")
            elif client in lost:
                yield Reply(
                    client, None, "dropped out (federation.faults)", "dropout", sizes[client]
                )
            else:
                yield next(replies)

    def _contents(
        self,
        depths: Sequence[int],
        round_number: int,
        weights: Flat | None,
        values: Mapping[str, float | list[float]],
    ) -> dict[int, RecordDict]:
        """Returns the request of each depth; arrays are packed once and shared."""
        arrays = messages.pack_tensors(weights) if weights is not None else None
        contents = {}
        for depth in depths:
            content = RecordDict(
                {
                    messages.INSTRUCTION: messages.instruction(
                        self._config_json, round=round_number, depth=depth, **values
                    )
                }
            )
            if arrays is not None:
                content[messages.WEIGHTS] = ArrayRecord(
                    {key: array for key, array in arrays.items() if int(key.split(".")[0]) < depth}
                )
            contents[depth] = content
        return contents

    def _collect(
        self,
        order: Sequence[int],
        message_ids: Sequence[str | None],
        sizes: Mapping[int, Mapping[str, int]],
        *,
        twice: Collection[int] = (),
    ) -> Iterator[Reply]:
        waiting = {
            message_id: client
            for message_id, client in zip(message_ids, order, strict=True)
            if message_id is not None
        }
        not_taken = "Flower's SuperLink didn't take the request"
        early = {
            client: Reply(client, None, not_taken, "dropout")
            for client in set(order) - set(waiting.values())
        }

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

        began = time.monotonic()
        try:
            for client in order:
                while client not in early:
                    looked, num_waiting = time.monotonic(), len(waiting)
                    for message in self._exchange.arrived(list(waiting)):
                        receive(message)
                        del message  # may be large: not kept until the next comes
                    if len(waiting) < num_waiting:
                        continue
                    now = time.monotonic()
                    if now - began > self._timeout_s:
                        early[client] = Reply(
                            client,
                            None,
                            f"no answer within {self._timeout_s:g} s (runtime.reply_timeout_s)",
                            "dropout",
                            sizes[client],
                        )
                    else:
                        time.sleep(max(POLL_SECONDS, now - looked))
                yield early.pop(client)
        finally:
            self._exchange.forget(waiting)  # the last reply's taker doesn't come back for more

    def node_label(self, client: int) -> int | None:
        """Returns the id of a client's node, where nodes are real ones."""
        return self._nodes.label(client)

    def client_states(self) -> dict[str, Tensor]:
        """Returns what clients keep from round to round, where the engine keeps it in this process, for a checkpoint."""
        states = self._grid.states() if isinstance(self._grid, KeepsStates) else {}
        kept = {
            client: states[node]
            for client in sorted(self._nodes.identities)
            if (node := self._nodes.node(client)) in states
        }
        return {
            f"{client}.{name}": tensor
            for client, state in kept.items()
            if messages.OWN_NORMS in state
            for name, tensor in messages.unpack_tensors(
                state.array_records[messages.OWN_NORMS]
            ).items()
        }

    def restore_client_states(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `client_states` returned."""
        if not isinstance(self._grid, KeepsStates):
            return
        for client in sorted({int(name.split(".")[0]) for name in state}):
            own = {
                name.removeprefix(f"{client}."): tensor
                for name, tensor in state.items()
                if name.startswith(f"{client}.")
            }
            self._grid.restore_state(
                self._nodes.node(client),
                RecordDict({messages.OWN_NORMS: messages.pack_tensors(own)}),
            )


def _open(
    client: int, message: Message, bytes_down: Mapping[str, int], bytes_up: Mapping[str, int]
) -> Reply:
    if message.has_error():
        error = message.error
        if error.code in UNREACHABLE:
            return Reply(
                client,
                None,
                f"its node can't be reached (Flower error {error.code}: {error.reason})",
                "dropout",
                bytes_down,
            )
        return Reply(
            client, None, error.reason or f"Flower error {error.code}", "error", bytes_down
        )
    return Reply(client, message.content, None, "error", bytes_down, bytes_up)
