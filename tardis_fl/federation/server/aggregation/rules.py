"""Aggregation rules by name: what the server makes of the clients' updates.

A rule of your own is a class, named as MODULE:CLASS at `federation.aggregation.rule` or registered
here in a module that the key `plugins` lists:

    @AGGREGATION_RULES.register("geometric_median")
    class GeometricMedian:
        def __init__(self, *, iterations: int = 20): ...
        def add(self, update, num_samples): ...
        def result(self): ...

One is made for each round. Its options stand at `federation.aggregation.options`.
`tardis_fl.testing.check_aggregator` tests it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from tardis_fl.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class AggregationRule(Protocol):
    """Makes one update of those of a round.

    Clients may hold different segments: each key is aggregated over the updates that hold it.
    """

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        """Adds one client's update.

        Args:
            update: Tensors by key, finite, of the same shape and dtype in all updates that hold the
                key. They may be kept, and mustn't be changed.
            num_samples: The client's training samples, its weight where the rule weighs; a late
                update's is discounted.

        Raises:
            ValueError: The weight isn't positive, or a shape or dtype differs from that of the
                key's first; nothing was added. The client counts as failed.
        """

    def result(self) -> dict[str, Tensor]:
        """Returns the keys that at least one update held, in the tensors' own types.

        Raises:
            ValueError: There was no update.
        """


AGGREGATION_RULES: Registry[Callable[..., AggregationRule]] = Registry(
    "aggregation rule",
    key="federation.aggregation.rule",
    wants="a class with the methods add(update, num_samples) and result()",
    form="MODULE:CLASS",
    options_key="federation.aggregation.options",
)
_ROOM = "tardis_fl.federation.server.aggregation"
AGGREGATION_RULES.register("mean", f"{_ROOM}.weighted_mean:WeightedMean")
AGGREGATION_RULES.register("trimmed_mean", f"{_ROOM}.robust:TrimmedMean")
AGGREGATION_RULES.register("median", f"{_ROOM}.robust:Median")
AGGREGATION_RULES.register("norm_clipping", f"{_ROOM}.weighted_mean:WeightedMean")

OWN_RULES = AGGREGATION_RULES.names()
