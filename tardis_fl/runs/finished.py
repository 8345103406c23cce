"""What an earlier command left in a run's folder: a whole run of this configuration, a part of it, or something else."""

from __future__ import annotations

from pathlib import Path

from tardis_fl.config import Config, load_config
from tardis_fl.config.differences import differences
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
    different = differences(there, config)
    if different:
        shown = "; ".join(map(str, different[:SHOWN_DIFFERENCES]))
        if len(different) > SHOWN_DIFFERENCES:
            shown += f" and {len(different) - SHOWN_DIFFERENCES} more"
        raise ConfigError(f"{folder}: holds a run of another configuration ({shown}). {MEND}")
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
    return None if differences(there, config) else Report.read(folder / "report.json")


def is_unfinished(folder: Path) -> bool:
    """Whether a run in this folder completed a round and not the whole."""
    return (folder / "rounds.jsonl").exists() and not (folder / "report.json").exists()
