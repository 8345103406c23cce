"""From a configuration to a data set: which loader, and what to do when there is nothing to load."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tardis_fl.config.data import DataConfig
from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, numpy_generator
from tardis_fl.data.cache import cache_folder
from tardis_fl.data.datasets.cifar10 import CLASS_NAMES, DataMissingError, load_cifar10
from tardis_fl.data.datasets.client_folders import (
    TEST,
    client_folders,
    load_all_clients,
    load_one_client,
    load_servers_side,
)
from tardis_fl.data.datasets.image_folder import class_folders, load_image_folder
from tardis_fl.data.datasets.synthetic import load_synthetic
from tardis_fl.data.images import Dataset, ImageSet


def data_root(data: DataConfig) -> Path:
    """Returns the data set's folder: TARDIS_FL_DATA, else `data.root`."""
    return Path(os.environ.get("TARDIS_FL_DATA") or data.root).expanduser()


def load_dataset(config: Config, root: str | None = None, *, client: int | None = None) -> Dataset:
    """Loads the configured data set, or what of it is on this machine; see `Dataset.warnings` for what was done instead.

    Args:
        config: The configuration.
        root: Its folder here; None: as `data_root` says. Where nodes keep their images, the folder
            of the client's own.
        client: The client whose images this node keeps; None: this is no such node.

    Raises:
        DataError: The data is missing or damaged, and `data.on_missing` doesn't allow for it.
    """
    given, cache = Path(root).expanduser() if root else None, cache_folder(config.runtime.cache_dir)
    if config.data.partition.scheme == "natural":
        dataset = _load_natural(config, given, cache, client)
    else:
        dataset = _load(config.data, given or data_root(config.data), cache)
    return replace(
        dataset,
        train=_subset(dataset.train, config.data.max_train_samples, config.seed, 0),
        test=_subset(dataset.test, config.data.max_test_samples, config.seed, 1),
    )


def count_classes(data: DataConfig) -> int:
    """Returns the number of classes without reading an image.

    Raises:
        DataError: The image folders aren't there.
    """
    if data.partition.scheme == "natural":
        return len(natural_classes(data))
    if data.dataset == "image_folder":
        return len(class_folders(data_root(data)))
    return len(CLASS_NAMES)


def natural_classes(data: DataConfig) -> list[str]:
    """Returns the names of the classes where each client has its own images: as configured, else the folders of the test split.

    Raises:
        DataError: There is no test split.
    """
    return list(data.classes) if data.classes is not None else class_folders(data_root(data), TEST)


def _load_natural(config: Config, given: Path | None, cache: Path, client: int | None) -> Dataset:
    data, num_clients, size = config.data, config.federation.num_clients, config.data.image_size
    root, class_names = data_root(data), natural_classes(data)
    if client is not None:
        return load_one_client(
            given or client_folders(root, num_clients)[client],
            cache,
            size=size,
            class_names=class_names,
        )
    if config.nodes_keep_images:
        return load_servers_side(root, cache, size=size, class_names=class_names)
    return load_all_clients(
        root, cache, size=size, class_names=class_names, num_clients=num_clients
    )


def _load(data: DataConfig, root: Path, cache: Path) -> Dataset:
    try:
        if data.dataset == "cifar10":
            return load_cifar10(root, cache)
        if data.dataset == "image_folder":
            return load_image_folder(root, cache, size=data.image_size)
    except DataMissingError as error:
        if data.on_missing == "error":
            raise
        reason = str(error).splitlines()[0]
        warning = f"SYNTHETIC DATA, not {data.dataset}: {reason} data.on_missing is 'synthetic', so every figure here is of generated images."
        return replace(_synthetic(data, cache), warnings=(warning,))
    return _synthetic(data, cache)


def _synthetic(data: DataConfig, cache: Path) -> Dataset:
    settings = data.synthetic
    return load_synthetic(
        cache,
        num_train=settings.num_train,
        num_test=settings.num_test,
        hard_fraction=settings.hard_fraction,
    )


def _subset(split: ImageSet, limit: int | None, seed: int, key: int) -> ImageSet:
    if limit is None or limit >= len(split):
        return split
    chosen = np.sort(numpy_generator(seed, Purpose.SUBSET, key).permutation(len(split))[:limit])
    return ImageSet(split.images[chosen], split.labels[chosen])
