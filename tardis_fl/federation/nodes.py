"""Which node is which client: Flower's node ids are random, and nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.serverapp import Grid

from tardis_fl.config.schema import Config
from tardis_fl.errors import RunError

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Identity:
    """What a node tells of itself.

    Attributes:
        client: Its number: the node's partition-id.
        num_train: Its training samples.
        num_classes, image_shape: Of its images, (C, H, W).
        content_hash: Identifies its data set: the whole one, or its own images.
        label_counts: Its own images of each class, where it alone has them.
    """

    client: int
    num_train: int
    num_classes: int
    image_shape: tuple[int, int, int]
    content_hash: str
    label_counts: tuple[int, ...] = ()


class Nodes:
    """The nodes of a grid, by client.

    Args:
        grid: Any engine's grid.
        config: The configuration.
        identify: Asks nodes who they are; returns an identity for each, or the reason why there is none.
        notice: Is told what a person should know.
        content_hash: Of the server's data set, where nodes have copies of it; None: it isn't compared.

    Attributes:
        identities: By client, of those that were ever there.
    """

    def __init__(
        self, grid: Grid, config: Config, identify: Callable[[list[int]], dict[int, Identity | str]], notice: Callable[[str], None], content_hash: str | None
    ) -> None:
        self._grid, self._config, self._identify, self._notice, self._content_hash = grid, config, identify, notice, content_hash
        self._changes = config.runtime.engine == "deployment"
        self._nodes: dict[int, int] = {}
        self._known: set[int] = set()
        self._connected: set[int] = set()
        self.identities: dict[int, Identity] = {}

    def await_all(self) -> None:
        """Waits for a node for each client, or for as many as must be there to begin.

        Raises:
            RunError: There are too few in time, one can't tell who it is, two are the same client, or their data differ in kind.
        """
        runtime, num_clients = self._config.runtime, self._config.federation.num_clients
        needed, began = min(runtime.min_nodes or num_clients, num_clients), time.monotonic()
        while len(found := sorted(self._grid.get_node_ids())) < num_clients and time.monotonic() - began < runtime.nodes_timeout_s:
            time.sleep(POLL_SECONDS)
        if len(found) < needed:
            which = "runtime.min_nodes" if runtime.min_nodes else "one for each of federation.num_clients"
            raise RunError(f"{len(found)} nodes are connected after {runtime.nodes_timeout_s:g} s (runtime.nodes_timeout_s); wanted {needed} ({which})")
        self._connected = self._known = set(found)
        for node, identity in self._identify(found).items():
            if isinstance(identity, str):
                raise RunError(f"node {node} can't tell which client it is:\n{identity}")
            if identity.client in self._nodes:
                raise RunError(f"two nodes are client {identity.client}: give each node a partition-id of its own")
            if difference := self._other_data(identity):
                raise RunError(f"node {node}, client {identity.client}, {difference}")
            self._nodes[identity.client], self.identities[identity.client] = node, identity
        missing = [client for client in range(num_clients) if client not in self._nodes]
        if missing and len(found) >= num_clients:
            raise RunError(f"no node is client {missing[0]} (partition-id); got the clients {sorted(self._nodes)}")
        if missing:
            self._notice(f"beginning without the clients {', '.join(map(str, missing))}, whose nodes aren't connected")
        kinds = {(identity.num_classes, identity.image_shape) for identity in self.identities.values()}
        if len(kinds) > 1:
            raise RunError(f"the clients' data differs in kind: {sorted(kinds)}")

    def refresh(self) -> None:
        """Notices nodes that came and went, where they can; a client's newest node is the one that is asked."""
        if not self._changes:
            return
        self._connected = set(self._grid.get_node_ids())
        newcomers = sorted(self._connected - self._known)
        if not newcomers:
            return
        self._known |= set(newcomers)
        for node, identity in self._identify(newcomers).items():
            if isinstance(identity, str):
                self._notice(f"node {node} joined and isn't asked, since it can't tell which client it is: {identity.strip().splitlines()[-1]}")
                continue
            if difference := self._other_data(identity):
                self._notice(f"node {node} joined as client {identity.client} and isn't asked, since it {difference}")
                continue
            before = self._nodes.get(identity.client)
            replaced = f", in place of {before}" if before is not None else ""
            twice = "; that one is connected too, so two nodes may have one partition-id" if before in self._connected else ""
            self._notice(f"node {node} joined as client {identity.client}{replaced}{twice}")
            self._nodes[identity.client], self.identities[identity.client] = node, identity

    def _other_data(self, identity: Identity) -> str | None:
        """Returns what is wrong with a node's images: they aren't the server's, or those that the client began with; None: nothing."""
        if self._content_hash is not None and identity.content_hash != self._content_hash:
            return "has another data set than the server; give every host the same files"
        before = self.identities.get(identity.client)
        if before is not None and identity.content_hash != before.content_hash:
            return "has other images than this client began with; start a new run with them"
        return None

    def node(self, client: int) -> int | None:
        """Returns the node of a client; None while none is connected."""
        node = self._nodes.get(client)
        return node if node in self._connected else None

    def label(self, client: int) -> int | None:
        """Returns the node's id for people, where nodes are more than numbers of this process."""
        return self._nodes.get(client) if self._changes else None
