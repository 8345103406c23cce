"""From the clients' updates to one: what every aggregation rule offers, and the weighted mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from tardis_fl.config.federation import AggregationConfig
from tardis_fl.federation.server.aggregation.plugin_rule import PluginRule
from tardis_fl.federation.server.aggregation.robust import (
    CHUNK_VALUES,
    Median,
    TrimmedMean,
    check_kinds,
    check_weight,
    kinds_of,
)
from tardis_fl.federation.server.aggregation.rules import AggregationRule


class Aggregator(AggregationRule, Protocol):
    """An aggregation rule that tells how many updates it has."""

    @property
    def num_updates(self) -> int:
        """Updates so far."""


def build_aggregator(config: AggregationConfig) -> Aggregator:
    """Returns a round's aggregator; under `norm_clipping` the caller passes updates through `robust.clip_update` first.

    Raises:
        ConfigError: The rule is a user's and can't be had.
    """
    match config.rule:
        case "mean" | "norm_clipping":
            return WeightedMean()
        case "trimmed_mean":
            return TrimmedMean(config.trim_fraction)
        case "median":
            return Median()
        case _:
            return PluginRule(config.rule, config.options)


class WeightedMean:
    """A mean of updates, weighted by samples and summed as they arrive.

    Floating tensors, buffers included, are summed in float64 and divided once, each key by the
    weights of the updates that hold it; integer tensors (`num_batches_tracked`) take the maximum.
    One client alone gives back its own tensors (float32 or narrower) bit for bit. The sum depends
    on the order in the last bits only, and callers add in client order.
    """

    def __init__(self) -> None:
        self._dtypes: dict[str, torch.dtype] = {}
        self._totals: dict[
            str, Tensor
        ] = {}  # float64 sums; of integer keys the maximum, in their own type
        self._weights: dict[str, float] = {}
        self.num_updates = 0

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        """Adds one client's update; see `Aggregator.add`."""
        check_weight(num_samples)
        check_kinds(kinds_of(update), self._kinds())
        for key, tensor in update.items():
            if key not in self._totals:
                self._dtypes[key] = tensor.dtype
                # not zeros with the tensor added: that would lose the sign of a zero, and negative
                # integers
                self._totals[key] = (
                    tensor.double() * num_samples if tensor.is_floating_point() else tensor.clone()
                )
                self._weights[key] = num_samples
                continue
            if tensor.is_floating_point():
                _add_scaled(self._totals[key], tensor, num_samples)
            else:
                torch.maximum(self._totals[key], tensor, out=self._totals[key])
            self._weights[key] += num_samples
        self.num_updates += 1

    @property
    def weights(self) -> Mapping[str, float]:
        """Sum of the weights of the updates that held each key."""
        return self._weights

    def result(self) -> dict[str, Tensor]:
        """Returns the mean of each key over the updates that held it; more may be added afterwards.

        Raises:
            ValueError: There was no update.
        """
        if not self.num_updates:
            raise ValueError("there is no update to average")
        return {
            key: (total / self._weights[key]).to(self._dtypes[key])
            if total.is_floating_point()
            else total.clone()
            for key, total in self._totals.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Returns copies of all that `restore` needs to go on bit for bit.

        The names are `sum.DTYPE.KEY` (float64, as the key's tensors are shaped; DTYPE is theirs),
        `maximum.DTYPE.KEY` for integer keys, `weight.KEY` (float64, 0-d) and `num_updates` (int64,
        0-d).
        """
        state = {"num_updates": torch.tensor(self.num_updates)}
        for key, total in self._totals.items():
            kind = "sum" if total.is_floating_point() else "maximum"
            state[f"{kind}.{str(self._dtypes[key]).removeprefix('torch.')}.{key}"] = total.clone()
            state[f"weight.{key}"] = torch.tensor(self._weights[key], dtype=torch.float64)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a state, in place of what was added here.

        Raises:
            ValueError: The state isn't one of `state`.
        """
        restored = WeightedMean()
        for name, tensor in state.items():
            kind, _, rest = name.partition(".")
            if kind == "num_updates":
                restored.num_updates = int(tensor)
            elif kind == "weight":
                restored._weights[rest] = float(tensor)
            elif kind in ("sum", "maximum"):
                dtype, _, key = rest.partition(".")
                restored._dtypes[key], restored._totals[key] = getattr(torch, dtype), tensor.clone()
            else:
                raise ValueError(f"{name} is not part of a weighted mean's state")
        if "num_updates" not in state or restored._weights.keys() != restored._totals.keys():
            raise ValueError("a weighted mean's state is incomplete")
        self._dtypes, self._totals, self._weights, self.num_updates = (
            restored._dtypes,
            restored._totals,
            restored._weights,
            restored.num_updates,
        )

    def _kinds(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {key: (total.shape, self._dtypes[key]) for key, total in self._totals.items()}


def _add_scaled(total: Tensor, values: Tensor, factor: float) -> None:
    """Adds values times a factor to float64 totals, in float64.

    In pieces, since PyTorch makes a float64 copy of what it adds, and a large new one takes several
    times as long as the sum.
    """
    if values.numel() <= CHUNK_VALUES:
        total.add_(values, alpha=factor)
        return
    rows = max(1, CHUNK_VALUES * len(values) // values.numel())
    for part, added in zip(total.split(rows), values.split(rows), strict=True):
        part.add_(added, alpha=factor)
