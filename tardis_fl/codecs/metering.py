"""Counts what features take on the wire while they pass from segment to segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tardis_fl.codecs.codec import codec_of


class Meter:
    """Carries features over one boundary after the other, batch for batch, and counts their bytes.

    Args:
        codecs: Names of codecs through which the same arrives: one, or several that differ in their
            compressor alone.
    """

    def __init__(self, codecs: Sequence[str]) -> None:
        self._codecs = {name: codec_of(name) for name in codecs}
        self._sizes: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in codecs}

    def __call__(self, features: Tensor) -> Tensor:
        """Returns features (B, ...) as they arrive."""
        first = next(iter(self._codecs.values()))
        encoded = first.encode(features)
        for name, codec in self._codecs.items():
            self._sizes[name].append(codec.num_bytes(encoded))
        return first.decode(encoded)

    def crossing_bytes(self, codec: str, num_boundaries: int) -> npt.NDArray[np.int64]:
        """Returns what every sample would send over each boundary: (boundaries, N)."""
        if not num_boundaries:
            return np.zeros((0, 0), np.int64)
        sizes = self._sizes[codec]
        return np.stack(
            [np.concatenate(sizes[boundary::num_boundaries]) for boundary in range(num_boundaries)]
        )
