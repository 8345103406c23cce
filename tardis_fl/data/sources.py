"""From a configuration to a data set: which loader, and what to do when there is nothing to load."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tardis_fl.config.schema import Config, DataConfig
from tardis_fl.data.cache import cache_folder
from tardis_fl.data.cifar10 import CLASS_NAMES, DataMissingError, load_cifar10
from tardis_fl.data.image_folder import class_folders, load_image_folder
from tardis_fl.data.images import Dataset, ImageSet
from tardis_fl.data.synthetic import load_synthetic
from tardis_fl.randomness import Purpose, numpy_generator


def data_root(data: DataConfig) -> Path:
    """Returns the data set's folder: TARDIS_FL_DATA, else `data.root`."""
    return Path(os.environ.get("TARDIS_FL_DATA") or data.root).expanduser()


def load_dataset(config: Config, root: str | None = None) -> Dataset:
    """Loads the configured data set; see `Dataset.warnings` for what was done instead.

    Args:
        config: The configuration.
        root: Its folder here; None: as `data_root` says.

    Raises:
        DataError: The data is missing or damaged, and `data.on_missing` doesn't allow for it.
    """
    dataset = _load(config.data, Path(root).expanduser() if root else data_root(config.data), cache_folder(config.runtime.cache_dir))
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
    if data.dataset == "image_folder":
        return len(class_folders(data_root(data)))
    return len(CLASS_NAMES)


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
    return load_synthetic(cache, num_train=settings.num_train, num_test=settings.num_test, hard_fraction=settings.hard_fraction)


def _subset(split: ImageSet, limit: int | None, seed: int, key: int) -> ImageSet:
    if limit is None or limit >= len(split):
        return split
    chosen = np.sort(numpy_generator(seed, Purpose.SUBSET, key).permutation(len(split))[:limit])
    return ImageSet(split.images[chosen], split.labels[chosen])
