"""Which runs a sweep consists of: every combination of the values, for every seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tardis_fl.config import Config, load_config
from tardis_fl.errors import ConfigError

LONGEST_NAME = 50  # with a seed it stays below the longest name of a run
HASH_DIGITS = 6
NO_AXIS = {
    "seed": "a sweep repeats every point over seeds; wanted --seeds N, and at most one value here",
    "name": "a name changes nothing in a run",
}


@dataclass(frozen=True)
class Axis:
    """One `--set`: a key and its values, each as the YAML text that stood there."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One combination of values.

    Attributes:
        name: Of its folder.
        settings: Resolved values of the varied keys.
        configs: One configuration a seed.
    """

    name: str
    settings: dict[str, Any]
    configs: tuple[Config, ...]


@dataclass(frozen=True)
class Grid:
    """All runs of a sweep, checked.

    Attributes:
        name: Of the configuration.
        fixed: Resolved values of the keys that were set to one value.
        labels: Short names of the varied keys, by key.
        seeds: The first is the configuration's.
        points: At least one.
    """

    name: str
    fixed: dict[str, Any]
    labels: dict[str, str]
    seeds: tuple[int, ...]
    points: tuple[Point, ...]


def read_axis(option: str) -> Axis:
    """Reads `KEY=V1,V2,...`, whose right side is a YAML flow list without its brackets.

    Raises:
        ConfigError: Says what is wrong with it.
    """
    key, equals, text = option.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(
            f"--set {option}: got no '='; wanted KEY=V1,V2,..., "
            "such as data.partition.alpha=0.1,1.0"
        )
    listed = f"[{text}]"
    try:
        node = yaml.compose(listed, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        node = None
    if not isinstance(node, yaml.SequenceNode) or node.end_mark.index != len(listed):
        raise ConfigError(
            f"--set {key}: got {text!r}; wanted YAML values with commas between, "
            "such as 0.1,1.0 or [1,1,1],[3,1,1]"
        )
    if not node.value:
        raise ConfigError(
            f"--set {key}: got no value; wanted one or more, such as {key}=V1,V2 (null is a value)"
        )
    values = tuple(listed[entry.start_mark.index : entry.end_mark.index] for entry in node.value)
    if key in NO_AXIS and len(values) > 1:
        raise ConfigError(f"--set {key}: got {len(values)} values; {NO_AXIS[key]}")
    return Axis(key, values)


def plan_sweep(path: str | Path, options: Sequence[str], *, num_seeds: int) -> Grid:
    """Resolves and checks the configuration of every run.

    Args:
        path: The YAML file.
        options: Texts `KEY=V1,V2,...`.
        num_seeds: Repeats of each point: the configuration's seed and those that follow it.

    Raises:
        ConfigError: Names the points that can't be used, with everything that is wrong with them.
    """
    axes = [read_axis(option) for option in options]
    twice = next(
        (key for key, count in Counter(axis.key for axis in axes).items() if count > 1), None
    )
    if twice:
        raise ConfigError(
            f"--set {twice}: got it more than once; wanted all its values in one --set, "
            "with commas between"
        )
    varied = [axis.key for axis in axes if len(axis.values) > 1]
    labels = _short_labels(varied)
    drawn = [
        _resolve(path, axes, chosen, labels, num_seeds)
        for chosen in itertools.product(*(axis.values for axis in axes))
    ]
    _raise_problems(
        [(text, problem) for text, problem in drawn if isinstance(problem, str)], len(drawn)
    )
    resolved = [configs for _, configs in drawn if not isinstance(configs, str)]
    settings = [{key: value_at(configs[0], key) for key in varied} for configs in resolved]
    names = _unique_names([_point_name(labels, values) for values in settings], settings)
    first = resolved[0]
    points = tuple(
        Point(
            name,
            values,
            tuple(
                config.model_copy(update={"name": f"{name}-seed_{config.seed}"})
                for config in configs
            ),
        )
        for name, values, configs in zip(names, settings, resolved, strict=True)
    )
    _check_different(points)
    fixed = {axis.key: value_at(first[0], axis.key) for axis in axes if len(axis.values) == 1}
    return Grid(first[0].name, fixed, labels, tuple(config.seed for config in first), points)


def value_at(config: Config, key: str) -> object:
    """Returns the resolved value at a dotted path."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def value_text(value: object) -> str:
    """Writes a value briefly: 0.1, true, null, [3, 1, 1]."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(value_text(entry) for entry in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def _resolve(
    path: str | Path,
    axes: Sequence[Axis],
    chosen: Sequence[str],
    labels: dict[str, str],
    num_seeds: int,
) -> tuple[str, tuple[Config, ...] | str]:
    """Returns the point in words, with one configuration a seed or with what is wrong."""
    pairs = list(zip((axis.key for axis in axes), chosen, strict=True))
    words = ", ".join(f"{key}={value}" for key, value in pairs if key in labels)
    overrides = [f"{key}={value}" for key, value in pairs]
    try:
        config = load_config(path, overrides)
        return words, tuple(
            load_config(path, [*overrides, f"seed={config.seed + number}"])
            for number in range(num_seeds)
        )
    except ConfigError as error:
        return words, str(error)


def _raise_problems(problems: Sequence[tuple[str, str]], num_points: int) -> None:
    if not problems:
        return
    messages = list(dict.fromkeys(message for _, message in problems))
    if len(problems) == num_points and len(messages) == 1:
        raise ConfigError(messages[0])
    raise ConfigError("\n".join(f"point {words}: {message}" for words, message in problems))


def _check_different(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        content = point.configs[0].model_dump_json(exclude={"name"})
        if content in seen:
            both = " and ".join(
                ", ".join(f"{key}={value_text(value)}" for key, value in each.settings.items())
                for each in (seen[content], point)
            )
            raise ConfigError(
                f"--set: got the same configuration twice ({both}); wanted different values"
            )
        seen[content] = point


def _short_labels(keys: Sequence[str]) -> dict[str, str]:
    """Returns the shortest ends of dotted paths that tell them apart."""
    labels = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        labels[key] = next(
            (
                end
                for end in ends
                if not any(other != key and f".{other}".endswith(f".{end}") for other in keys)
            ),
            key,
        )
    return labels


def _point_name(labels: dict[str, str], settings: dict[str, Any]) -> str:
    parts = (f"{label}_{_safe(value_text(settings[key]))}" for key, label in labels.items())
    return "-".join(parts) or "base"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "empty"


def _unique_names(names: Sequence[str], settings: Sequence[dict[str, Any]]) -> list[str]:
    """Adds a few digits of a hash where a name is too long, or not unique on some file system."""
    counts = Counter(name.casefold() for name in names)
    found = []
    for name, values in zip(names, settings, strict=True):
        if len(name) > LONGEST_NAME or counts[name.casefold()] > 1:
            digits = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[
                :HASH_DIGITS
            ]
            name = f"{name[: LONGEST_NAME - HASH_DIGITS - 1]}-{digits}"
        found.append(name)
    return found
