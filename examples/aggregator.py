"""An aggregation rule of one's own: the geometric median of the clients' updates.

It minimises the weighted sum of distances to all updates, where the mean minimises that of their
squares, so that a few wrong clients can't lead it far astray (RFA, Pillutla et al. 2022).

    python -m tardis_fl.simulate examples/aggregator.yaml
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor


class GeometricMedian:
    """The geometric median of each segment, by Weiszfeld's iterations (algorithm 2 of the paper).

    Args:
        iterations: Steps from the mean towards the median; the paper takes 3.
        smoothing: Distances below count as this, so that no update is divided by 0.
    """

    def __init__(
        self,
        *,
        iterations: Annotated[int, Field(ge=1)] = 8,
        smoothing: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        self.iterations = iterations
        self.smoothing = smoothing
        self.updates: dict[str, list[Tensor]] = {}
        self.weights: dict[str, list[float]] = {}

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        """Keeps one client's update: which of them are far out is known when all have come.

        Raises:
            ValueError: The weight isn't positive, or a tensor isn't shaped as those before it.
        """
        if not 0 < num_samples < math.inf:
            raise ValueError(f"the weight of an update must be positive, got {num_samples}")
        for key, tensor in update.items():
            first = self.updates[key][0] if key in self.updates else tensor
            if tensor.shape != first.shape or tensor.dtype != first.dtype:
                raise ValueError(f"{key} isn't shaped as the first update's")
        for key, tensor in update.items():
            self.updates.setdefault(key, []).append(tensor)
            self.weights.setdefault(key, []).append(num_samples)

    def result(self) -> dict[str, Tensor]:
        """Returns the median of each key over the updates that hold it.

        Raises:
            ValueError: There was no update.
        """
        if not self.updates:
            raise ValueError("there is no update to aggregate")
        return {key: self._median(key) for key in self.updates}

    def _median(self, key: str) -> Tensor:
        stacked = torch.stack(self.updates[key])  # (clients, ...)
        if not stacked.is_floating_point():
            return stacked.max(dim=0).values  # counters of batches
        points = stacked.double().flatten(start_dim=1)  # (clients, values)
        samples = torch.tensor(self.weights[key], dtype=torch.float64)
        median = _weighted_mean(points, samples)
        for _ in range(self.iterations):
            distances = (points - median).norm(dim=1).clamp(min=self.smoothing)
            median = _weighted_mean(points, samples / distances)
        return median.view(stacked.shape[1:]).to(stacked.dtype)


def _weighted_mean(points: Tensor, weights: Tensor) -> Tensor:
    """Returns the mean of points (n, values) by weights (n,)."""
    return weights @ points / weights.sum()
