"""Counts what features take on the wire while they pass from segment to segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tardis_fl.codecs.quantisers import decode, encode
from tardis_fl.codecs.wire import encoded_bytes


class Meter:
    """Carries features over one boundary after the other, batch for batch, and keeps what each codec sends for them.

    Args:
        codecs: Names that differ in their compressor alone: what arrives is the same for all.
    """

    def __init__(self, codecs: Sequence[str]) -> None:
        self._sizes: dict[str, list[npt.NDArray[np.int64]]] = {codec: [] for codec in codecs}

    def __call__(self, features: Tensor) -> Tensor:
        """Returns features (B, ...) as they arrive."""
        encoded = encode(features, next(iter(self._sizes)))
        for codec, sizes in self._sizes.items():
            sizes.append(encoded_bytes(encoded, codec))
        return decode(encoded)

    def crossing_bytes(self, codec: str, num_boundaries: int) -> npt.NDArray[np.int64]:
        """Returns what every sample would send over each boundary: (boundaries, N)."""
        if not num_boundaries:
            return np.zeros((0, 0), np.int64)
        sizes = self._sizes[codec]
        return np.stack(
            [np.concatenate(sizes[boundary::num_boundaries]) for boundary in range(num_boundaries)]
        )
