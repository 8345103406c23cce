"""Dealing the training split to clients: from a partitioner to shards with roles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from tardis_fl.config.data import PartitionConfig
from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, numpy_generator
from tardis_fl.data.cache import Arrays, cache_folder, cached_arrays, key_of
from tardis_fl.data.images import Dataset
from tardis_fl.data.partitioners import OWN_KEYS, PARTITIONERS
from tardis_fl.data.partitioners.checking import deal_by_plugin
from tardis_fl.data.roles import Indices, Shard, hold_out
from tardis_fl.errors import DataError

MEND = {
    "iid": "deal more training images (data.max_train_samples)",
    "dirichlet": "raise data.partition.alpha (larger is more even)",
    "pathological": "raise data.partition.classes_per_client",
    "shard": "raise data.partition.shards_per_client",
    "natural": "give this client more images",
}


class Partition:
    """The shards of clients; one is cut from the stored order when it is asked for.

    Args:
        order: Indices of the samples, client after client.
        bounds: (clients + 1,) where each client's begin in it.
        config: With the fractions of the roles.
        proxy: Sorted indices of the samples that the server keeps and no client holds.
        first: Number of the first client: 0, or the only one's on a node that keeps its own images.
    """

    def __init__(
        self,
        order: Indices,
        bounds: Indices,
        config: Config,
        *,
        proxy: Indices | None = None,
        first: int = 0,
    ) -> None:
        self._order, self._bounds, self._config, self._first = order, bounds, config, first
        self.proxy = np.empty(0, dtype=np.int64) if proxy is None else proxy

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def shard(self, client: int) -> Shard:
        """Returns one client's shard with its roles.

        Raises:
            DataError: It is too small to hold out from or to train on.
        """
        data = self._config.data
        place = client - self._first
        indices = np.asarray(self._order[self._bounds[place] : self._bounds[place + 1]])
        return hold_out(
            client,
            indices,
            fit_fraction=data.fit_fraction,
            calibration_fraction=data.calibration_fraction,
            seed=self._config.seed,
            mend=_remedy(data.partition.scheme),
        )

    def shards(self) -> list[Shard]:
        """Returns the shards of all clients, in their order."""
        return [self.shard(client) for client in range(self._first, self._first + len(self))]


def load_partition(config: Config, dataset: Dataset, *, client: int | None = None) -> Partition:
    """Deals the training split; the draw is kept in the cache, so a later process needs no partitioner.

    Args:
        config: The configuration.
        dataset: Whose clients' sizes are known where each has its own images.
        client: The client whose images this node keeps; None: this is no such node.

    Raises:
        DataError: The scheme can't deal these labels to so many clients, or a client has too few
            images.
    """
    if dataset.client_sizes is not None:
        return _natural(config, dataset.client_sizes, first=client or 0)
    settings, num_clients = config.data.partition, config.federation.num_clients
    proxy = proxy_samples(len(dataset.train), config)

    def make() -> Arrays:
        left = np.setdiff1d(np.arange(len(dataset.train)), proxy)
        parts = [
            left[part]
            for part in deal(
                dataset.train.labels[left], settings, num_clients=num_clients, seed=config.seed
            )
        ]
        return {"order": np.concatenate(parts), "bounds": np.cumsum([0, *map(len, parts)])}

    if settings.scheme in OWN_KEYS:
        key = key_of(
            "partition",
            dataset.content_hash,
            len(dataset.train),
            config.data.max_train_samples,
            settings.model_dump(exclude={"options"}),
            num_clients,
            config.seed,
            len(proxy),
        )
        arrays = cached_arrays(cache_folder(config.runtime.cache_dir), key, make)
    else:
        arrays = make()  # a user's function may change from run to run, and what it imports too
    return Partition(arrays["order"], arrays["bounds"], config, proxy=proxy)  # type: ignore[arg-type]


def _natural(config: Config, sizes: Sequence[int], *, first: int) -> Partition:
    wanted = config.data.partition.min_samples
    small = next((client for client, size in enumerate(sizes, first) if size < wanted), None)
    if small is not None:
        raise DataError(
            f"client {small}: its own {sizes[small - first]} images are fewer than data.partition.min_samples = {wanted}; {MEND['natural']} or lower min_samples"
        )
    return Partition(np.arange(sum(sizes)), np.cumsum([0, *sizes]), config, first=first)


def proxy_samples(num_samples: int, config: Config) -> Indices:
    """Returns the sorted indices of the samples that the server keeps; none where it trains on no proxy data."""
    fraction = config.federation.proxy_fraction
    if config.federation.server_training != "proxy" or fraction is None:
        return np.empty(0, dtype=np.int64)
    order = numpy_generator(config.seed, Purpose.PROXY).permutation(num_samples)
    return np.sort(order[: max(1, round(fraction * num_samples))])


def deal(
    labels: npt.NDArray[np.int64], settings: PartitionConfig, *, num_clients: int, seed: int
) -> list[Indices]:
    """Returns each client's sample indices; every sample goes to exactly one client or, where a scheme leaves a rest, to none.

    Args:
        labels: (N,) labels of the training split.
        settings: The scheme and its numbers.
        num_clients: Shards to make.
        seed: The run's seed.

    Raises:
        ConfigError: The scheme is a user's and fails or returns something else.
        DataError: The scheme can't deal these labels so.
    """
    if num_clients * settings.min_samples > len(labels):
        raise DataError(
            f"federation.num_clients: got {num_clients} clients for {len(labels)} training samples, at least data.partition.min_samples = {settings.min_samples} each; "
            "wanted fewer clients, more data or a smaller min_samples"
        )
    if settings.scheme in OWN_KEYS:
        parts = _deal_by_own_scheme(labels, settings, num_clients, seed)
    else:
        parts = deal_by_plugin(
            labels, num_clients, scheme=settings.scheme, options=settings.options, seed=seed
        )
    small = next(
        (client for client, part in enumerate(parts) if len(part) < settings.min_samples), None
    )
    if small is not None:
        raise DataError(
            f"client {small}: its shard of {len(parts[small])} samples is smaller than data.partition.min_samples = {settings.min_samples}; "
            f"{_remedy(settings.scheme)}, lower min_samples or use fewer clients (federation.num_clients)"
        )
    return parts


def _deal_by_own_scheme(
    labels: npt.NDArray[np.int64], settings: PartitionConfig, num_clients: int, seed: int
) -> list[Indices]:
    """Deals by one of our schemes, which take keys of `data.partition`."""
    options = {key: getattr(settings, key) for key in OWN_KEYS[settings.scheme]}
    partitioner = partial(PARTITIONERS.resolve(settings.scheme), **options)
    try:
        return list(partitioner(labels, num_clients, numpy_generator(seed, Purpose.PARTITION)))
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"data.partition: the scheme {settings.scheme!r} can't deal {len(labels)} samples to {num_clients} clients: "
            f"{' '.join(str(error).split())} To mend it: {_remedy(settings.scheme)}, lower data.partition.min_samples or use fewer clients (federation.num_clients)."
        ) from None


def _remedy(scheme: str) -> str:
    return MEND.get(scheme, "change data.partition.options")


def label_counts(
    shards: Sequence[Shard], labels: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.int64]:
    """Returns how many samples of each class each client holds, over all its roles: (clients, classes)."""
    held = (np.concatenate([shard.train, shard.fit, shard.calibrate]) for shard in shards)
    return np.stack([np.bincount(labels[indices], minlength=num_classes) for indices in held])


def undealt(
    counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], class_names: Sequence[str]
) -> str | None:
    """Returns a warning where a scheme gave training images to nobody, else None."""
    left = np.bincount(labels, minlength=len(class_names)) - counts.sum(axis=0)
    if not left.any():
        return None
    names = ", ".join(name for name, count in zip(class_names, left, strict=True) if count)
    return f"{left.sum():,} of {len(labels):,} training images belong to no client (of the classes {names}); the partition scheme leaves them out"
