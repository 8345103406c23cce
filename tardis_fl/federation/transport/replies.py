"""Replies of clients: collected as they arrive, yielded in the order of clients."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flwr.app import Message, RecordDict

from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.exchange import POLL_SECONDS, MessageExchange
from tardis_fl.federation.transport.handshake import UNREACHABLE
from tardis_fl.federation.transport.messages import Ledger


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


class Replies:
    """Waits for replies to requests and counts their bytes.

    Args:
        exchange: Where the requests are sent.
        ledger: Counts the bytes.
        timeout_s: Seconds from the requests, after which a client that is silent has dropped out.

    Attributes:
        num_repeated: Replies that came a second time and were left out.
    """

    def __init__(self, exchange: MessageExchange, ledger: Ledger, timeout_s: float) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._timeout_s = timeout_s
        self.num_repeated = 0

    def collect(
        self,
        order: Sequence[int],
        message_ids: Sequence[str | None],
        sizes: Mapping[int, Mapping[str, int]],
        *,
        twice: Collection[int] = (),
    ) -> Iterator[Reply]:
        """Yields a reply of each client, in their order.

        Args:
            order: The clients.
            message_ids: Of their requests; None where Flower doesn't take a request.
            sizes: Bytes of their requests, by kind of content.
            twice: Clients whose replies arrive a second time (the fault `repeat`).
        """
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
            self._ledger.add_up(bytes_up)
            sender = waiting.pop(message.metadata.reply_to_message_id, None)
            if sender is None:
                self.num_repeated += 1
                return
            early[sender] = _opened(sender, message, sizes[sender], bytes_up)
            if sender in twice:
                receive(message)

        began = time.monotonic()
        try:
            for client in order:
                while client not in early:
                    looked = time.monotonic()
                    num_waiting = len(waiting)
                    for message in self._exchange.arrived(list(waiting)):
                        receive(message)
                        del message  # may be large: not kept until the next comes
                    if len(waiting) < num_waiting:
                        continue
                    now = time.monotonic()
                    if now - began > self._timeout_s:
                        early[client] = self._silent(client, sizes[client])
                    else:
                        time.sleep(max(POLL_SECONDS, now - looked))
                yield early.pop(client)
        finally:
            self._exchange.forget(waiting)  # the last reply's taker doesn't come back for more

    def _silent(self, client: int, bytes_down: Mapping[str, int]) -> Reply:
        problem = f"no answer within {self._timeout_s:g} s (runtime.reply_timeout_s)"
        return Reply(client, None, problem, "dropout", bytes_down)


def _opened(
    client: int, message: Message, bytes_down: Mapping[str, int], bytes_up: Mapping[str, int]
) -> Reply:
    """Returns what a message from a client says."""
    if not message.has_error():
        return Reply(client, message.content, None, "error", bytes_down, bytes_up)
    error = message.error
    if error.code in UNREACHABLE:
        problem = f"its node can't be reached (Flower error {error.code}: {error.reason})"
        return Reply(client, None, problem, "dropout", bytes_down)
    problem = error.reason or f"Flower error {error.code}"
    return Reply(client, None, problem, "error", bytes_down)
