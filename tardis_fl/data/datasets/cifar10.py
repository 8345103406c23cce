"""CIFAR-10 from torchvision's files or from parquet in the Hugging Face layout."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import numpy as np

from tardis_fl.core.torchvision_guard import import_torchvision
from tardis_fl.data.augmentation import Normalisation
from tardis_fl.data.cache import Arrays, cached_arrays, hash_files, key_of
from tardis_fl.data.decoding import decode_images
from tardis_fl.data.images import Dataset, ImageSet
from tardis_fl.errors import DataError

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
NORMALISATION = Normalisation((0.491, 0.482, 0.447), (0.245, 0.243, 0.261))
SPLITS = ("train", "test")
TORCHVISION_FOLDER = "cifar-10-batches-py"
TORCHVISION_ARCHIVE = "cifar-10-python.tar.gz"


class DataMissingError(DataError):
    """There is no data set where one was expected."""


def load_cifar10(root: Path, cache: Path) -> Dataset:
    """Loads CIFAR-10, downloading it to `root` with torchvision where there is none.

    Raises:
        DataMissingError: There is no data and it can't be downloaded.
        DataError: There is data, and it is damaged.
    """
    parquet = find_parquet(root)
    if parquet:
        content_hash = hash_files([path for paths in parquet.values() for path in paths], root)
        arrays = cached_arrays(
            cache, key_of("cifar10-parquet", content_hash), lambda: _decode_parquet(parquet)
        )
        source = f"parquet files in {root}"
    else:
        files = _torchvision_files(root)
        content_hash = hash_files(files, root)
        arrays = cached_arrays(
            cache, key_of("cifar10-torchvision", content_hash), lambda: _decode_torchvision(root)
        )
        source = f"torchvision's files in {root}"
    train, test = (
        ImageSet(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS
    )  # type: ignore[arg-type]
    return Dataset(
        "cifar10",
        source,
        CLASS_NAMES,
        train,
        test,
        synthetic=False,
        content_hash=content_hash,
        normalisation=NORMALISATION,
    )


def find_parquet(root: Path) -> dict[str, list[Path]] | None:
    """Returns the parquet files of both splits below `root`, or None where there are none.

    Raises:
        DataError: One split is there and the other isn't.
    """
    found = (
        {split: sorted(root.rglob(f"{split}*.parquet")) for split in SPLITS}
        if root.is_dir()
        else {}
    )
    if not any(found.values()):
        return None
    for split, paths in found.items():
        if not paths:
            raise DataError(
                f"{root}: there is no {split}-*.parquet beside the other split; put it there"
            )
    return found


def _decode_parquet(parquet: dict[str, list[Path]]) -> Arrays:
    arrays: Arrays = {}
    for split, paths in parquet.items():
        blobs: list[bytes] = []
        labels: list[int] = []
        places: list[str] = []
        for path in paths:
            images, numbers = _read_parquet(path)
            places += [f"{path}, row {row}" for row in range(len(images))]
            blobs += images
            labels += numbers
        wrong = next(
            (
                i
                for i, label in enumerate(labels)
                if not isinstance(label, int) or not 0 <= label < len(CLASS_NAMES)
            ),
            None,
        )
        if wrong is not None:
            raise DataError(
                f"{places[wrong]}: got the label {labels[wrong]!r}, wanted 0 to {len(CLASS_NAMES) - 1}; replace the file"
            )
        arrays[f"{split}_images"] = decode_images(blobs, size=32, resize=False, places=places)
        arrays[f"{split}_labels"] = np.asarray(labels, dtype=np.int64)
    return arrays


def _read_parquet(path: Path) -> tuple[list[bytes], list[int]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); replace the file"
        ) from None
    image_column = next((name for name in ("img", "image") if name in table.column_names), None)
    label_column = next((name for name in ("label", "labels") if name in table.column_names), None)
    if image_column is None or label_column is None:
        raise DataError(
            f"{path}: got the columns {', '.join(table.column_names)}; wanted img {{bytes, path}} and label"
        )
    rows: list[Any] = table[image_column].to_pylist()
    broken = next(
        (i for i, row in enumerate(rows) if not isinstance(row, dict) or not row.get("bytes")), None
    )
    if broken is not None:
        raise DataError(f"{path}, row {broken}: there are no image bytes; replace the file")
    return [row["bytes"] for row in rows], table[label_column].to_pylist()


def _torchvision_files(root: Path) -> list[Path]:
    folder = root / TORCHVISION_FOLDER
    if not folder.is_dir():
        _download(root)
    files = sorted(path for path in folder.glob("*_batch*") if path.is_file())
    if not files:
        raise DataError(
            f"{folder}: the folder holds no batches; remove it, or put torchvision's files there"
        )
    return files


def _download(root: Path) -> None:
    datasets = import_torchvision("torchvision.datasets")
    archive_there = (root / TORCHVISION_ARCHIVE).is_file()
    try:
        root.mkdir(parents=True, exist_ok=True)
        datasets.CIFAR10(str(root), download=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        if archive_there and not isinstance(error, urllib.error.URLError):
            raise DataError(
                f"{root / TORCHVISION_ARCHIVE}: can't be unpacked ({error}); replace the file"
            ) from None
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        reason = getattr(error, "reason", None) or error
        raise DataMissingError(
            f"CIFAR-10 is not in {root}, and it can't be downloaded ({reason}).\n"
            f"Put there either torchvision's folder {TORCHVISION_FOLDER}/ (from {TORCHVISION_ARCHIVE}), or\n"
            "train-*.parquet and test-*.parquet of the Hugging Face data set uoft-cs/cifar10; or point data.root or the\n"
            "environment variable TARDIS_FL_DATA to where they are. To see everything work without any data, run\n"
            "configs/quickstart.yaml, or set data.on_missing: synthetic."
        ) from None


def _decode_torchvision(root: Path) -> Arrays:
    datasets = import_torchvision("torchvision.datasets")
    arrays: Arrays = {}
    for split in SPLITS:
        try:
            dataset = datasets.CIFAR10(str(root), train=split == "train")
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise DataError(
                f"{root / TORCHVISION_FOLDER}: a file is damaged or missing ({error}); remove the folder and put it there again"
            ) from None
        arrays[f"{split}_images"] = dataset.data
        arrays[f"{split}_labels"] = np.asarray(dataset.targets, dtype=np.int64)
    return arrays
