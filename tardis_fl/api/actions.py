"""What a user calls: from a configuration to a run, and from a run to deployments and frontiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tardis_fl.api.results import Comparison, Deployment, FrontierResult, Run, unique_names
from tardis_fl.api.sources import Changes, Source, as_overrides, read_source
from tardis_fl.config import Config
from tardis_fl.config import load_config as read_config
from tardis_fl.errors import ConfigError
from tardis_fl.report.results import Report

if TYPE_CHECKING:
    from tardis_fl.federation.callbacks.base import Callback
    from tardis_fl.report.terminal import Screen


def load_config(source: Source, overrides: Changes = ()) -> Config:
    """Reads and checks a configuration.

    Args:
        source: Path of a YAML file, name of a shipped configuration such as `quickstart`, YAML
            text, a dict, or a `Config` to change.
        overrides: New values by dotted key, such as `{"federation.rounds": 3}`; or texts KEY=VALUE.

    Raises:
        ConfigError: Lists everything that is wrong, as the command line does.
    """
    return read_source(source, overrides)


def run(
    config: Source,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Trains and deploys what a configuration describes.

    Args:
        config: As of `load_config`.
        output: Folder for this run; None: runs/NAME.
        resume: Continue the interrupted run in this folder after its last complete round; of a
            finished one it returns the result.
        progress: Show how far the training is; the result shows itself.
        callbacks: Are called as the run goes on, after those that the configuration names.

    Raises:
        ConfigError, DataError, RunError: With the message of the command line.
    """
    resolved = load_config(config)
    folder = Path(output) if output is not None else Path("runs") / resolved.name

    from tardis_fl.report.terminal import Screen
    from tardis_fl.workflows.experiment import simulate

    screen = Screen() if progress else _silent()
    simulate(resolved, folder, screen, resume=resume, callbacks=callbacks)
    return open_run(folder)


def open_run(folder: str | Path) -> Run:
    """Opens the folder of a finished run.

    Raises:
        ConfigError: It holds no finished run.
        DataError: Its report is damaged or of another version.
    """
    path = Path(folder)
    if not (path / "report.json").exists():
        raise ConfigError(
            f"{path}: holds no finished run (report.json is missing); "
            "wanted the folder of a run, such as runs/quickstart"
        )
    return Run(path, read_config(path / "config.yaml"), Report.read(path / "report.json"))


def deploy(run: Run | str | Path, changes: Changes = (), *, name: str | None = None) -> Deployment:
    """Deploys a finished run with other settings, in seconds and without training.

    Args:
        run: A run or its folder.
        changes: Keys of the section deployment, such as `{"deployment.policy": "margin"}`.
        name: Of the folder under deployments/ in the run's; None: the next number.

    Raises:
        ConfigError, DataError, RunError: As on the command line.
    """
    from tardis_fl.workflows.redeploy import redeploy

    report, folder = redeploy(_folder_of(run), as_overrides(changes), _silent(), name=name)
    return Deployment(folder, read_config(folder / "config.yaml"), report)


def frontier(
    run: Run | str | Path,
    changes: Changes = (),
    *,
    axis: str = "offload_rate",
    name: str | None = None,
) -> FrontierResult:
    """Finds the exact frontier of accuracy against every cost, over the thresholds of all exits.

    Args:
        run: A run or its folder.
        changes: Keys of the section deployment: another policy, codec or hardware.
        axis: The cost to show: offload_rate, bytes, macs, latency_ms or energy_mj.
        name: Of the folder under frontiers/ in the run's; None: the next number.

    Raises:
        ConfigError, DataError: As on the command line.
    """
    from tardis_fl.workflows.frontier import write_frontier

    overrides = as_overrides(changes)
    report, folder = write_frontier(_folder_of(run), overrides, _silent(), axis=axis, name=name)
    return FrontierResult(folder, report, axis)


def compare(runs: Sequence[Run | Deployment | str | Path]) -> Comparison:
    """Puts runs and deployments side by side.

    Args:
        runs: Or their folders; at least one.

    Raises:
        ConfigError: None was given, or a folder holds no report.
        DataError: A report is damaged.
    """
    if isinstance(runs, Run | Deployment | str | Path) or not runs:
        raise ConfigError(f"runs: got {runs!r}; wanted a list of runs, deployments or folders")
    opened = [run if isinstance(run, Run | Deployment) else open_run(run) for run in runs]
    names = unique_names([run.folder for run in opened])
    return Comparison(names, tuple(run.report for run in opened))


def _folder_of(run: Run | str | Path) -> Path:
    return run.folder if isinstance(run, Run) else Path(run)


def _silent() -> Screen:
    from rich.console import Console

    from tardis_fl.report.terminal import Screen

    return Screen(Console(quiet=True, force_terminal=False))
