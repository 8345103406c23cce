"""Averaging segments over the clients that hold them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightedMean:
    """A mean of model states, weighted by samples and summed as updates arrive.

    Floating tensors, buffers included, are summed in float64 and divided once; integer tensors
    (`num_batches_tracked`) take the maximum. One client alone gives back its own tensors bit for
    bit. The sum depends on the order in the last bits only, and callers add in client order.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self.num_samples = 0
        self.num_updates = 0

    def add(self, state: Mapping[str, Tensor], num_samples: int) -> None:
        """Adds one client's state.

        Args:
            state: Tensors by name; all clients send the same names.
            num_samples: The client's training samples, its weight.

        Raises:
            ValueError: The weight isn't positive, or names or shapes differ from the first update's.
        """
        if num_samples <= 0:
            raise ValueError(f"an update must come from at least one sample, got {num_samples}")
        if not self._sums:
            for name, tensor in state.items():
                self._dtypes[name] = tensor.dtype
                self._sums[name] = torch.zeros_like(tensor, dtype=torch.float64 if tensor.is_floating_point() else tensor.dtype)
        if state.keys() != self._sums.keys():
            raise ValueError(f"an update holds other tensors than the first: {sorted(state.keys() ^ self._sums.keys())[:3]}")
        for name, tensor in state.items():
            total = self._sums[name]
            if tensor.shape != total.shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, the first update's has {tuple(total.shape)}")
            if tensor.is_floating_point():
                total.add_(tensor.double(), alpha=num_samples)
            else:
                torch.maximum(total, tensor, out=total)
        self.num_samples += num_samples
        self.num_updates += 1

    def mean(self) -> dict[str, Tensor]:
        """Returns the mean in the tensors' own types.

        Raises:
            ValueError: There was no update.
        """
        if not self.num_updates:
            raise ValueError("there is no update to average")
        return {
            name: (total / self.num_samples).to(self._dtypes[name]) if total.is_floating_point() else total
            for name, total in self._sums.items()
        }  # fmt: skip
