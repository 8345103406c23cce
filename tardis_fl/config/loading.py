"""Strict reading of a configuration: every problem at once, each with path, got and wanted."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tardis_fl.config.checks.consistency import all_problems, touches
from tardis_fl.config.deployment import TARGETS
from tardis_fl.config.schema import Config
from tardis_fl.core.problem import NUMBER_IN_TEXT, Problem, describe, wanted_value
from tardis_fl.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies `--set` overrides.

    Args:
        path: The YAML file.
        overrides: Texts of the form `section.key=value`, applied in order.

    Raises:
        ConfigError: Lists everything that is wrong, one line each.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; wanted a YAML configuration such as configs/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as UTF-8 text: {error}") from None
    return parse_config(text, source=str(path), overrides=overrides)


def parse_config(
    text: str, *, source: str = "configuration", overrides: Sequence[str] = ()
) -> Config:
    """Reads YAML text; see `load_config`."""
    raw, problems = _read_yaml(text, source)
    for override in overrides:
        problems += _apply_override(raw, override)
    _replace_target(raw, overrides)
    config, found = _validate(raw)
    problems += found
    if problems:
        unique = list(dict.fromkeys(str(problem) for problem in problems))
        count = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
        raise ConfigError(
            "\n".join(
                [f"{source}: {count} in the configuration", *(f"  {line}" for line in unique)]
            )
        )
    assert config is not None
    return config


def _read_yaml(text: str, source: str) -> tuple[dict[str, Any], list[Problem]]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        problems = list(_duplicates(node, ""))
        raw = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{source}: this is not YAML{where}: {getattr(error, 'problem', None) or error}"
        ) from None
    finally:
        loader.dispose()
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{source}: got {describe(raw)}; wanted the keys {', '.join(Config.model_fields)}"
        )
    return raw, problems


def _duplicates(node: yaml.Node | None, path: str) -> Iterator[Problem]:
    """Yields the keys that stand twice in one mapping, where YAML would let the last one win."""
    if isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in first_lines:
                yield Problem(
                    f"{path}{key}",
                    f"twice, in lines {first_lines[key]} and {line}",
                    "keep one of them",
                )
            first_lines.setdefault(key, line)
            yield from _duplicates(value_node, f"{path}{key}.")
    elif isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _duplicates(entry, f"{path}{index}.")


def _apply_override(raw: dict[str, Any], override: str) -> list[Problem]:
    path, equals, value_text = override.partition("=")
    path = path.strip()
    if not equals or not path:
        return [
            Problem(
                f"--set {override}",
                "no '='",
                "wanted section.key=value, such as federation.rounds=3",
            )
        ]
    try:
        value = yaml.safe_load(value_text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return [
            Problem(
                f"--set {path}",
                repr(value_text),
                "wanted a YAML value: a number, a text, [a, list] or null",
            )
        ]
    if value == value_text.strip() and NUMBER_IN_TEXT.match(value_text.strip()):
        value = float(value)  # a shell knows no types: 1e-3 is meant as a number here
    *parents, last = path.split(".")
    target: Any = raw
    for depth, key in enumerate(parents):
        if isinstance(target, list):
            if not key.isdigit() or int(key) >= len(target):
                return [
                    Problem(
                        path,
                        f"index {key!r}",
                        f"{'.'.join(parents[:depth])} has entries 0 to {len(target) - 1}",
                    )
                ]
            target = target[int(key)]
        else:
            if target.get(key) is None:
                target[key] = _implied(parents[: depth + 1])
            target = target[key]
        if not isinstance(target, dict | list):
            return [
                Problem(
                    path,
                    "a path through a single value",
                    f"{'.'.join(parents[: depth + 1])} is no group of keys",
                )
            ]
    if isinstance(target, list):
        if not last.isdigit() or int(last) >= len(target):
            return [
                Problem(
                    path,
                    f"index {last!r}",
                    f"{'.'.join(parents)} has entries 0 to {len(target) - 1}",
                )
            ]
        target[int(last)] = value
    else:
        target[last] = value
    return []


def _replace_target(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drops the file's target of the deployment where an override sets another, since there is always exactly one."""
    deployment = raw.get("deployment")
    named = {
        override.partition("=")[0].strip().removeprefix("deployment.").split(".")[0]
        for override in overrides
        if override.strip().startswith("deployment.")
    }
    if not isinstance(deployment, dict) or not any(
        deployment.get(key) is not None for key in named.intersection(TARGETS)
    ):
        return
    for key in set(TARGETS) - named:
        deployment.pop(key, None)


def _implied(path: list[str]) -> dict[str, Any] | list[dict[str, Any]]:
    """Returns what stands at a path that the file leaves out: the default where it is a list, else an empty group."""
    section: type[BaseModel] | None = Config
    for key in path[:-1]:
        section = _section_of(section, key) if section else None
    field = section.model_fields.get(path[-1]) if section else None
    if field is not None and isinstance(field.default, list):
        return [entry.model_dump() for entry in field.default]
    return {}


def _validate(raw: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Checks every key, then the combinations of those keys that are right by themselves."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_problem(dict(detail)) for detail in details]
        broken = [problem.path for problem in problems]
        try:
            rest = Config.model_validate(_without(raw, [detail["loc"] for detail in details]))
        except ValidationError:  # what is left lacks a required key: no combination to judge
            return None, problems
        return None, problems + [p for p in all_problems(rest) if not touches(p, broken)]
    found = all_problems(config)
    return (None if found else config), found


def _without(raw: dict[str, Any], locations: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    pruned = copy.deepcopy(raw)
    if not isinstance(pruned.get("name"), str) or ("name",) in [tuple(loc) for loc in locations]:
        pruned["name"] = "unnamed"
    for location in locations:
        keys = list(location)
        if keys == ["name"]:
            continue
        while any(isinstance(key, int) for key in keys):  # a broken entry takes its list with it
            keys = keys[: next(i for i, key in enumerate(keys) if isinstance(key, int))]
        target: Any = pruned
        for key in keys[:-1]:
            target = target.get(key, {}) if isinstance(target, dict) else {}
        if isinstance(target, dict) and keys:
            target.pop(keys[-1], None)
    return pruned


def _problem(detail: Mapping[str, Any]) -> Problem:
    if detail["type"] != "extra_forbidden":
        return wanted_value(detail)
    location = [str(part) for part in detail["loc"]]
    got = f"an unknown key with {describe(detail.get('input'))}"
    return Problem(".".join(location), got, _nearest(location))


def _nearest(location: list[str]) -> str:
    """Names the known key nearest to an unknown one: in its section first, then anywhere."""
    section: type[BaseModel] | None = Config
    for part in location[:-1]:
        section = _section_of(section, part) if section else None
    siblings = list(section.model_fields) if section else []
    close = difflib.get_close_matches(location[-1], siblings, n=1)
    if close:
        return f"did you mean {'.'.join([*location[:-1], close[0]])}?"
    everywhere = {path.rsplit(".", 1)[-1]: path for path in key_paths()}
    close = difflib.get_close_matches(location[-1], everywhere, n=1, cutoff=0.75)
    if close:
        return f"did you mean {everywhere[close[0]]}?"
    return f"known keys here: {', '.join(siblings)}"


def _section_of(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    if key.isdigit():
        return section
    field = section.model_fields.get(key)
    return _section_in(field.annotation) if field is not None else None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the group of keys in an annotation such as `list[Group] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for part in get_args(annotation) if (found := _section_in(part)) is not None), None
    )


def key_paths(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yields the dotted path of every key that a configuration may hold."""
    for key in section.model_fields:
        inner = _section_of(section, key)
        if inner is None:
            yield f"{prefix}{key}"
            continue
        field = section.model_fields[key]
        if key != "tiers":
            yield f"{prefix}{key}"
        yield from key_paths(
            inner, f"{prefix}{key}.0." if field.annotation is not inner else f"{prefix}{key}."
        )
