"""What travels between server and clients, as Flower records.

Requests hold the weights of the held segments (`weights`) and an `instruction`; replies hold new
weights, features or integer counts (`metrics`). Weights and features never share a message, so
that Flower's mods, which want exactly one array record, can be put around the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor, nn

from tardis_fl.codecs import EncodedFeatures

IDENTIFY = "query.identify"
TRAIN = "train"
FEATURES = "query.features"
EVALUATE = "evaluate"
TABLES = "query.tables"

WEIGHTS, FEATURES_KIND, METRICS = "weights", "features", "metrics"
KINDS = (WEIGHTS, FEATURES_KIND, METRICS)

State = dict[str, Tensor]


def segments_state(segments: Iterable[nn.Module]) -> State:
    """Returns parameters and buffers of consecutive segments, keyed `0.body...`, not copied."""
    return {f"{number}.{name}": tensor for number, segment in enumerate(segments) for name, tensor in segment.state_dict().items()}


def load_segments(segments: Iterable[nn.Module], state: Mapping[str, Tensor]) -> None:
    """Copies a state into consecutive segments, which must have exactly its keys and shapes."""
    target = segments_state(segments)
    if target.keys() != state.keys():
        raise ValueError(f"weights don't fit the segments: {sorted(target.keys() ^ state.keys())[:3]} are on one side only")
    with torch.no_grad():
        for name, tensor in target.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"weights don't fit the segments: {name} has the shape {tuple(state[name].shape)}, wanted {tuple(tensor.shape)}")
            tensor.copy_(state[name])


def pack_tensors(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Puts tensors into a Flower record, in their logical (not memory) order."""
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor.detach().numpy()).reshape(tuple(tensor.shape))) for name, tensor in tensors.items()})


def unpack_tensors(record: ArrayRecord) -> State:
    """Takes tensors out of a Flower record."""
    return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}


@dataclass(frozen=True)
class FeatureBatch:
    """Encoded features with their labels; N rows each.

    Attributes:
        features: What the deepest held segment gave.
        labels: (N,) int64.
    """

    features: EncodedFeatures
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Returns what travels, by name."""
        encoded = self.features
        named = {"values": encoded.values, "low": encoded.low, "scale": encoded.scale, "labels": self.labels}
        return {f"{prefix}{name}": tensor for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> FeatureBatch:
        """Builds it from what travelled."""
        values, low, scale, labels = (tensors[f"{prefix}{name}"] for name in ("values", "low", "scale", "labels"))
        return cls(EncodedFeatures(values, low, scale), labels)


@dataclass(frozen=True)
class Counts:
    """Integer counts and sums over samples; they add up over batches, clients and rounds.

    Attributes:
        num_samples: Samples seen.
        loss_sum: Sum over samples of the weighted loss.
        correct: Right answers of each exit, from shallow to deep.
    """

    num_samples: int = 0
    loss_sum: float = 0.0
    correct: tuple[int, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        width = max(len(self.correct), len(other.correct))
        mine, theirs = (counts + (0,) * (width - len(counts)) for counts in (self.correct, other.correct))
        return Counts(self.num_samples + other.num_samples, self.loss_sum + other.loss_sum, tuple(a + b for a, b in zip(mine, theirs, strict=True)))

    def to_record(self) -> MetricRecord:
        """Packs the counts."""
        return MetricRecord({"num_samples": self.num_samples, "loss_sum": self.loss_sum, "correct": list(self.correct)})

    @classmethod
    def from_record(cls, record: MetricRecord) -> Counts:
        """Unpacks the counts."""
        return cls(int(record["num_samples"]), float(record["loss_sum"]), tuple(int(c) for c in record["correct"]))  # type: ignore[arg-type, union-attr]


@dataclass
class Ledger:
    """Bytes that crossed the network between server and clients, by direction and kind.

    Arrays are counted as their serialised payload; instructions and counts are `metrics`.
    """

    up: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    down: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def add_up(self, content: RecordDict) -> None:
        """Counts a reply."""
        _add(self.up, content_bytes(content))

    def add_down(self, sizes: Mapping[str, int], times: int = 1) -> None:
        """Counts a request, or several of the same size."""
        _add(self.down, {kind: size * times for kind, size in sizes.items()})


def content_bytes(content: RecordDict) -> dict[str, int]:
    """Returns the bytes of a message's records by kind."""
    sizes = dict.fromkeys(KINDS, 0)
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            sizes[WEIGHTS if name == WEIGHTS else FEATURES_KIND] += sum(len(array.data) for array in record.values())
        else:
            sizes[METRICS] += len(record.deflate())
    return sizes


def _add(total: dict[str, int], sizes: Mapping[str, int]) -> None:
    for kind, size in sizes.items():
        total[kind] += size


def instruction(config_json: str, **values: int | float) -> ConfigRecord:
    """Returns what a client needs to know: the configuration and the request's own numbers."""
    return ConfigRecord({"config": config_json, **values})
