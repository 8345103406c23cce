"""What clients tell of their held-out samples, for evaluations and exit tables; features come in pieces where they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import RecordDict
from torch import Tensor

from tardis_fl.federation.server.deeper.feature_buffer import Pieces
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.fleet import Reply
from tardis_fl.federation.transport.messages import FeatureBatch


@dataclass(frozen=True)
class HeldOutReply:
    """One client's answer.

    Attributes:
        client: Its number.
        metrics: What it counted.
        tensors: What it sent beside features.
        features: For the exits deeper than its own; None where it holds all.
    """

    client: int
    metrics: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    features: FeatureBatch | None


class Asking(Protocol):
    """Asks clients, or all that haven't failed yet where `clients` is None; yields who answered with what."""

    def __call__(
        self, stage: str, message_type: str, *, clients: Sequence[int] | None, **values: Any
    ) -> Iterator[tuple[Reply, RecordDict]]: ...


def collect_held_out(
    ask: Asking,
    reject: Callable[[int, str], None],
    stage: str,
    message_type: str,
    *,
    healthy: Callable[[], Sequence[int]],
    depth: Callable[[int], int],
    **values: Any,
) -> Iterator[HeldOutReply]:
    """Yields the answers of all clients that don't fail, each as soon as its last piece has come.

    Args:
        ask: Asks for one piece.
        reject: Takes note of a client whose answer doesn't fit, and why.
        stage, message_type: Of the question.
        healthy: Gives the clients that haven't failed.
        depth: Gives how many segments a client holds.
        values: Further parts of the request.
    """
    pieces, began = Pieces(), dict[int, tuple[Mapping[str, Any], dict[str, Tensor]]]()
    first, asked = 0, None
    while asked is None or asked:
        for reply, content in ask(stage, message_type, clients=asked, first=first, **values):
            client, metrics = reply.client, content.metric_records[messages.METRICS]
            tensors = (
                messages.unpack_tensors(content.array_records[messages.FEATURES_KIND])
                if messages.FEATURES_KIND in content
                else {}
            )
            names = FeatureBatch.names_in(tensors)
            beside = {name: tensor for name, tensor in tensors.items() if name not in names}
            began.setdefault(client, (metrics, beside))
            if not names:
                yield HeldOutReply(client, *began.pop(client), None)
                continue
            try:
                pieces.add(
                    client,
                    FeatureBatch.from_tensors(tensors, depth(client)),
                    first,
                    int(metrics["num_samples"]),
                )
            except ValueError as error:
                reject(client, str(error))
                continue
            del reply, content, tensors  # large: not kept while the next ones come
            if pieces.has_all(client):
                yield HeldOutReply(client, *began.pop(client), pieces.take(client))
        first, asked = pieces.wanted(healthy())
