"""Reading a configuration from YAML: every problem at once, each with path, got and wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tardis_fl.config.changes import apply_overrides
from tardis_fl.config.problem import ConfigProblems, Problem
from tardis_fl.config.schema import Config
from tardis_fl.config.shipped import find_config, shipped_configs
from tardis_fl.core.problem import describe
from tardis_fl.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies `--set` overrides.

    Args:
        path: The YAML file, or the name of a shipped configuration, such as `quickstart`.
        overrides: Texts of the form `section.key=value`, applied in order.

    Raises:
        ConfigError: Lists everything that is wrong, one line each.
    """
    try:
        text = find_config(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; wanted a YAML configuration such as "
            f"configs/quickstart.yaml, or one of the shipped: {', '.join(shipped_configs())}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as UTF-8 text: {error}") from None
    return parse_config(text, source=str(path), overrides=overrides)


def parse_config(
    text: str, *, source: str = "configuration", overrides: Sequence[str] = ()
) -> Config:
    """Reads YAML text; see `load_config`."""
    raw, problems = _read_yaml(text, source)
    problems += apply_overrides(raw, overrides, Config)
    config = None
    try:
        config = Config.model_validate(raw)
    except ConfigProblems as refused:
        problems += refused.problems
    if problems or config is None:
        raise ConfigProblems(problems, source)
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
        reason = getattr(error, "problem", None) or error
        raise ConfigError(f"{source}: this is not YAML{where}: {reason}") from None
    finally:
        loader.dispose()
    if not isinstance(raw, dict):
        known = ", ".join(Config.model_fields)
        raise ConfigError(f"{source}: got {describe(raw)}; wanted the keys {known}")
    return raw, problems


def _duplicates(node: yaml.Node | None, path: str) -> Iterator[Problem]:
    """Yields the keys that stand twice in one mapping, where YAML would let the last one win."""
    if isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in first_lines:
                got = f"twice, in lines {first_lines[key]} and {line}"
                yield Problem(f"{path}{key}", got, "keep one of them")
            first_lines.setdefault(key, line)
            yield from _duplicates(value_node, f"{path}{key}.")
    elif isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _duplicates(entry, f"{path}{index}.")
