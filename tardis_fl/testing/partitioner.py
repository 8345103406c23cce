"""Is it a partitioner?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tardis_fl.data.partitioners import PARTITIONERS, Partitioner
from tardis_fl.data.partitioners.checking import partition_problem
from tardis_fl.testing.global_state import seeded_globally
from tardis_fl.testing.refusals import Options, failures, name_of, prepared, refuse

Indices = npt.NDArray[np.int64]

WANTED = "the indices of each client's samples, every sample at one client"


def check_partitioner(
    partitioner: str | Partitioner,
    *,
    options: Options | None = None,
    num_samples: int = 1000,
    num_classes: int = 10,
    num_clients: int = 5,
    may_leave_out: bool = False,
) -> None:
    """Checks a partitioner on balanced and on skewed labels.

    Args:
        partitioner: A function of (labels, num_clients, rng), or its name in a configuration.
        options: As `data.partition.options` has them.
        num_samples: Samples to deal.
        num_classes: Classes that they are of.
        num_clients: Clients to deal to; it is also tried for two.
        may_leave_out: Whether samples may go to nobody.

    Raises:
        PluginError: It fails or changes its labels; what it returns are no indices, isn't disjoint,
            leaves a sample or a client out, or is another one for a generator of the same seed.
    """
    name = name_of(partitioner)
    deal = prepared(PARTITIONERS, partitioner, options)
    draw = np.random.default_rng(0)
    skewed = np.minimum(draw.geometric(0.5, num_samples) - 1, num_classes - 1)
    for labels in (np.arange(num_samples) % num_classes, skewed.astype(np.int64)):
        for count in dict.fromkeys((num_clients, 2)):
            _check_parts(name, deal, labels, count, may_leave_out=may_leave_out)


def _check_parts(
    name: str, deal: Partitioner, labels: Indices, num_clients: int, *, may_leave_out: bool
) -> None:
    given = labels.copy()
    with failures(name, f"for {len(labels)} samples and {num_clients} clients"):
        with seeded_globally(1):
            parts = deal(given, num_clients, np.random.default_rng(7))
        with seeded_globally(2):
            again = deal(labels.copy(), num_clients, np.random.default_rng(7))
    problem = partition_problem(parts, len(labels), num_clients)
    if problem is None:
        problem = partition_problem(again, len(labels), num_clients)
    if problem is not None:
        refuse(name, problem, WANTED)
    if not np.array_equal(given, labels):
        refuse(name, "labels that it changed", "them left as they are")
    if any(len(part) == 0 for part in parts):
        empty = next(client for client, part in enumerate(parts) if len(part) == 0)
        refuse(name, f"no sample for client {empty} of {num_clients}", "at least one for each")
    num_dealt = sum(map(len, parts))
    if num_dealt < len(labels) and not may_leave_out:
        got = f"{num_dealt} of {len(labels)} samples dealt to {num_clients} clients"
        refuse(name, got, "all of them (or may_leave_out=True)")
    if not _same(parts, again):
        got = "other indices for a generator of the same seed"
        refuse(name, got, "whatever is random drawn from rng alone")


def _same(parts: Sequence[Indices], again: Sequence[Indices]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
