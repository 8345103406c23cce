"""The content of `report.json`.

Counts are integers, rates lie in [0, 1], what couldn't be had is None.

Keys and meanings of this file are a contract: other programs read it. Add keys; don't rename them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tardis_fl.errors import DataError
from tardis_fl.report.deployment_results import (
    BaselineResult,
    BoundaryResult,
    CalibrationResult,
    CertificateResult,
    ClassResult,
    CodecResult,
    EscalationEffect,
    ExitResult,
    HardwareResult,
    OperatingPoint,
    SimulationResult,
    SweepResult,
    TierResult,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class DatasetResult:
    """Which images, and how many in which role."""

    name: str
    source: str
    num_train: int
    num_fit: int
    num_calibration: int
    num_test: int
    synthetic: bool
    class_names: list[str]
    raw_image_bytes: int


@dataclass(frozen=True)
class GroupResult:
    """One kind of clients: how many there are, segments they hold, their device and link (None: none of the virtual clock's)."""

    name: str
    num_clients: int
    depth: int
    device: str | None
    link: str | None
    availability: float


@dataclass(frozen=True)
class FederationResult:
    """What the training took.

    bytes_up and bytes_down are sums over the run by kind; raw_images_bytes is what sending every
    training image once would have cost. client_depth is the deepest group's. failures counts by
    kind (error, dropout, rejected, late); num_late: updates that joined a later round;
    num_repeated: replies that came twice. virtual_seconds: what the rounds would have taken on the
    fleet's own devices and links, None where none has any.
    """

    rounds: int
    num_clients: int
    clients_per_round: int
    client_depth: int
    groups: list[GroupResult]
    server_training: str
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    raw_images_bytes: int
    num_failures: int
    failures: dict[str, int]
    num_late: int
    num_repeated: int
    virtual_seconds: float | None
    seconds: float


@dataclass(frozen=True)
class RoundResult:
    """Accuracies of all exits on the clients' fit samples after a round."""

    round: int
    validation_accuracy: list[float]


@dataclass(frozen=True)
class ParticipationResult:
    """Who took part in a round: clients chosen, how many of them failed by kind, and what came late or twice."""

    round: int
    num_chosen: int
    failures: dict[str, int]
    num_late: int
    num_repeated: int
    virtual_seconds: float | None


@dataclass(frozen=True)
class ClientsResult:
    """Samples of each class that each client holds, over all its roles: one row a client."""

    label_counts: list[list[int]]


@dataclass(frozen=True)
class ReferenceRow:
    """The same data, roles, seed and budget, trained otherwise; see `tardis_fl.workflows.reference_trainings`.

    accuracy: of each exit on the test samples, None where it wasn't trained; a mean where num_runs
        > 1, and then accuracy_std is the sample standard deviation over the runs. passes: over a
        training image, on average. bytes_up and bytes_down are sums over the training by kind;
        raw_images_bytes_up is what came as images.
    """

    name: str
    accuracy: list[float | None]
    accuracy_std: list[float | None] | None
    num_runs: int
    passes: float
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    raw_images_bytes_up: int
    num_failures: int
    seconds: float


@dataclass(frozen=True)
class LeakResult:
    """Something that travels from clients to the server.

    fewer: keys of the configuration that send none of it, less, or noisier.
    """

    what: str
    fewer: str


@dataclass(frozen=True)
class LocalPrivacyResult:
    """Local differential privacy of the weights.

    noise_std: of each weight; num_messages: of the client that sent most;
    epsilon: of all its messages together, at delta."""

    clip_norm: float
    noise_std: float
    epsilon_per_message: float
    delta: float
    num_messages: int
    epsilon: float


@dataclass(frozen=True)
class PrivacyResult:
    """leaks: what travels and isn't covered by a promise; local: the promise for weights, None where there is none."""

    leaks: list[LeakResult]
    local: LocalPrivacyResult | None


@dataclass(frozen=True)
class Report:
    """All of `report.json`."""

    name: str
    seed: int
    dataset: DatasetResult
    backbone: str
    exits: list[ExitResult]
    boundaries: list[BoundaryResult]
    operating_point: OperatingPoint
    calibration: CalibrationResult
    certificate: CertificateResult | None
    baselines: dict[str, BaselineResult]
    federation: FederationResult
    last_round: RoundResult | None
    best_round: RoundResult | None
    history: list[RoundResult]
    participation: list[ParticipationResult]
    final_epochs: list[RoundResult]
    threshold_sweeps: list[SweepResult]
    tiers: list[TierResult]
    classes: list[ClassResult]
    escalation_effect: EscalationEffect
    clients: ClientsResult
    warnings: list[str]
    schema_version: int = SCHEMA_VERSION
    reference_rows: list[ReferenceRow] = field(default_factory=list)
    codecs: list[CodecResult] = field(default_factory=list)
    hardware: HardwareResult | None = None
    simulation: SimulationResult | None = None
    deployment_name: str | None = None
    privacy: PrivacyResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str, *, source: str = "report.json") -> Self:
        """Reads what `to_json` gave, exactly.

        Args:
            text: The JSON.
            source: Where it came from, for the message.

        Raises:
            DataError: It is damaged, or has keys that this version doesn't know.
        """
        from pydantic import ValidationError

        try:
            report = _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"{source}: is no whole report of this version of tardis_fl ({path + ': ' if path else ''}{first['msg']})"
            ) from None
        unknown = next(_unknown(json.loads(text), report.to_json(), ""), None)
        if unknown is not None:
            raise DataError(
                f"{source}: is a report of another version of tardis_fl (it has the key {unknown}, which this one doesn't know)"
            )
        return report

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a run's `report.json`.

        Raises:
            DataError: It can't be read, is damaged, or has keys that this version doesn't know.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: can't be read ({error})") from None
        return cls.from_json(text, source=str(path))


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Report]:
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def _unknown(given: Any, known: Any, path: str) -> Iterator[str]:
    """Yields the keys that were given and got lost in reading."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{path}{key}"
            else:
                yield from _unknown(value, known[key], f"{path}{key}.")
    elif isinstance(given, list):
        for number, (value, inner) in enumerate(zip(given, known, strict=True)):
            yield from _unknown(value, inner, f"{path}{number}.")


def wilson_interval(num_correct: int, num_samples: int, z: float = 1.959964) -> list[float]:
    """Returns the Wilson score interval of a proportion, 95 % by default (Wilson 1927).

    Args:
        num_correct: Successes.
        num_samples: Trials, at least 1.
        z: Normal quantile.
    """
    share, n = num_correct / num_samples, num_samples
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return [max(0.0, centre - half), min(1.0, centre + half)]
