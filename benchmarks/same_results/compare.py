"""Compares what two versions of the project left in a folder: everything but times, bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

Kind = Literal["changed", "removed", "added", "reworded"]
FAILING: tuple[Kind, ...] = ("changed", "removed")

# What may differ between two runs of the same version: times, and what the machine was.
IGNORED_KEYS = frozenset({"seconds"})
IGNORED_FILES = frozenset({"environment.json"})
# A manifest has the hashes of its weights' files, which are compared tensor by tensor.
IGNORED_KEYS_OF_FILES = {"manifest.json": frozenset({"sha256", "made_by"})}
# Of a checkpoint only its effect is a contract, and that is what a resumed case shows.
IGNORED_FOLDERS = frozenset({"checkpoint", "__pycache__"})
# Sentences for a person. Their wording may improve; the figures in them may not change.
PROSE_KEYS = frozenset({"message", "reason", "warnings", "target", "promise", "what", "fewer"})

NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")
LONGEST_VALUE = 60
SAFETENSORS_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Difference:
    """One place where two results differ.

    Attributes:
        kind: changed and removed fail; added is what only the new side has; reworded is another
            wording with the same figures.
        where: File and the path of the key in it, such as `run/report.json: exits.0.accuracy`.
        old: What the old side has there, shortened.
        new: What the new side has there, shortened.
    """

    kind: Kind
    where: str
    old: str = ""
    new: str = ""

    @property
    def fails(self) -> bool:
        """Whether the results count as different because of it."""
        return self.kind in FAILING

    def __str__(self) -> str:
        if self.kind in ("added", "removed"):
            return f"{self.kind} {self.where}"
        return f"{self.kind} {self.where}: {self.old} -> {self.new}"


def compare_folders(old: Path, new: Path) -> list[Difference]:
    """Compares all results in two folders.

    Weights (`*.safetensors`) and arrays (`*.npz`) are compared by dtype, shape and bytes; `*.json`,
    `*.jsonl` and `*.yaml` value by value; `*.csv` as text. Of other files only the names count.

    Args:
        old: Folder of the old side.
        new: Folder of the new side.

    Returns:
        The differences, in the order of the files' names.
    """
    old_files = set(_files(old))
    new_files = set(_files(new))
    found = []
    for name in sorted(old_files | new_files):
        if name not in new_files:
            found.append(Difference("removed", name))
        elif name not in old_files:
            found.append(Difference("added", name))
        else:
            found += _compare_files(old / name, new / name, name)
    return found


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        ignored = path.name in IGNORED_FILES or path.name.startswith(".")
        if path.is_file() and not ignored and not IGNORED_FOLDERS & set(relative.parts):
            yield relative.as_posix()


def _compare_files(old: Path, new: Path, name: str) -> Iterator[Difference]:
    ignored = IGNORED_KEYS | IGNORED_KEYS_OF_FILES.get(old.name, frozenset())
    if old.suffix == ".safetensors":
        yield from _compare_arrays(_tensors(old), _tensors(new), name)
    elif old.suffix == ".npz":
        yield from _compare_arrays(_arrays(old), _arrays(new), name)
    elif old.suffix == ".json":
        yield from _compare(json.loads(old.read_text()), json.loads(new.read_text()), name, ignored)
    elif old.suffix == ".jsonl":
        yield from _compare(_lines(old), _lines(new), name, ignored)
    elif old.suffix == ".yaml":
        old_values = yaml.safe_load(old.read_text())
        yield from _compare(old_values, yaml.safe_load(new.read_text()), name, ignored)
    elif old.suffix == ".csv" and old.read_text() != new.read_text():
        yield Difference("changed", name, "its text", "another text")


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class _Array:
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def _arrays(path: Path) -> dict[str, _Array]:
    with np.load(path) as file:
        return {
            name: _Array(str(file[name].dtype), file[name].shape, file[name].tobytes())
            for name in file.files
        }


def _tensors(path: Path) -> dict[str, _Array]:
    """Reads a safetensors file without a library, so that types that numpy lacks are compared too.

    The file is the header's length (8 bytes, little endian), the header (JSON), and the data, which
    the header's offsets count from (https://github.com/huggingface/safetensors).
    """
    content = path.read_bytes()
    start = SAFETENSORS_LENGTH_BYTES + int.from_bytes(content[:SAFETENSORS_LENGTH_BYTES], "little")
    header = json.loads(content[SAFETENSORS_LENGTH_BYTES:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        data = content[start + begin : start + end]
        tensors[name] = _Array(entry["dtype"], tuple(entry["shape"]), data)
    return tensors


def _compare_arrays(
    old: Mapping[str, _Array], new: Mapping[str, _Array], name: str
) -> Iterator[Difference]:
    for key in sorted(old.keys() | new.keys()):
        where = f"{name}: {key}"
        if key not in new:
            yield Difference("removed", where)
        elif key not in old:
            yield Difference("added", where)
        elif old[key] != new[key]:
            yield Difference("changed", where, *_described(old[key], new[key]))


def _described(old: _Array, new: _Array) -> tuple[str, str]:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{old.dtype} {list(old.shape)}", f"{new.dtype} {list(new.shape)}"
    pairs = zip(old.data, new.data, strict=True)
    count = sum(one != other for one, other in pairs)
    return f"{len(old.data)} bytes", f"{count} of them differ"


def _compare(old: object, new: object, where: str, ignored: frozenset[str]) -> Iterator[Difference]:
    """Compares two values from JSON.

    Args:
        old: The old side's.
        new: The new side's.
        where: File and path of the key.
        ignored: Keys that are left out.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _compare_mappings(old, new, where, ignored)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _compare_lists(old, new, where, ignored)
    elif type(old) is not type(new) or repr(old) != repr(new):
        # By repr, so that NaN equals NaN and 0.0 isn't -0.0; floats are written exactly by it.
        same_figures = _is_prose(where) and NUMBER.findall(str(old)) == NUMBER.findall(str(new))
        both_text = isinstance(old, str) and isinstance(new, str)
        kind: Kind = "reworded" if both_text and same_figures else "changed"
        yield Difference(kind, where, _short(old), _short(new))


def _compare_mappings(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str, ignored: frozenset[str]
) -> Iterator[Difference]:
    for key in [*old, *(key for key in new if key not in old)]:
        if key in ignored:
            continue
        inner = f"{where}.{key}" if ": " in where else f"{where}: {key}"
        if key not in new:
            yield Difference("removed", inner)
        elif key not in old:
            yield Difference("added", inner)
        else:
            yield from _compare(old[key], new[key], inner, ignored)


def _compare_lists(
    old: list[Any], new: list[Any], where: str, ignored: frozenset[str]
) -> Iterator[Difference]:
    if len(old) != len(new):
        # What a longer list has more of is no new key, but another result.
        yield Difference("changed", where, f"{len(old)} entries", f"{len(new)} entries")
        return
    for number, (old_entry, new_entry) in enumerate(zip(old, new, strict=True)):
        inner = f"{where}.{number}" if ": " in where else f"{where}: {number}"
        yield from _compare(old_entry, new_entry, inner, ignored)


def _is_prose(where: str) -> bool:
    return bool(PROSE_KEYS & set(where.partition(": ")[2].split(".")))


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
