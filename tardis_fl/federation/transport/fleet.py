"""The clients as the server sees them: asked by number, answering in the order of their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
from tardis_fl.federation.transport.exchange import KeepsStates, MessageExchange
from tardis_fl.federation.transport.handshake import Handshakes
from tardis_fl.federation.transport.messages import Ledger
from tardis_fl.federation.transport.nodes import Nodes
from tardis_fl.federation.transport.replies import Replies, Reply
from tardis_fl.federation.transport.weights import Flat

# beyond the timeout, for replies that have come in time; then Flower throws request and reply away
SECONDS_TO_FETCH = 60.0


def _ignore(text: str) -> None:
    """Takes no notice."""


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
        self._config_json = wire_json(config)
        self._num_segments = config.num_segments
        real = config.runtime.engine == "deployment"
        timeout_s = config.runtime.reply_timeout_s if real else math.inf
        self._ttl = timeout_s + SECONDS_TO_FETCH if real else None
        self._exchange = MessageExchange(grid, real=real)
        self.population = Population(config.federation.population, config.seed)
        self.faults = Faults(tuple(config.federation.faults), config.seed)
        self.ledger = Ledger()
        self._replies = Replies(self._exchange, self.ledger, timeout_s)
        handshakes = Handshakes(self._exchange, self._config_json, self.ledger, timeout_s)
        num_clients = config.federation.num_clients
        self._nodes = Nodes(grid, num_clients, config.runtime, handshakes, notice, content_hash)
        self._nodes.await_all()

    @property
    def num_repeated(self) -> int:
        """Replies that came a second time and were left out."""
        return self._replies.num_repeated

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
        """Adds to a server's data set what its nodes report of the images that they keep."""
        known = [identity for _, identity in sorted(self._nodes.identities.items())]
        return with_clients(
            servers_side,
            np.array([identity.label_counts for identity in known]),
            [identity.content_hash for identity in known],
        )

    def first_sample(self, client: int) -> int:
        """Returns the number that a client's first sample has in the run.

        It is 0 but where nodes keep their own images, which they count from 0.
        """
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
        """Asks clients and yields their replies in ascending order of client.

        Each is yielded as soon as its turn has come.

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
        contents = _contents(
            self._config_json, sorted(set(depths.values())), round_number, weights, values
        )
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
        twice = {client for client, kinds in struck.items() if "repeat" in kinds}
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
                requests.append(
                    Message(
                        content,
                        dst_node_id=self._connected_node(client),
                        message_type=message_type,
                        group_id=str(round_number),
                        ttl=self._ttl,
                    )
                )
        asked = [client for client in order if client not in lost | away]
        replies = self._replies.collect(asked, self._exchange.send(requests), sizes, twice=twice)
        for client in order:
            if client in away:
                yield Reply(client, None, "no node of this client is connected", "dropout")
            elif client in lost:
                yield Reply(
                    client, None, "dropped out (federation.faults)", "dropout", sizes[client]
                )
            else:
                yield next(replies)

    def _connected_node(self, client: int) -> int:
        node = self._nodes.node(client)
        assert node is not None, f"client {client} has no node"
        return node

    def node_label(self, client: int) -> int | None:
        """Returns the id of a client's node, where nodes are real ones."""
        return self._nodes.label(client)

    def client_states(self) -> dict[str, Tensor]:
        """Returns what clients keep from round to round, for a checkpoint.

        It is empty where the engine doesn't keep it in this process.
        """
        states = self._grid.states() if isinstance(self._grid, KeepsStates) else {}
        kept = {
            client: states[node]
            for client in sorted(self._nodes.identities)
            if (node := self._nodes.node(client)) is not None and node in states
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
                self._connected_node(client),
                RecordDict({messages.OWN_NORMS: messages.pack_tensors(own)}),
            )


def _contents(
    config_json: str,
    depths: Sequence[int],
    round_number: int,
    weights: Flat | None,
    values: Mapping[str, float | list[float]],
) -> dict[int, RecordDict]:
    """Returns the request of each depth; arrays are packed once and shared."""
    arrays = messages.pack_tensors(weights) if weights is not None else None
    contents = {}
    for depth in depths:
        instruction = messages.instruction(config_json, round=round_number, depth=depth, **values)
        content = RecordDict({messages.INSTRUCTION: instruction})
        if arrays is not None:
            content[messages.WEIGHTS] = ArrayRecord(
                {key: array for key, array in arrays.items() if int(key.split(".")[0]) < depth}
            )
        contents[depth] = content
    return contents
