"""A user's partitioner: called, and what it returns is checked before anything rests on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tardis_fl.core.importing import failure_of
from tardis_fl.core.problem import Problem
from tardis_fl.core.randomness import Purpose, numpy_generator
from tardis_fl.data.partitioners import PARTITIONERS
from tardis_fl.errors import ConfigError, TardisError

Indices = npt.NDArray[np.int64]


def deal_by_plugin(
    labels: Indices, num_clients: int, *, scheme: str, options: Mapping[str, Any], seed: int
) -> list[Indices]:
    """Returns the indices of each client's samples by a user's partitioner.

    It is called twice: each process deals by itself, so a function that draws from a global
    generator would give them different shards.

    Args:
        labels: (N,) of the training samples.
        num_clients: Clients to deal to.
        scheme: Its registered name, or MODULE:FUNCTION.
        options: Its own.
        seed: The run's seed.

    Raises:
        ConfigError: There is no such function, it fails, or returns something else than indices.
    """
    partitioner = PARTITIONERS.bound(scheme, options)
    attempts = []
    for _ in range(2):
        generator = numpy_generator(seed, Purpose.PARTITION)
        try:
            found = partitioner(labels.copy(), num_clients, generator)
        except TardisError:
            raise
        except Exception as error:
            raise _refusal(f"{scheme!r}, which fails with {failure_of(error)}") from error
        problem = partition_problem(found, len(labels), num_clients)
        if problem is not None:
            raise _refusal(f"{scheme!r}, which returned {problem}")
        attempts.append([np.asarray(part, dtype=np.int64) for part in found])
    first, second = attempts
    if not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
        raise _refusal(f"{scheme!r}, which returned other indices for a generator of the same seed")
    return first


def partition_problem(found: object, num_samples: int, num_clients: int) -> str | None:
    """Returns what is wrong with what a partitioner returned, to follow `returned`; None: nothing.

    Args:
        found: Should be the indices of each client's samples.
        num_samples: Samples that there are to deal.
        num_clients: Clients to deal to.
    """
    if not isinstance(found, Sequence | np.ndarray):
        return f"a {type(found).__name__} instead of a list"
    if len(found) != num_clients:
        return f"{len(found)} arrays for {num_clients} clients"
    owners = np.full(num_samples, -1)
    for client, part in enumerate(found):
        problem = _part_problem(np.asarray(part), client, owners)
        if problem is not None:
            return problem
    return None


def _part_problem(part: npt.NDArray[Any], client: int, owners: Indices) -> str | None:
    """Returns what is wrong with one client's indices, else enters the client as their owner."""
    if part.ndim != 1 or (part.size and not np.issubdtype(part.dtype, np.integer)):
        return (
            f"an array of {part.dtype} of the shape {part.shape} for client {client} "
            "instead of one of whole numbers of the shape (n,)"
        )
    outside = part[(part < 0) | (part >= len(owners))]
    if outside.size:
        return f"the index {outside[0]} for client {client} of {len(owners)} samples"
    indices = part.astype(np.int64)
    taken = indices[owners[indices] >= 0]
    if taken.size:
        return f"sample {taken[0]} for the clients {owners[taken[0]]} and {client}"
    if len(np.unique(indices)) < len(indices):
        twice = np.flatnonzero(np.bincount(indices) > 1)[0]
        return f"sample {twice} twice for client {client}"
    owners[indices] = client
    return None


def _refusal(got: str) -> ConfigError:
    return ConfigError(str(Problem(PARTITIONERS.key, got, f"wanted {PARTITIONERS.wants}")))
