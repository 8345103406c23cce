"""Asking nodes who they are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.exchange import MessageExchange
from tardis_fl.federation.transport.messages import Ledger

SECONDS_BETWEEN_ATTEMPTS = 5.0
UNREACHABLE = {3, 4, 5}  # Flower's codes: the message, or the reply, or the node isn't available


@dataclass(frozen=True)
class Identity:
    """What a node says of itself.

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

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Identity:
        """Reads a node's answer."""
        return cls(
            **{
                **record,
                "image_shape": tuple(record["image_shape"]),
                "label_counts": tuple(record.get("label_counts", ())),
            }
        )


@dataclass(frozen=True)
class Unable:
    """What a node says that can't take part in this run.

    Attributes:
        client: Its number: the node's partition-id.
        problems: What it lacks, each as it follows the node's name.
    """

    client: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"(client {self.client}) {', and '.join(self.problems)}"

    def to_record(self) -> ConfigRecord:
        """Packs it as the node's answer."""
        return ConfigRecord({"client": self.client, "problems": list(self.problems)})


class Handshakes:
    """Asks nodes who they are, and doesn't wait for their answers.

    Args:
        exchange: Of the grid.
        config_json: The configuration.
        ledger: Counts the bytes.
        timeout_s: After which a node that hasn't answered is given up, until it is asked again.
        clock: Gives seconds.
    """

    def __init__(
        self,
        exchange: MessageExchange,
        config_json: str,
        ledger: Ledger,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._clock = clock
        self._content = RecordDict(
            {messages.INSTRUCTION: messages.instruction(config_json, round=0, depth=1)}
        )
        self._open: dict[str, int] = {}
        self._asked: dict[int, float] = {}

    @property
    def open(self) -> set[int]:
        """Nodes whose answers are awaited."""
        return set(self._open.values())

    def ask(self, nodes: Iterable[int]) -> None:
        """Asks nodes, but for those that were asked a moment ago."""
        now = self._clock()
        still_open = self.open
        asked = [
            node
            for node in sorted(nodes)
            if node not in still_open
            and now - self._asked.get(node, -math.inf) >= SECONDS_BETWEEN_ATTEMPTS
        ]
        self._asked |= dict.fromkeys(asked, now)
        ttl = None if math.isinf(self._timeout_s) else self._timeout_s
        requests = [
            Message(
                self._content,
                dst_node_id=node,
                message_type=messages.IDENTIFY,
                group_id="0",
                ttl=ttl,
            )
            for node in asked
        ]
        for node, message_id in zip(asked, self._exchange.send(requests), strict=True):
            if message_id is not None:
                self._ledger.add_down(messages.content_bytes(self._content))
                self._open[message_id] = node

    def answers(self) -> Iterator[tuple[int, Identity | Unable | str]]:
        """Yields nodes that have answered by now: who they are, or why they can't tell.

        Those that can't be reached aren't open any more.
        """
        num_open = len(self._open) + 1
        while len(self._open) < num_open:  # a grid of this process gives one reply a time
            num_open = len(self._open)
            for message in self._exchange.arrived(list(self._open)):
                node = self._open.pop(message.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                if not message.has_error():
                    self._ledger.add_up(messages.content_bytes(message.content))
                    yield node, _identity_in(message.content)
                elif message.error.code not in UNREACHABLE:
                    yield node, message.error.reason or f"Flower error {message.error.code}"
        given_up = [
            message_id
            for message_id, node in self._open.items()
            if self._clock() - self._asked[node] > self._timeout_s
        ]
        self._exchange.forget(given_up)
        for message_id in given_up:
            del self._open[message_id]


def _identity_in(content: RecordDict) -> Identity | Unable | str:
    try:
        record: Any = content.config_records[messages.IDENTITY]
        if "problems" in record:
            return Unable(record["client"], tuple(record["problems"]))
        return Identity.from_record(record)
    except (KeyError, TypeError, ValueError) as error:
        return f"its answer can't be read ({error!r})"
