"""Our partitioners: even, or skewed by label as papers do it, with those of flwr-datasets."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tardis_fl.core.randomness import integer_seed_of
from tardis_fl.errors import ConfigError

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner as FlowerPartitioner

Indices = npt.NDArray[np.int64]


def iid(labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Deals equal parts of shuffled samples; see `Partitioner`."""
    from flwr_datasets.partitioner import IidPartitioner

    order = np.random.default_rng(_seed(rng)).permutation(len(labels))
    return _dealt(IidPartitioner(num_partitions=num_clients), labels, order)


def dirichlet(
    labels: Indices,
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: float = 1.0,
    min_samples: int = 20,
) -> list[Indices]:
    """Deals each class by shares drawn from a Dirichlet distribution (Hsu et al. 2019).

    Args:
        labels: (N,) of the training samples.
        num_clients: Clients to deal to.
        rng: Gives the seed of the draw.
        alpha: Concentration; smaller is more skewed.
        min_samples: It is drawn again until each client has so many.

    Raises:
        ValueError: No draw of ten gave each client so many.
    """
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        num_partitions=num_clients,
        partition_by="label",
        alpha=alpha,
        min_partition_size=min_samples,
        seed=_seed(rng),
    )
    return _dealt(partitioner, labels, np.arange(len(labels)))


def pathological(
    labels: Indices, num_clients: int, rng: np.random.Generator, *, classes_per_client: int = 2
) -> list[Indices]:
    """Deals each client samples of a few classes, drawn at random; a class may go to nobody.

    Raises:
        ValueError: There are fewer classes.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner

    partitioner = PathologicalPartitioner(
        num_partitions=num_clients,
        partition_by="label",
        num_classes_per_partition=classes_per_client,
        seed=_seed(rng),
    )
    return _dealt(partitioner, labels, np.arange(len(labels)))


def shard(
    labels: Indices, num_clients: int, rng: np.random.Generator, *, shards_per_client: int = 2
) -> list[Indices]:
    """Sorts by label, cuts into pieces and deals these (McMahan et al. 2017).

    Raises:
        ValueError: There are fewer samples than pieces.
    """
    from flwr_datasets.partitioner import ShardPartitioner

    partitioner = ShardPartitioner(
        num_partitions=num_clients,
        partition_by="label",
        num_shards_per_partition=shards_per_client,
        seed=_seed(rng),
    )
    return _dealt(partitioner, labels, np.arange(len(labels)))


def natural(labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Refuses: clients of this scheme have samples of their own, and nothing is dealt.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        "data.partition.scheme: got 'natural'; this data set doesn't say whose its samples are"
    )


def _seed(rng: np.random.Generator) -> int:
    """Returns 32 bits for flwr-datasets, which wants an integer."""
    return integer_seed_of(rng) % 2**32


def _dealt(partitioner: FlowerPartitioner, labels: Indices, order: Indices) -> list[Indices]:
    """Lets a partitioner of flwr-datasets deal samples that come in some order."""
    import datasets

    partitioner.dataset = datasets.Dataset.from_dict({"label": labels[order], "index": order})
    with warnings.catch_warnings():
        # what is left out is said by `partition.undealt`, and what fails raises
        warnings.simplefilter("ignore")
        return [
            np.asarray(partitioner.load_partition(client)["index"], dtype=np.int64)
            for client in range(partitioner.num_partitions)
        ]
