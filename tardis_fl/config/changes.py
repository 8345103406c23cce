"""Single keys of a configuration set by their dotted path: `--set`, sweeps and `with_changes`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from tardis_fl.config.deployment import TARGETS
from tardis_fl.config.keys import section_at
from tardis_fl.config.problem import Problem
from tardis_fl.core.problem import NUMBER_IN_TEXT

Keys = dict[str, Any]


def apply_overrides(raw: Keys, overrides: Sequence[str], root: type[BaseModel]) -> list[Problem]:
    """Sets keys from texts such as `federation.rounds=3`, in their order.

    Args:
        raw: The keys as YAML has them; they are changed in place.
        overrides: Texts of the form `section.key=value`, with a value as in YAML.
        root: The model of the whole configuration, which knows what lists are implied.

    Returns:
        A problem for each text that can't be read or leads nowhere.
    """
    problems: list[Problem] = []
    paths = []
    for override in overrides:
        path, equals, text = override.partition("=")
        path = path.strip()
        if not equals or not path:
            wanted = "wanted section.key=value, such as federation.rounds=3"
            problems.append(Problem(f"--set {override}", "no '='", wanted))
            continue
        paths.append(path)
        try:
            value = _value(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            wanted = "wanted a YAML value: a number, a text, [a, list] or null"
            problems.append(Problem(f"--set {path}", repr(text), wanted))
            continue
        problems += set_key(raw, path, value, root)
    replace_target(raw, paths)
    return problems


def set_key(raw: Keys, path: str, value: Any, root: type[BaseModel]) -> list[Problem]:
    """Sets one key; sections and lists that the path leads through are made where they are implied.

    Returns:
        One problem where the path leads nowhere, else none.
    """
    *parents, last = path.split(".")
    target: Any = raw
    for depth, key in enumerate(parents):
        way = parents[: depth + 1]
        if isinstance(target, list):
            if not _is_entry(target, key):
                return [_no_such_entry(path, key, parents[:depth], target)]
            target = target[int(key)]
        else:
            if target.get(key) is None:
                target[key] = _implied(root, way)
            target = target[key]
        if not isinstance(target, dict | list):
            wanted = f"{'.'.join(way)} is no group of keys"
            return [Problem(path, "a path through a single value", wanted)]
    if not isinstance(target, list):
        target[last] = value
    elif _is_entry(target, last):
        target[int(last)] = value
    else:
        return [_no_such_entry(path, last, parents, target)]
    return []


def replace_target(raw: Keys, paths: Iterable[str]) -> None:
    """Drops the target of the deployment where a change sets another.

    There is always exactly one, so a new one replaces the old.

    Args:
        raw: The keys after the changes; they are changed in place.
        paths: Of the keys that were set.
    """
    deployment = raw.get("deployment")
    if not isinstance(deployment, dict):
        return
    named = {path.split(".")[1] for path in paths if path.startswith("deployment.")}
    if any(deployment.get(key) is not None for key in named.intersection(TARGETS)):
        for key in set(TARGETS) - named:
            deployment.pop(key, None)


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if value == text.strip() and NUMBER_IN_TEXT.match(text.strip()):
        return float(value)  # a shell knows no types: 1e-3 is meant as a number here
    return value


def _implied(root: type[BaseModel], path: list[str]) -> Keys | list[Any]:
    """Returns what stands at a path that is left out: its default where that is a list."""
    section = section_at(root, path[:-1])
    field = section.model_fields.get(path[-1]) if section is not None else None
    if field is not None and isinstance(field.default, list):
        return [
            entry.model_dump() if isinstance(entry, BaseModel) else entry for entry in field.default
        ]
    return {}


def _is_entry(entries: list[Any], key: str) -> bool:
    return key.isdigit() and int(key) < len(entries)


def _no_such_entry(path: str, key: str, parents: Sequence[str], entries: list[Any]) -> Problem:
    where = ".".join(parents)
    has = f"has entries 0 to {len(entries) - 1}" if entries else "has no entries: set the list"
    return Problem(path, f"index {key!r}", f"{where} {has}")
