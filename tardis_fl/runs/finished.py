"""What an earlier command left in a run's folder: a whole run of this configuration, a part of it, or something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tardis_fl.config import Config, load_config
from tardis_fl.errors import ConfigError
from tardis_fl.report.results import Report
from tardis_fl.runs.folder import REPORTS

SHOWN_DIFFERENCES = 4
MEND = "Choose another folder (--output DIR), or move it away."


def finished_report(folder: Path, config: Config) -> Report | None:
    """Returns the report of a finished run of this configuration; None where no run is finished there.

    Args:
        folder: The run's folder; need not exist.
        config: What the run must have been of, name apart.

    Raises:
        ConfigError: The folder holds a run of another configuration.
        DataError: The report is damaged.
    """
    finished = (folder / "report.json").exists()
    if not finished and not is_unfinished(folder):
        return None
    try:
        there = load_config(folder / "config.yaml")
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: holds a run whose config.yaml can't be read by this version. {MEND}\n{error}"
        ) from None
    different = list(differences(there, config))
    if different:
        more = (
            f" and {len(different) - SHOWN_DIFFERENCES} more"
            if len(different) > SHOWN_DIFFERENCES
            else ""
        )
        raise ConfigError(
            f"{folder}: holds a run of another configuration ({'; '.join(different[:SHOWN_DIFFERENCES])}{more}). {MEND}"
        )
    return Report.read(folder / "report.json") if finished else None


def complete_report(folder: Path, config: Config) -> Report | None:
    """Returns the report of a run of this configuration that has nothing left to do; None where there is none such.

    Raises:
        DataError: The report is damaged.
    """
    if not all((folder / name).exists() for name in REPORTS):
        return None
    try:
        there = load_config(folder / "config.yaml")
    except ConfigError:
        return None
    return None if any(differences(there, config)) else Report.read(folder / "report.json")


def is_unfinished(folder: Path) -> bool:
    """Whether a run in this folder completed a round and not the whole."""
    return (folder / "rounds.jsonl").exists() and not (folder / "report.json").exists()


def differences(there: Config, here: Config) -> Iterator[str]:
    """Yields the keys in which two configurations differ, with both values; their names don't count."""
    old, new = (
        dict(_leaves(config.model_dump(mode="json", exclude={"name"}), ""))
        for config in (there, here)
    )
    for path in dict.fromkeys([*new, *old]):
        if path not in old or path not in new or old[path] != new[path]:
            yield f"{path}: {_value(old, path)} there, {_value(new, path)} here"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _value(leaves: dict[str, Any], path: str) -> str:
    return str(leaves[path]) if path in leaves and leaves[path] is not None else "nothing"
