"""Is it an aggregation rule?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tardis_fl.federation.server.aggregation.plugin_rule import aggregate_problem
from tardis_fl.federation.server.aggregation.robust import kinds_of
from tardis_fl.federation.server.aggregation.rules import AGGREGATION_RULES, AggregationRule
from tardis_fl.testing.global_state import seeded_globally
from tardis_fl.testing.refusals import Options, failures, name_of, prepared, refuse

Update = dict[str, Tensor]
Make = Callable[..., AggregationRule]


def check_aggregator(
    rule: str | Make,
    *,
    options: Options | None = None,
    num_clients: int = 5,
    unanimous: bool = True,
) -> None:
    """Checks an aggregation rule on updates of clients of different depth.

    Args:
        rule: A class with add(update, num_samples) and result(), or its name in a configuration.
        options: As `federation.aggregation.options` has them.
        num_clients: Clients that send an update.
        unanimous: Whether updates that are all alike must give just that update.

    Raises:
        PluginError: It fails, changes an update, needs more than one; or its result has other keys,
            shapes or types, isn't finite, or is another one for the same updates.
    """
    name = name_of(rule)
    make = prepared(AGGREGATION_RULES, rule, options)
    updates = _updates(num_clients)
    first, again = (_aggregate(name, make, updates, seed) for seed in (1, 2))
    for key, value in first.items():
        if not torch.equal(value, again[key]):
            refuse(name, f"another {key!r} for the same updates", "no randomness of its own")
    _aggregate(name, make, updates[:1], 1)
    if unanimous:
        for key, value in _aggregate(name, make, updates[-1:] * num_clients, 1).items():
            if not torch.allclose(value.double(), updates[-1][key].double(), rtol=1e-4, atol=1e-6):
                got = f"another {key!r} than all updates hold"
                refuse(name, got, "that update (or unanimous=False)")


def _updates(num_clients: int) -> list[Update]:
    """Returns updates as clients send them: flat, of shallow and of deep clients, with counters."""
    generator = torch.Generator().manual_seed(0)
    updates = []
    for client in range(num_clients):
        update = {
            "0.body.float32": torch.randn(40, generator=generator),
            "0.body.int64": torch.tensor([client, 3]),
            "0.exit.float32": torch.randn(12, generator=generator),
        }
        is_deep = client >= num_clients // 2
        if is_deep:
            update["1.body.float32"] = 1 + torch.randn(25, generator=generator)
        updates.append(update)
    return updates


def _aggregate(name: str, make: Make, updates: Sequence[Update], seed: int) -> Mapping[str, Tensor]:
    """Returns what a new aggregator makes of some updates, after it is checked."""
    kinds = {key: kind for update in updates for key, kind in kinds_of(update).items()}
    with seeded_globally(seed), failures(name, f"for {len(updates)} updates"):
        aggregator = make()
        for method in ("add", "result"):
            if not callable(getattr(aggregator, method, None)):
                got = f"a {type(aggregator).__name__} without the method {method}"
                refuse(name, got, AGGREGATION_RULES.wants)
        for number, update in enumerate(updates):
            given = {key: tensor.clone() for key, tensor in update.items()}
            aggregator.add(given, 10.0 * (number + 1))
            _check_unchanged(name, given, update)
        found = aggregator.result()
    problem = aggregate_problem(found, kinds)
    if problem is not None:
        refuse(name, f"as the result of {len(updates)} updates {problem}", AGGREGATION_RULES.wants)
    return found


def _check_unchanged(name: str, given: Update, update: Update) -> None:
    for key, tensor in update.items():
        if key not in given or not torch.equal(given[key], tensor):
            refuse(name, f"an update whose {key!r} it changed", "it left as it is")
