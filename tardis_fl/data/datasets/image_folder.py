"""Images in folders: root/train/CLASS/* and root/test/CLASS/*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tardis_fl.data.cache import Arrays, cached_arrays, hash_files, key_of
from tardis_fl.data.datasets.cifar10 import SPLITS, DataMissingError
from tardis_fl.data.decoding import decode_images
from tardis_fl.data.images import Dataset, ImageSet
from tardis_fl.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".webp", ".tif", ".tiff"}


def load_image_folder(root: Path, cache: Path, *, size: int) -> Dataset:
    """Loads images from folders and scales them to `size` x `size`.

    Raises:
        DataMissingError: There is no such folder.
        DataError: A split or class is missing, or an image can't be read.
    """
    for split in SPLITS:
        if not (root / split).is_dir():
            raise DataMissingError(
                f"{root / split}: there is no such folder; wanted {split}/CLASS/* with images below data.root"
            )
    class_names = class_folders(root)
    extra = sorted(
        {path.name for path in (root / "test").iterdir() if path.is_dir()} - set(class_names)
    )
    if extra:
        raise DataError(f"{root / 'test' / extra[0]}: this class has no folder below train/")
    listing = {split: list_files(root / split, class_names) for split in SPLITS}
    content_hash = hash_files([path for files in listing.values() for path, _ in files], root)
    arrays = cached_arrays(
        cache, key_of("image_folder", size, content_hash), lambda: decode_splits(listing, size)
    )
    train, test = (
        ImageSet(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS
    )  # type: ignore[arg-type]
    return Dataset(
        root.name,
        f"image folders in {root}",
        tuple(class_names),
        train,
        test,
        synthetic=False,
        content_hash=content_hash,
    )


def class_folders(root: Path, split: str = "train") -> list[str]:
    """Lists the classes: the folders of a split, in order.

    Raises:
        DataMissingError: There is no such split.
        DataError: There are fewer than two classes.
    """
    if not (root / split).is_dir():
        raise DataMissingError(
            f"{root / split}: there is no such folder; wanted {split}/CLASS/* with images below data.root"
        )
    class_names = sorted(path.name for path in (root / split).iterdir() if path.is_dir())
    if len(class_names) < 2:
        raise DataError(f"{root / split}: got {len(class_names)} class folders; wanted at least 2")
    return class_names


def list_files(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Lists the images of the classes in folder/CLASS/**, class by class, with their labels.

    Raises:
        DataError: There is none.
    """
    files = [
        (path, label)
        for label, name in enumerate(class_names)
        if (folder / name).is_dir()
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(
            f"{folder}: there is no image; wanted files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return files


def decode_splits(listing: Mapping[str, Sequence[tuple[Path, int]]], size: int) -> Arrays:
    """Decodes listed images; returns {split}_images (N, size, size, 3) and {split}_labels (N,)."""
    arrays: Arrays = {}
    for split, files in listing.items():
        names = [str(path) for path, _ in files]
        arrays[f"{split}_images"] = decode_images(names, size=size, resize=True, places=names)
        arrays[f"{split}_labels"] = np.asarray([label for _, label in files], dtype=np.int64)
    return arrays
