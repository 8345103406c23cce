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
Arrays = dict[str, npt.NDArray[np.generic]]


def cache_folder(configured: str | None = None) -> Path:
    """Returns the cache folder: TARDIS_FL_CACHE, the configured one, or the user's."""
    chosen = os.environ.get("TARDIS_FL_CACHE") or configured
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tardis_fl"


def key_of(*parts: object) -> str:
    """Returns a short hex key of JSON-able parts."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True, default=str).encode()).hexdigest()[:24]


def hash_files(paths: Iterable[Path]) -> str:
    """Returns one hex digest over names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with open(path, "rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return digest.hexdigest()


def cached_arrays(folder: Path, key: str, make: Callable[[], tuple[Arrays, dict[str, object]]]) -> tuple[Arrays, dict[str, object]]:
    """Returns the arrays of `key` memory-mapped copy-on-write, and the notes stored with them.

    `make` runs only where no process has stored this key before; a second process waits for the
    first. The entry appears in one rename, so an interrupted `make` leaves nothing half-written.

    Raises:
        DataError: If the folder can't be written.
    """
    entry = folder / key
    if not entry.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock"):
                if not entry.is_dir():
                    _store(entry, *make())
        except OSError as error:
            raise DataError(f"cache folder {folder}: {error.strerror or error}; free some space or set TARDIS_FL_CACHE to another folder") from error
    arrays = {path.stem: np.load(path, mmap_mode="c") for path in sorted(entry.glob("*.npy"))}
    return arrays, json.loads((entry / "notes.json").read_text())


def _store(entry: Path, arrays: Arrays, notes: dict[str, object]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array)
        (scratch / "notes.json").write_text(json.dumps(notes))
        scratch.rename(entry)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def entries(folder: Path) -> list[tuple[Path, int]]:
    """Returns the cache's entries with their sizes in bytes."""
    if not folder.is_dir():
        return []
    found = [path for path in sorted(folder.iterdir()) if (path / "notes.json").is_file()]
    return [(path, sum(file.stat().st_size for file in path.iterdir())) for path in found]


def clear(folder: Path) -> tuple[int, int]:
    """Removes every entry of the cache and nothing else; returns how many, and their bytes."""
    found = entries(folder)
    for path, _ in found:
        shutil.rmtree(path)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return len(found), sum(size for _, size in found)
