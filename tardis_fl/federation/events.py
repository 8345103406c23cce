"""What the training tells whoever watches: a screen, a run folder, a test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from tardis_fl.federation.messages import Counts

Work = Literal["train", "features", "server", "evaluate"]


@dataclass(frozen=True)
class Failure:
    """A client that did not contribute.

    Attributes:
        round: The round, from 1.
        client: The client's number.
        stage: train, features, evaluate or tables.
        reason: One line.
        details: The client's own traceback, or the reason again.
    """

    round: int
    client: int
    stage: str
    reason: str
    details: str


@dataclass(frozen=True)
class RoundRecord:
    """One round, or one of the server's final epochs.

    Attributes:
        round: From 1; final epochs count on from the last round.
        clients: Who was chosen, ascending.
        failures: Who failed, and why.
        learning_rate: Of the clients; None in a final epoch.
        train: Counts of local training, over the clients that took part.
        server: Counts of the deeper exits in the server's training.
        validation: Counts of all exits on these clients' fit samples; None where not evaluated.
        bytes_up: Bytes so far from clients to server, by kind.
        bytes_down: Bytes so far from server to clients, by kind.
        seconds: Wall-clock time of this round.
    """

    round: int
    clients: tuple[int, ...]
    failures: tuple[Failure, ...]
    learning_rate: float | None
    train: Counts | None
    server: Counts | None
    validation: Counts | None
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    seconds: float

    @property
    def validation_accuracy(self) -> list[float] | None:
        """Each exit's share of right answers on the fit samples."""
        if self.validation is None or not self.validation.num_samples:
            return None
        return [correct / self.validation.num_samples for correct in self.validation.correct]

    def to_json(self) -> dict[str, Any]:
        """Returns what stands in `rounds.jsonl`; tracebacks stay in files of their own."""
        line = asdict(self)
        line["failures"] = [{"client": f.client, "stage": f.stage, "reason": f.reason} for f in self.failures]
        line["validation_accuracy"] = self.validation_accuracy
        return line


class Listener(Protocol):
    """Whoever watches. All calls come from the thread that trains."""

    def worked(self, work: Work, num_samples: int) -> None:
        """Some samples of a kind of work are done."""

    def failed(self, failure: Failure) -> None:
        """A client failed."""

    def round_done(self, record: RoundRecord, state: dict[str, Any]) -> None:
        """A round is complete; `state` maps tensor names to the whole network's current tensors."""

    def epoch_done(self, record: RoundRecord) -> None:
        """One of the server's final epochs is complete."""
