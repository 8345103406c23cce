"""What travels between server and clients, as Flower records.

Requests hold the weights of the held segments (`weights`) and an `instruction`; replies hold new
weights, features or integer counts (`metrics`). Weights and features never share a message, so
that Flower's mods, which want exactly one array record, can be put around the weights.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
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

NPY = "numpy.ndarray"  # Flower's name for NumPy's file format
State = dict[str, Tensor]


def segments_state(segments: Iterable[nn.Module]) -> State:
    """Returns parameters and buffers of consecutive segments, keyed `0.body...`: the live tensors, not copies."""
    return {f"{number}.{name}": tensor for number, segment in enumerate(segments) for name, tensor in segment.state_dict().items()}


def pack_weights(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Puts a state into a Flower record as one flat array for each segment and type, named `0.float32`.

    A hundred tensors a model, each an array with a header of its own, took longer to pack than to average.
    """
    return ArrayRecord({
        key: _to_array(torch.cat([state[name].detach().reshape(-1) for name in names]).numpy()) for key, names in _flat_layout(state).items()
    })  # fmt: skip


def read_weights(record: ArrayRecord, like: Mapping[str, Tensor]) -> State:
    """Takes flat arrays, still one a segment and type, out of a Flower record.

    Args:
        record: What `pack_weights` made.
        like: A state with the names, shapes and types that are wanted.

    Raises:
        ValueError: Segments are missing or unknown, have another size or type, or hold values that are not finite.
    """
    layout = _flat_layout(like)
    if record.keys() != layout.keys():
        raise ValueError(f"sent other segments than it was asked for (on one side only: {', '.join(sorted(record.keys() ^ layout.keys()))})")
    flat = {key: torch.from_numpy(_from_array(record[key])) for key in layout}
    for key, names in layout.items():
        wanted = (sum(like[name].numel() for name in names),)
        if tuple(flat[key].shape) != wanted or flat[key].dtype != like[names[0]].dtype:
            raise ValueError(f"sent {key} as {tuple(flat[key].shape)} {flat[key].dtype}, wanted {wanted} {like[names[0]].dtype}")
    if not all(torch.isfinite(values).all() for values in flat.values()):
        broken = next(name for name, tensor in unflatten(flat, like).items() if not torch.isfinite(tensor).all())
        raise ValueError(f"sent weights that are not finite ({broken}); a lower federation.client.learning_rate may help")
    return flat


def unflatten(flat: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """Returns the tensors of flat arrays, as views, with the names and shapes of `like`."""
    state: State = {}
    for key, names in _flat_layout(like).items():
        parts = flat[key].split([like[name].numel() for name in names])
        state |= {name: part.view(like[name].shape) for name, part in zip(names, parts, strict=True)}
    return state


def load_weights(flat: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copies flat arrays into the live tensors of `segments_state`."""
    with torch.no_grad():
        for name, tensor in unflatten(flat, into).items():
            into[name].copy_(tensor)


def _flat_layout(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    layout: dict[str, list[str]] = {}
    for name, tensor in state.items():
        layout.setdefault(f"{name.split('.')[0]}.{str(tensor.dtype).removeprefix('torch.')}", []).append(name)
    return layout


def pack_tensors(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Puts tensors into a Flower record, in their logical (not memory) order."""
    return ArrayRecord({name: _to_array(tensor.detach().numpy()) for name, tensor in tensors.items()})


def unpack_tensors(record: ArrayRecord) -> State:
    """Takes tensors out of a Flower record."""
    return {name: torch.from_numpy(_from_array(array)) for name, array in record.items()}


def _to_array(values: npt.NDArray[np.generic]) -> Array:
    """Does what `Array(values)` does, without formatting the same header anew each time."""
    return Array(dtype=str(values.dtype), shape=values.shape, stype=NPY, data=_npy_header(values.dtype.str, values.shape) + values.tobytes())


def _from_array(array: Array) -> npt.NDArray[np.generic]:
    """Does what `array.numpy()` does, which parses a header anew each time, where the header is the usual one."""
    if array.stype == NPY:
        dtype = np.dtype(array.dtype)
        header = _npy_header(dtype.str, tuple(array.shape))
        if array.data.startswith(header):
            return np.frombuffer(array.data, dtype=dtype, offset=len(header)).reshape(array.shape).copy()
    return array.numpy()


@lru_cache(maxsize=4096)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Returns the header of NumPy's file format for an array in C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


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
