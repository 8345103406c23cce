"""Requests to nodes and their replies, whatever becomes of the nodes meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 2.0


@runtime_checkable
class KeepsStates(Protocol):
    """A grid whose clients work in this process, or in workers of it, and whose states lie here."""

    def states(self) -> Mapping[int, RecordDict]:
        """Returns the state of each node that has one."""

    def restore_state(self, node_id: int, state: RecordDict) -> None:
        """Gives a node a state."""


class MessageExchange:
    """A grid's requests and replies.

    Flower 1.41 takes a reply as soon as it is announced and then waits for all its parts, for
    minutes where the node has died meanwhile, and with it for all others that were asked for
    together. So replies of real nodes are fetched one by one, by threads that are left behind where
    they take long.

    Args:
        grid: Any engine's grid.
        real: Whether its nodes are other processes, on machines of their own.
    """

    def __init__(self, grid: Grid, *, real: bool) -> None:
        self._grid = grid
        self._at_once = not real or isinstance(grid, KeepsStates)
        self._slow: dict[str, Future[list[Message]]] = {}

    def send(self, requests: Sequence[Message]) -> list[str | None]:
        """Sends requests; returns their ids, None for those that Flower doesn't take."""
        return list(self._grid.push_messages(requests)) or [None] * len(requests)

    def arrived(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yields replies to these requests that are there by now.

        A grid of this process works on one request for it.
        """
        if self._at_once:
            replies = list(self._grid.pull_messages(list(message_ids)))
            while replies:
                yield replies.pop(0)  # no name is left that would keep a reply, which may be large
            return
        patience = PATIENCE_SECONDS  # for all that take long together
        for message_id in message_ids:
            fetch = self._slow.pop(message_id, None)
            began = time.monotonic()
            most = 0.0 if fetch else patience
            fetch = fetch or self._fetch(message_id)
            if wait([fetch], most).not_done:
                self._slow[message_id] = fetch
                patience = max(0.0, patience - (time.monotonic() - began))
                continue
            yield from fetch.result()
            del fetch

    def forget(self, message_ids: Iterable[str]) -> None:
        """Lets go of requests whose replies nobody waits for any more."""
        for message_id in message_ids:
            self._slow.pop(message_id, None)

    def _fetch(self, message_id: str) -> Future[list[Message]]:
        fetch = Future[list[Message]]()

        def pull() -> None:
            try:
                fetch.set_result(list(self._grid.pull_messages([message_id])))
            except BaseException as error:
                fetch.set_exception(error)

        threading.Thread(target=pull, name=f"reply to {message_id}", daemon=True).start()
        return fetch
