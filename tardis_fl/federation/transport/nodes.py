"""Which node is which client: Flower's node ids are random, and nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.serverapp import Grid

from tardis_fl.config.schema import Config
from tardis_fl.errors import RunError
from tardis_fl.federation.transport.exchange import POLL_SECONDS
from tardis_fl.federation.transport.handshake import Handshakes, Identity, Unable


class Nodes:
    """The nodes of a grid, by client.

    Args:
        grid: Any engine's grid.
        config: The configuration.
        handshakes: Asks nodes who they are.
        notice: Is told what a person should know.
        content_hash: Of the server's data set, where nodes have copies of it; None: it isn't
            compared.

    Attributes:
        identities: By client, of those that were ever there.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        handshakes: Handshakes,
        notice: Callable[[str], None],
        content_hash: str | None,
    ) -> None:
        self._grid, self._config, self._handshakes, self._notice, self._content_hash = (
            grid,
            config,
            handshakes,
            notice,
            content_hash,
        )
        self._changes = config.runtime.engine == "deployment"
        self._num_clients = config.federation.num_clients
        self._nodes: dict[int, int] = {}
        self._clients: dict[int, int] = {}  # the other way round
        self._refused: dict[int, str] = {}
        self._known: set[int] = set()
        self._connected: set[int] = set()
        self.identities: dict[int, Identity] = {}

    def await_all(self) -> None:
        """Waits for a node for each client, or for as many as must be there to begin.

        Raises:
            RunError: There are too few in time, two are the same client, or their data differ in
                kind.
        """
        runtime, began = self._config.runtime, time.monotonic()
        needed = min(runtime.min_nodes or self._num_clients, self._num_clients)
        while len(self._nodes) < self._num_clients:
            late = time.monotonic() - began > runtime.nodes_timeout_s
            self._look(ask=not late)
            for node, answer in self._handshakes.answers():
                self._meet(node, answer)
                if self._refused and len(self._connected - self._refused.keys()) < needed <= len(
                    self._connected
                ):
                    raise RunError(
                        self._too_few(needed)
                    )  # no need to wait: those that are there should have been enough
            if late and (len(self._nodes) >= needed or not self._handshakes.open):
                break
            if len(self._nodes) < self._num_clients:
                time.sleep(POLL_SECONDS)
        if len(self._nodes) < needed:
            raise RunError(self._too_few(needed))
        for node, problem in self._refused.items():
            self._notice(f"node {node} isn't asked, since it {_in_one_line(problem)}")
        if missing := [client for client in range(self._num_clients) if client not in self._nodes]:
            self._notice(
                f"beginning without the clients {', '.join(map(str, missing))}, whose nodes aren't connected"
            )
        kinds = {
            (identity.num_classes, identity.image_shape) for identity in self.identities.values()
        }
        if len(kinds) > 1:
            raise RunError(f"the clients' data differs in kind: {sorted(kinds)}")

    def refresh(self) -> None:
        """Notices nodes that came and went, where they can; a client's newest node is the one that is asked."""
        if not self._changes:
            return
        self._look(ask=True)
        for node, answer in self._handshakes.answers():
            if (joined := self._rejoin(node, answer)) is not None:
                self._notice(joined)

    def node(self, client: int) -> int | None:
        """Returns the node of a client; None while none is connected."""
        node = self._nodes.get(client)
        return node if node in self._connected else None

    def label(self, client: int) -> int | None:
        """Returns the node's id for people, where nodes are more than numbers of this process."""
        return self._nodes.get(client) if self._changes else None

    def _look(self, *, ask: bool) -> None:
        """Sees who is connected and asks newcomers who they are; who has left and comes back is asked again."""
        self._connected = set(self._grid.get_node_ids())
        self._known &= self._connected
        if ask:
            self._handshakes.ask(self._connected - self._known)

    def _meet(self, node: int, answer: Identity | Unable | str) -> None:
        """Takes a node's answer before the first round."""
        if (
            isinstance(answer, Identity)
            and (before := self._nodes.get(answer.client)) not in (None, node)
            and before in self._connected
        ):
            raise RunError(
                f"two nodes are client {answer.client}: give each node a partition-id of its own"
            )
        problem = self._problem(answer)
        if not isinstance(answer, Identity) or problem is not None:
            self._refuse(node, str(problem))
        else:
            self._take(node, answer)

    def _rejoin(self, node: int, answer: Identity | Unable | str) -> str | None:
        """Takes the answer of a node that came later; returns what a person should know."""
        problem = self._problem(answer)
        if not isinstance(answer, Identity) or problem is not None:
            self._refuse(node, str(problem))
            return f"node {node} joined and isn't asked, since it {_in_one_line(str(problem))}"
        before = self._nodes.get(answer.client)
        self._take(node, answer)
        if before == node:
            return None
        replaced = f", in place of {before}" if before is not None else ""
        twice = (
            "; that one is connected too, so two nodes may have one partition-id"
            if before in self._connected
            else ""
        )
        return f"node {node} joined as client {answer.client}{replaced}{twice}"

    def _take(self, node: int, identity: Identity) -> None:
        self._forget(node)  # it may have come back as another client
        self._nodes[identity.client], self._clients[node], self.identities[identity.client] = (
            node,
            identity.client,
            identity,
        )
        self._known.add(node)
        self._refused.pop(node, None)

    def _refuse(self, node: int, problem: str) -> None:
        self._forget(node)
        self._known.add(node)
        self._refused[node] = problem

    def _forget(self, node: int) -> None:
        client = self._clients.pop(node, None)
        if client is not None and self._nodes[client] == node:
            del self._nodes[client]

    def _problem(self, answer: Identity | Unable | str) -> str | None:
        """Returns what is wrong with a node: it can't tell who it is, or its images aren't those that they should be; None: nothing."""
        if isinstance(answer, str):
            return f"can't tell which client it is:\n{answer}"
        if isinstance(answer, Unable):
            return str(answer)
        if not 0 <= answer.client < self._num_clients:
            return f"says that it is client {answer.client}; wanted 0 to {self._num_clients - 1}"
        if self._content_hash is not None and answer.content_hash != self._content_hash:
            return f"has another data set than the server, as client {answer.client}; give every host the same files"
        before = self.identities.get(answer.client)
        if before is not None and answer.content_hash != before.content_hash:
            return f"has other images than client {answer.client} began with; start a new run with them"
        return None

    def _too_few(self, needed: int) -> str:
        runtime = self._config.runtime
        which = (
            "runtime.min_nodes" if runtime.min_nodes else "one for each of federation.num_clients"
        )
        if self._refused:
            node, problem = next(iter(self._refused.items()))
            return f"node {node} can't take part, and {needed} nodes are wanted ({which}): it {problem}"
        if len(self._connected) >= needed:
            silent = len(self._connected) - len(self._nodes)
            return (
                f"{silent} of {len(self._connected)} connected nodes didn't tell which client they are within {runtime.reply_timeout_s:g} s "
                f"(runtime.reply_timeout_s); {len(self._nodes)} can take part, wanted {needed} ({which})"
            )
        return f"{len(self._connected)} nodes are connected after {runtime.nodes_timeout_s:g} s (runtime.nodes_timeout_s); wanted {needed} ({which})"


def _in_one_line(problem: str) -> str:
    """Returns a problem without the traceback between its first line and its last."""
    lines = problem.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
