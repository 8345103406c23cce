"""Which node is which client: Flower's node ids are random, and nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from flwr.serverapp import Grid

from tardis_fl.config.runtime import RuntimeConfig
from tardis_fl.errors import RunError
from tardis_fl.federation.transport.exchange import POLL_SECONDS
from tardis_fl.federation.transport.handshake import Handshakes, Identity, Unable


class _Table:
    """Nodes that are taken or refused.

    Attributes:
        nodes: Ids, by client.
        clients: The other way round.
        refused: Why a node can't take part, by its id.
        identities: By client, of those that were ever there.
    """

    def __init__(self) -> None:
        self.nodes: dict[int, int] = {}
        self.clients: dict[int, int] = {}
        self.refused: dict[int, str] = {}
        self.identities: dict[int, Identity] = {}

    def take(self, node: int, identity: Identity) -> None:
        """Makes a node the one of its client."""
        self._forget(node)  # it may have come back as another client
        self.nodes[identity.client] = node
        self.clients[node] = identity.client
        self.identities[identity.client] = identity
        self.refused.pop(node, None)

    def refuse(self, node: int, problem: str) -> None:
        """Notes why a node can't take part."""
        self._forget(node)
        self.refused[node] = problem

    def _forget(self, node: int) -> None:
        client = self.clients.pop(node, None)
        if client is not None and self.nodes[client] == node:
            del self.nodes[client]


class Nodes:
    """The nodes of a grid, by client.

    Args:
        grid: Any engine's grid.
        num_clients: Clients of the run.
        runtime: The engine, and how long to wait for how many nodes.
        handshakes: Asks nodes who they are.
        notice: Takes what a person should know.
        content_hash: Of the server's data set, where nodes have copies of it; None: it isn't
            compared.

    Attributes:
        identities: By client, of those that were ever there.
    """

    def __init__(
        self,
        grid: Grid,
        num_clients: int,
        runtime: RuntimeConfig,
        handshakes: Handshakes,
        notice: Callable[[str], None],
        content_hash: str | None,
    ) -> None:
        self._grid = grid
        self._num_clients = num_clients
        self._runtime = runtime
        self._handshakes = handshakes
        self._notice = notice
        self._content_hash = content_hash
        self._changes = runtime.engine == "deployment"
        self._table = _Table()
        self.identities: Mapping[int, Identity] = self._table.identities
        self._known: set[int] = set()
        self._connected: set[int] = set()

    def await_all(self) -> None:
        """Waits for a node for each client, or for as many as must be there to begin.

        Raises:
            RunError: There are too few in time, two are the same client, or their data differ in
                kind.
        """
        began = time.monotonic()
        needed = min(self._runtime.min_nodes or self._num_clients, self._num_clients)
        while len(self._table.nodes) < self._num_clients:
            late = time.monotonic() - began > self._runtime.nodes_timeout_s
            self._look(ask=not late)
            for node, answer in self._handshakes.answers():
                self._meet(node, answer)
                num_fit = len(self._connected - self._table.refused.keys())
                if self._table.refused and num_fit < needed <= len(self._connected):
                    # no need to wait: those that are there should have been enough
                    raise RunError(self._too_few(needed))
            if late and (len(self._table.nodes) >= needed or not self._handshakes.open):
                break
            if len(self._table.nodes) < self._num_clients:
                time.sleep(POLL_SECONDS)
        if len(self._table.nodes) < needed:
            raise RunError(self._too_few(needed))
        for node, problem in self._table.refused.items():
            self._notice(f"node {node} isn't asked, since it {_in_one_line(problem)}")
        missing = sorted(set(range(self._num_clients)) - self._table.nodes.keys())
        if missing:
            names = ", ".join(map(str, missing))
            self._notice(f"beginning without the clients {names}, whose nodes aren't connected")
        _check_kinds(self.identities.values())

    def refresh(self) -> None:
        """Notices nodes that came and went, where they can.

        A client's newest node is the one that is asked.
        """
        if not self._changes:
            return
        self._look(ask=True)
        for node, answer in self._handshakes.answers():
            joined = self._rejoin(node, answer)
            if joined is not None:
                self._notice(joined)

    def node(self, client: int) -> int | None:
        """Returns the node of a client; None while none is connected."""
        node = self._table.nodes.get(client)
        return node if node in self._connected else None

    def label(self, client: int) -> int | None:
        """Returns the node's id for people, where nodes are more than numbers of this process."""
        return self._table.nodes.get(client) if self._changes else None

    def _look(self, *, ask: bool) -> None:
        """Sees who is connected and asks newcomers who they are, also those that come back."""
        self._connected = set(self._grid.get_node_ids())
        self._known &= self._connected
        if ask:
            self._handshakes.ask(self._connected - self._known)

    def _meet(self, node: int, answer: Identity | Unable | str) -> None:
        """Takes a node's answer before the first round."""
        if (
            isinstance(answer, Identity)
            and (before := self._table.nodes.get(answer.client)) not in (None, node)
            and before in self._connected
        ):
            raise RunError(
                f"two nodes are client {answer.client}: give each node a partition-id of its own"
            )
        problem = self._problem(answer)
        self._known.add(node)
        if not isinstance(answer, Identity) or problem is not None:
            self._table.refuse(node, str(problem))
        else:
            self._table.take(node, answer)

    def _rejoin(self, node: int, answer: Identity | Unable | str) -> str | None:
        """Takes the answer of a node that came later; returns what a person should know."""
        problem = self._problem(answer)
        self._known.add(node)
        if not isinstance(answer, Identity) or problem is not None:
            self._table.refuse(node, str(problem))
            return f"node {node} joined and isn't asked, since it {_in_one_line(str(problem))}"
        before = self._table.nodes.get(answer.client)
        self._table.take(node, answer)
        if before == node:
            return None
        joined = f"node {node} joined as client {answer.client}"
        if before is None:
            return joined
        joined += f", in place of {before}"
        if before in self._connected:
            joined += "; that one is connected too, so two nodes may have one partition-id"
        return joined

    def _problem(self, answer: Identity | Unable | str) -> str | None:
        """Returns what is wrong with a node; None: nothing."""
        if isinstance(answer, str):
            return f"can't tell which client it is:\n{answer}"
        if isinstance(answer, Unable):
            return str(answer)
        return _problem_of(
            answer, self._num_clients, self._content_hash, self.identities.get(answer.client)
        )

    def _too_few(self, needed: int) -> str:
        counts = (needed, len(self._connected), len(self._table.nodes))
        return _too_few(self._runtime, *counts, refused=self._table.refused)


def _check_kinds(identities: Iterable[Identity]) -> None:
    """Refuses clients whose images have different shapes or classes."""
    kinds = {(identity.num_classes, identity.image_shape) for identity in identities}
    if len(kinds) > 1:
        raise RunError(f"the clients' data differs in kind: {sorted(kinds)}")


def _problem_of(
    identity: Identity, num_clients: int, wanted_hash: str | None, before: Identity | None
) -> str | None:
    """Returns what is wrong with a node's number or data set; None: nothing.

    Args:
        identity: What the node says of itself.
        num_clients: Clients of the run.
        wanted_hash: Of the server's data set; None: nodes have images of their own.
        before: What the client's node said at the run's start; None: it wasn't there.
    """
    if not 0 <= identity.client < num_clients:
        return f"says that it is client {identity.client}; wanted 0 to {num_clients - 1}"
    if wanted_hash is not None and identity.content_hash != wanted_hash:
        return (
            f"has another data set than the server, as client {identity.client}; "
            "give every host the same files"
        )
    if before is not None and identity.content_hash != before.content_hash:
        return (
            f"has other images than client {identity.client} began with; start a new run with them"
        )
    return None


def _too_few(
    runtime: RuntimeConfig,
    needed: int,
    num_connected: int,
    num_taken: int,
    *,
    refused: Mapping[int, str],
) -> str:
    """Returns why a run can't begin: nodes are refused, silent or missing."""
    which = "runtime.min_nodes" if runtime.min_nodes else "one for each of federation.num_clients"
    if refused:
        node, problem = next(iter(refused.items()))
        return f"node {node} can't take part, and {needed} nodes are wanted ({which}): it {problem}"
    if num_connected >= needed:
        return (
            f"{num_connected - num_taken} of {num_connected} connected nodes didn't tell which "
            f"client they are within {runtime.reply_timeout_s:g} s (runtime.reply_timeout_s); "
            f"{num_taken} can take part, wanted {needed} ({which})"
        )
    return (
        f"{num_connected} nodes are connected after {runtime.nodes_timeout_s:g} s "
        f"(runtime.nodes_timeout_s); wanted {needed} ({which})"
    )


def _in_one_line(problem: str) -> str:
    """Returns a problem without the traceback between its first line and its last."""
    lines = problem.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
