"""Decoded images on disk: made once, atomically, then memory-mapped by every process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from tardis_fl.errors import DataError

FORMAT = 1  # goes into every key: raise it when the arrays' layout changes
SCRATCH = ".making-"  # a folder that a killed process left behind; `clear` removes it too
Arrays = dict[str, npt.NDArray[np.generic]]


def cache_folder(configured: str | None = None) -> Path:
    """Returns the cache folder: TARDIS_FL_CACHE, the configured one, or the user's."""
    chosen = os.environ.get("TARDIS_FL_CACHE") or configured
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tardis_fl"


def key_of(*parts: object) -> str:
    """Returns a short hex key of JSON-able parts."""
    return hashlib.sha256(
        json.dumps([FORMAT, *parts], sort_keys=True, default=str).encode()
    ).hexdigest()[:24]


def hash_files(paths: Iterable[Path], root: Path) -> str:
    """Returns one hex digest over contents and names, relative to `root`, of files.

    Raises:
        DataError: A file can't be read.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            with open(path, "rb") as file:
                digest.update(
                    f"{path.relative_to(root)}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode()
                )
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror or error})") from None
    return digest.hexdigest()


def cached_arrays(folder: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Returns the arrays of `key` memory-mapped copy-on-write.

    `make` runs only where no process has stored this key before; a second process waits for the
    first. The entry appears in one rename, so an interrupted `make` leaves nothing half-written.

    Raises:
        DataError: The folder can't be written, or an entry of it is damaged.
    """
    entry = folder / key
    if not entry.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{key}.lock")
            lock.acquire()
        except OSError as error:
            raise _unwritable(folder, error) from error
        with lock:
            if not entry.is_dir():
                _store(entry, make())
    try:
        return {path.stem: np.load(path, mmap_mode="c") for path in sorted(entry.glob("*.npy"))}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{entry}: a damaged cache entry ({error}); remove it, or run the command 'cache clear'"
        ) from None


def _store(entry: Path, arrays: Arrays) -> None:
    scratch = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=entry.parent))
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array)
        scratch.rename(entry)
    except OSError as error:
        raise _unwritable(entry.parent, error) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cache folder {folder}: {error.strerror or error}; free some space or set TARDIS_FL_CACHE to another folder"
    )


def entries(folder: Path) -> list[tuple[Path, int]]:
    """Returns the cache's entries with their sizes in bytes."""
    if not folder.is_dir():
        return []
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and (path.name.startswith(SCRATCH) or any(path.glob("*.npy")))
    ]
    return [(path, sum(file.stat().st_size for file in path.iterdir())) for path in found]


def clear(folder: Path) -> tuple[int, int]:
    """Removes every entry of the cache and nothing else; returns how many, and their bytes."""
    found = entries(folder)
    for path, _ in found:
        shutil.rmtree(path)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return len(found), sum(size for _, size in found)
