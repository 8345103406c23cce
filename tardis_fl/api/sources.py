"""What a caller may give for a configuration and for changes to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import yaml

from tardis_fl.config import Config, load_config, parse_config
from tardis_fl.errors import ConfigError

Source: TypeAlias = Config | str | Path | Mapping[str, object]
"""A configuration, the path of a YAML file, the name of a shipped one, YAML text, or a mapping."""
Changes: TypeAlias = Mapping[str, object] | Sequence[str]
"""New values by dotted key, or texts KEY=VALUE as on the command line."""

YAML_TEXT = re.compile(r"\n|:\s|^\s*\{")


def read_source(source: Source, changes: Changes = ()) -> Config:
    """Reads a configuration in whatever form it comes.

    Args:
        source: See `Source`.
        changes: See `Changes`; applied in order.

    Raises:
        ConfigError: Lists everything that is wrong.
    """
    overrides = as_overrides(changes)
    if isinstance(source, Config):
        if not overrides:
            return source
        return parse_config(_dumped(source.model_dump(mode="json")), overrides=overrides)
    if isinstance(source, Mapping):
        return parse_config(_dumped(dict(source)), overrides=overrides)
    if isinstance(source, str) and YAML_TEXT.search(source):
        return parse_config(source, overrides=overrides)
    if isinstance(source, str | Path):
        return load_config(source, overrides)
    raise ConfigError(
        f"configuration: got {type(source).__name__}; wanted a Config, a path, YAML text or a dict"
    )


def as_overrides(changes: Changes) -> list[str]:
    """Returns changes as texts KEY=VALUE.

    Raises:
        ConfigError: A value isn't one that YAML can hold, or the changes are a single text.
    """
    if isinstance(changes, str):
        raise ConfigError(
            f"changes: got the text {changes!r}; wanted a dict such as "
            "{'federation.rounds': 3}, or a list of texts"
        )
    if isinstance(changes, Mapping):
        return [f"{key}={_dumped(value, key)}" for key, value in changes.items()]
    return list(changes)


def _dumped(value: object, key: str = "configuration") -> str:
    """Writes a value as YAML, so that it is checked as a file's would be.

    Raises:
        ConfigError: It isn't made of numbers, texts, lists and dicts.
    """
    try:
        return yaml.safe_dump(value, sort_keys=False, default_flow_style=True, allow_unicode=True)
    except yaml.representer.RepresenterError as error:
        culprit = error.args[-1]
        raise ConfigError(
            f"{key}: got {type(culprit).__name__} {culprit!r}; wanted numbers, texts, lists and "
            "dicts, as YAML has them"
        ) from None
