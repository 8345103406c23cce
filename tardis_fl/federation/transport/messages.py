"""What travels between server and clients, as Flower records.

Requests hold the weights of the segments that a client holds (`weights`) and an `instruction`;
replies hold new weights, features or integer counts (`metrics`). Weights and features never share a
message, so that Flower's mods, which want exactly one array record, can be put around the weights.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from tardis_fl import __version__
from tardis_fl.codecs.codec import EncodedFeatures

IDENTIFY = "query.identify"
TRAIN = "train"
SPLIT = "train.split"
FEATURES = "query.features"
STATISTICS = "query.statistics"
EVALUATE = "evaluate"
TABLES = "query.tables"
TEMPERATURES = "query.temperatures"
HISTOGRAMS = "query.histograms"

WEIGHTS, FEATURES_KIND, METRICS = "weights", "features", "metrics"
KINDS = (WEIGHTS, FEATURES_KIND, METRICS)
INSTRUCTION = "instruction"  # the record that every request has
IDENTITY = "identity"  # who a node is
OWN_NORMS = "own_norms"  # in a client's state: its norm layers, where these are its own
# in a client's state: logits of its held-out samples, from one question about them to the next
ANSWERS = "answers"

LABELS = "labels"  # of a batch of features

NPY = "numpy.ndarray"  # Flower's name for NumPy's file format


def pack_tensors(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Puts tensors into a Flower record, in their logical (not memory) order."""
    return ArrayRecord(
        {name: _to_array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
    )


def unpack_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Takes tensors out of a Flower record."""
    return {name: torch.from_numpy(_from_array(array)) for name, array in record.items()}


def _to_array(values: npt.NDArray[np.generic]) -> Array:
    """Does what `Array(values)` does, without formatting the same header each time."""
    header = _npy_header(values.dtype.str, values.shape)
    in_order: Any = np.ascontiguousarray(values)  # a buffer, which NumPy's types don't say
    content = b"".join((header, memoryview(in_order).cast("B") if values.size else b""))
    return Array(dtype=str(values.dtype), shape=values.shape, stype=NPY, data=content)


def _from_array(array: Array) -> npt.NDArray[np.generic]:
    """Does what `array.numpy()` does, without parsing the usual header each time."""
    if array.stype == NPY:
        dtype = np.dtype(array.dtype)
        header = _npy_header(dtype.str, tuple(array.shape))
        if memoryview(array.data)[: len(header)] == header:
            found = np.frombuffer(array.data, dtype=dtype, offset=len(header)).reshape(array.shape)
            return found if found.flags.writeable else found.copy()
    return array.numpy()


@lru_cache(maxsize=4096)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Returns the header of NumPy's file format for an array in C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class FeatureBatch:
    """Encoded features with their labels; N rows each.

    Attributes:
        features: What the sender's deepest segment gave.
        labels: (N,) int64.
        depth: How many segments the features have gone through.
    """

    features: EncodedFeatures
    labels: Tensor
    depth: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> FeatureBatch:
        """Returns some rows, without copying them."""
        return FeatureBatch(self.features[rows], self.labels[rows], self.depth)

    def to(self, device: torch.device) -> FeatureBatch:
        """Returns it on a device."""
        return FeatureBatch(self.features.to(device), self.labels.to(device), self.depth)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Returns what travels, by name."""
        named = {**self.features.to_tensors(), LABELS: self.labels}
        return {f"{prefix}{name}": tensor for name, tensor in named.items()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], depth: int, prefix: str = ""
    ) -> FeatureBatch:
        """Builds it from what travelled."""
        named = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        return cls(EncodedFeatures.from_tensors(named), named[LABELS], depth)

    @staticmethod
    def names_in(tensors: Mapping[str, Tensor]) -> set[str]:
        """Returns the names of those tensors of a message that are a batch of features."""
        names = set(EncodedFeatures.names_in(tensors))
        return names | {LABELS} if names else names

    def piece(self, first: int, most_bytes: int) -> FeatureBatch:
        """Returns rows from a position on, as many as fit into some bytes, or one."""
        return self[first : first + max(1, most_bytes // max(1, self.features.nbytes // len(self)))]

    def room(self, count: int) -> FeatureBatch:
        """Returns so many rows of this kind, with nothing in them yet."""
        return FeatureBatch(self.features.empty(count), self.labels.new_empty(count), self.depth)

    def put(self, first: int, piece: FeatureBatch) -> None:
        """Copies rows into place."""
        self.features.put(first, piece.features)
        self.labels[first : first + len(piece)] = piece.labels

    @classmethod
    def concatenate(cls, parts: Sequence[FeatureBatch]) -> FeatureBatch:
        """Joins batches of the same depth."""
        return cls(
            EncodedFeatures.concatenate([part.features for part in parts]),
            torch.cat([part.labels for part in parts]),
            parts[0].depth,
        )


@dataclass(frozen=True)
class Counts:
    """Integer counts and sums over samples; they add up over batches, clients and rounds.

    Attributes:
        num_samples: Samples seen.
        loss_sum: Sum over samples of the weighted loss.
        correct: Right answers of each exit, from shallow to deep.
        seen: Samples that each exit saw, which differ where clients hold different depths; all of
            them where left out.
        answered: Samples that each exit would answer at `federation.serving_score`; empty where
            nobody asked.
    """

    num_samples: int = 0
    loss_sum: float = 0.0
    correct: tuple[int, ...] = ()
    seen: tuple[int, ...] = ()
    answered: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.seen:
            object.__setattr__(self, "seen", (self.num_samples,) * len(self.correct))

    def __add__(self, other: Counts) -> Counts:
        def total(mine: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(a + b for a, b in zip_longest(mine, theirs, fillvalue=0))

        return Counts(
            self.num_samples + other.num_samples,
            self.loss_sum + other.loss_sum,
            total(self.correct, other.correct),
            total(self.seen, other.seen),
            total(self.answered, other.answered),
        )

    def to_record(self) -> MetricRecord:
        """Packs the counts."""
        return MetricRecord(
            {
                "num_samples": self.num_samples,
                "loss_sum": self.loss_sum,
                "correct": list(self.correct),
                "seen": list(self.seen),
                "answered": list(self.answered),
            }
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Counts:
        """Unpacks the counts from a record, or from a line of rounds.jsonl."""
        whole = (
            tuple(int(count) for count in record[key]) for key in ("correct", "seen", "answered")
        )
        return cls(int(record["num_samples"]), float(record["loss_sum"]), *whole)


@dataclass
class Ledger:
    """Bytes that crossed the network between server and clients, by direction and kind.

    Arrays are counted as their serialised payload; instructions, sums and counts are `metrics`.
    """

    up: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    down: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def add_up(self, sizes: Mapping[str, int]) -> None:
        """Counts a reply, by what `content_bytes` returned."""
        _add(self.up, sizes)

    def add_down(self, sizes: Mapping[str, int]) -> None:
        """Counts a request."""
        _add(self.down, sizes)


def content_bytes(content: RecordDict) -> dict[str, int]:
    """Returns the bytes of a message's records by kind."""
    sizes = dict.fromkeys(KINDS, 0)
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            sizes[name if name in (WEIGHTS, METRICS) else FEATURES_KIND] += sum(
                len(array.data) for array in record.values()
            )
        else:
            sizes[METRICS] += len(record.deflate())
    return sizes


def _add(total: dict[str, int], sizes: Mapping[str, int]) -> None:
    for kind, size in sizes.items():
        total[kind] += size


def instruction(config_json: str, **values: int | float | list[float]) -> ConfigRecord:
    """Returns what a client needs to know: configuration, version and the request's own numbers."""
    return ConfigRecord({"config": config_json, "version": __version__, **values})
