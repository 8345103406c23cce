"""Images that belong to their clients: root/clients/NAME/CLASS/* and root/test/CLASS/*, or each client's folder on a disk of its own.

A simulation reads all of it. Of a deployment, the server reads the test split alone, and each node
its own client's folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tardis_fl.data.cache import cached_arrays, hash_files, key_of
from tardis_fl.data.datasets.cifar10 import DataMissingError
from tardis_fl.data.datasets.image_folder import decode_splits, list_files
from tardis_fl.data.images import Dataset, ImageSet
from tardis_fl.errors import DataError

CLIENTS, TEST = "clients", "test"


def load_all_clients(
    root: Path, cache: Path, *, size: int, class_names: Sequence[str], num_clients: int
) -> Dataset:
    """Loads the images of all clients, one client after the other, and the test split.

    Raises:
        DataMissingError: A folder isn't there.
        DataError: There are more or fewer clients, a folder is of no class, or an image can't be
            read.
    """
    folders = client_folders(root, num_clients)
    listings = [_list(folder, class_names) for folder in folders]
    test = _list(_there(root / TEST), class_names)
    hashes = [
        _hash(listing, folder)
        for listing, folder in zip([test, *listings], [root / TEST, *folders], strict=True)
    ]
    content_hash = joint_hash(hashes[0], hashes[1:])
    splits = {"train": [entry for listing in listings for entry in listing], "test": test}
    arrays = cached_arrays(
        cache, key_of("client_folders", size, content_hash), lambda: decode_splits(splits, size)
    )
    sets = [ImageSet(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in splits]  # type: ignore[arg-type]
    return Dataset(
        root.name,
        f"a folder for each client in {root / CLIENTS}",
        tuple(class_names),
        *sets,
        synthetic=False,
        content_hash=content_hash,
        client_sizes=tuple(map(len, listings)),
    )


def load_one_client(folder: Path, cache: Path, *, size: int, class_names: Sequence[str]) -> Dataset:
    """Loads a client's own images, as its node sees them: there is no test split.

    Raises:
        DataMissingError: The folder isn't there.
        DataError: It holds a folder of no class, or an image can't be read.
    """
    train = _load(folder, cache, size, class_names)
    none = ImageSet(np.empty((0, size, size, 3), np.uint8), np.empty(0, np.int64))
    content_hash = _hash(_list(folder, class_names), folder)
    return Dataset(
        folder.name,
        f"its own folder {folder}",
        tuple(class_names),
        train,
        none,
        synthetic=False,
        content_hash=content_hash,
        client_sizes=(len(train),),
    )


def load_servers_side(root: Path, cache: Path, *, size: int, class_names: Sequence[str]) -> Dataset:
    """Loads what a server whose nodes keep the images has: the test split.

    What nodes hold comes with `with_clients`.

    Raises:
        DataMissingError: There is no test split.
        DataError: It holds a folder of no class, or an image can't be read.
    """
    folder = root / TEST
    test = _load(folder, cache, size, class_names)
    none = ImageSet(np.empty((0, *test.images.shape[1:]), np.uint8), np.empty(0, np.int64))
    source = f"each client's images on its node, test images in {folder}"
    return Dataset(
        root.name,
        source,
        tuple(class_names),
        none,
        test,
        synthetic=False,
        content_hash=_hash(_list(folder, class_names), folder),
        client_sizes=(),
    )


def with_clients(
    servers_side: Dataset, label_counts: npt.NDArray[np.int64], hashes: Sequence[str]
) -> Dataset:
    """Returns the server's data set with the labels of the images that it doesn't have.

    Args:
        servers_side: Its test split.
        label_counts: (clients, classes) images that each client told of; a folder's images are
            listed class by class.
        hashes: Of each client's content.
    """
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in label_counts])
    return replace(
        servers_side,
        train=replace(servers_side.train, labels=labels),
        client_sizes=tuple(label_counts.sum(axis=1).tolist()),
        content_hash=joint_hash(servers_side.content_hash, hashes),
    )


def client_folders(root: Path, num_clients: int) -> list[Path]:
    """Lists the clients' folders in root/clients, 2 before 10.

    Raises:
        DataMissingError: There is no root/clients.
        DataError: There are more or fewer than clients.
    """
    parent = root / CLIENTS
    if not parent.is_dir():
        raise DataMissingError(
            f"{parent}: there is no such folder; wanted {CLIENTS}/NAME/CLASS/* with images below data.root, a folder for each client"
        )
    found = sorted(
        (path for path in parent.iterdir() if path.is_dir()),
        key=lambda path: [(len(part), part) for part in re.split(r"(\d+)", path.name)],
    )
    if len(found) != num_clients:
        raise DataError(
            f"{parent}: got {len(found)} folders of clients; wanted {num_clients}, one for each of federation.num_clients"
        )
    return found


def joint_hash(test: str, clients: Iterable[str]) -> str:
    """Returns the digest of a data set whose parts lie on several machines."""
    return hashlib.sha256("".join([test, *clients]).encode()).hexdigest()


def _load(folder: Path, cache: Path, size: int, class_names: Sequence[str]) -> ImageSet:
    listing = _list(_there(folder), class_names)
    key = key_of("client_folder", size, list(class_names), _hash(listing, folder))
    arrays = cached_arrays(cache, key, lambda: decode_splits({"own": listing}, size))
    return ImageSet(arrays["own_images"], arrays["own_labels"])  # type: ignore[arg-type]


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataMissingError(
            f"{folder}: there is no such folder; wanted CLASS/* with images in it"
        )
    return folder


def _list(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    unknown = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(class_names))
    if unknown:
        raise DataError(
            f"{folder / unknown[0]}: no class of this name; wanted {', '.join(class_names)} (data.classes)"
        )
    return list_files(folder, class_names)


def _hash(listing: Sequence[tuple[Path, int]], folder: Path) -> str:
    return hash_files([path for path, _ in listing], folder)
