"""Records of a federation: a round, a failure, and the state after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from tardis_fl.federation.transport.messages import Counts

Work = Literal["train", "features", "server", "evaluate"]


@dataclass(frozen=True)
class Failure:
    """A client that did not contribute.

    Attributes:
        round: The round, from 1.
        client: The client's number.
        stage: train, features, statistics, evaluate, tables or calibrate.
        kind: error: it raised; dropout: no answer; rejected: its update doesn't fit, isn't finite
            or has exploded; late: after the deadline.
        reason: One line.
        details: The client's own traceback, or the reason again.
        node: Flower's id of its node, where that is a real one.
    """

    round: int
    client: int
    stage: str
    kind: str
    reason: str
    details: str
    node: int | None = None


@dataclass(frozen=True)
class RoundRecord:
    """One round, or one of the server's final epochs.

    Attributes:
        round: From 1; final epochs count on from the last round.
        clients: Who was chosen, ascending.
        failures: Who failed, and why.
        num_late: Updates after the deadline that join a later round.
        num_repeated: Replies that came a second time and were left out.
        learning_rate: Of the clients; None in a final epoch.
        exit_weights: Weight of each exit's loss in this round.
        update_norm: Median and largest norm of the change of parameters, over the updates that were
            taken; None where there was none.
        train: Counts of local training, over the clients that took part.
        server: Counts of the deeper exits in the server's training.
        feature_ages: Samples the server trained on by their age in rounds.
        validation: Counts of all exits on these clients' fit samples; None where not evaluated.
        bytes_up: Bytes so far from clients to server, by kind.
        bytes_down: Bytes so far from server to clients, by kind.
        virtual_seconds: How long the server waited for updates on the virtual clock; None where no
            group has a device or a link.
        seconds: Wall-clock time of this round.
    """

    round: int
    clients: tuple[int, ...]
    failures: tuple[Failure, ...]
    num_late: int
    num_repeated: int
    learning_rate: float | None
    exit_weights: tuple[float, ...]
    update_norm: Mapping[str, float] | None
    train: Counts | None
    server: Counts | None
    feature_ages: Mapping[int, int] | None
    validation: Counts | None
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]
    virtual_seconds: float | None
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
        kept = ("client", "stage", "kind", "reason", "node")
        line["failures"] = [{key: getattr(f, key) for key in kept} for f in self.failures]
        line["validation_accuracy"] = self.validation_accuracy
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> RoundRecord:
        """Reads a line of `rounds.jsonl` again.

        Raises:
            KeyError, TypeError, ValueError: The line isn't one.
        """
        values = {key: value for key, value in line.items() if key != "validation_accuracy"}
        values |= {
            key: None if line[key] is None else Counts.from_record(line[key])
            for key in ("train", "server", "validation")
        }
        values["failures"] = tuple(
            Failure(round=line["round"], details=failure["reason"], **failure)
            for failure in line["failures"]
        )
        values |= {key: tuple(line[key]) for key in ("clients", "exit_weights")}
        if line["feature_ages"] is not None:
            values["feature_ages"] = {
                int(age): count for age, count in line["feature_ages"].items()
            }
        return cls(**values)


@dataclass(frozen=True)
class Snapshot:
    """All that a federation needs to go on after a complete round or final epoch, bit for bit.

    Attributes:
        tensors: Network, optimisers, late updates, features and client states, by name.
        facts: Numbers: where it stands, bytes, failures, seconds. All of it JSON can hold.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors under a prefix, without it."""
        return {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{prefix}.")
        }
