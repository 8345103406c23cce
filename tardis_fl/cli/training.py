"""Commands that train: simulate, federate, sweep, baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tardis_fl.cli.options import (
    ConfigPath,
    Overrides,
    RunOptions,
    errors_for_people,
    stoppable,
    with_groups,
)
from tardis_fl.errors import ConfigError, RunError

if TYPE_CHECKING:
    from tardis_fl.config import Config

Engine = Literal["inline", "ray", "deployment"]
WIDE_TABLE = 180  # columns, for output that goes to a file

app = typer.Typer()


@dataclass(frozen=True)
class NodeOptions:
    """How the engine deployment starts its nodes."""

    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes",
            min=1,
            help="Number of SuperNodes (engine deployment).",
            show_default="one for each client",
        ),
    ] = None
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Use TLS and node authentication, with a CA and keys made for this run.",
        ),
    ] = False
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port of the SuperLink.", show_default="a free one"
        ),
    ] = None

    def check_engine(self, engine: str) -> None:
        """Refuses these options on an engine without nodes.

        Raises:
            ConfigError: Names the option.
        """
        options = {"--nodes": self.nodes, "--secure": self.secure, "--port": self.port}
        given = [option for option, value in options.items() if value]
        if given and engine != "deployment":
            raise ConfigError(
                f"{given[0]}: has no effect on the engine {engine}; wanted --engine deployment, "
                "or leave it out"
            )


@app.command()
@with_groups
def simulate(run: RunOptions) -> None:
    """Train an early-exit network across clients and measure its deployment."""
    with errors_for_people():
        config = run.load()
        _simulate(config, run.folder(config), resume=run.resume)


@app.command()
@with_groups
def federate(
    run: RunOptions,
    nodes: NodeOptions,
    engine: Annotated[
        Engine | None,
        typer.Option(
            "--engine",
            help="Where the apps run: inline, ray or deployment.",
            show_default="the configuration's",
        ),
    ] = None,
) -> None:
    """Do the same as simulate on any engine; deployment starts a SuperLink and SuperNodes."""
    with errors_for_people():
        config = run.load(*([f"runtime.engine={engine}"] if engine else []))
        nodes.check_engine(config.runtime.engine)
        folder = run.folder(config)
        if config.runtime.engine != "deployment":
            _simulate(config, folder, resume=run.resume)
            return
        with stoppable(folder, "--resume"):
            from tardis_fl.workflows.federate import federate as run_on_nodes

            run_on_nodes(
                config,
                folder,
                num_nodes=nodes.nodes,
                secure=nodes.secure,
                port=nodes.port,
                resume=run.resume,
            )


@app.command()
def sweep(
    config_path: ConfigPath,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=V1,V2,...",
            help="Values of a key, such as data.partition.alpha=0.1,1.0; repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            help="Repeats of each point: the configuration's seed and those that follow it.",
        ),
    ] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder for all runs.", show_default="runs/NAME-sweep"
        ),
    ] = None,
) -> None:
    """Run every combination of values over several seeds and compare them; finished runs stay."""
    with errors_for_people():
        from tardis_fl.workflows.sweep.grid import plan_sweep

        grid = plan_sweep(config_path, settings or [], num_seeds=seeds)
        folder = output or Path("runs") / f"{grid.name}-sweep"
        with stoppable(folder, "the same command"):
            from rich.console import Console

            from tardis_fl.workflows.sweep.runs import run_sweep

            console = Console(highlight=False)
            if not console.is_terminal:
                console = Console(highlight=False, width=WIDE_TABLE)
            failed = run_sweep(grid, folder, console).failed
        if failed:
            raise RunError(
                f"{len(failed)} of {len(grid.points) * seeds} runs failed; the other runs are in "
                f"{folder / 'sweep.md'}"
            )


@app.command()
def baselines(
    config_path: ConfigPath,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder of the run.", show_default="runs/NAME"
        ),
    ] = None,
    clients: Annotated[
        int,
        typer.Option(
            "--clients",
            min=1,
            help="Clients that train alone, drawn by the seed; all where there are fewer.",
        ),
    ] = 10,
) -> None:
    """Train on the same data and budget in other ways, and add their accuracy to the run's report.

    The other ways are: all data in one place, each client alone, FedAvg of the whole network, and
    the device segment only.
    """
    from tardis_fl.config import load_config

    with errors_for_people():
        config = load_config(config_path, overrides or [])
        folder = output or Path("runs") / config.name
        with stoppable(folder, "the same command"):
            from tardis_fl.report.terminal import Screen
            from tardis_fl.workflows.reference_trainings.command import add_reference_rows

            add_reference_rows(config, folder, Screen(), num_clients=clients)


def _simulate(config: Config, folder: Path, *, resume: bool) -> None:
    """Trains and deploys in this process."""
    with stoppable(folder, "--resume"):
        from tardis_fl.report.terminal import Screen
        from tardis_fl.workflows.experiment import simulate as train_and_deploy

        train_and_deploy(config, folder, Screen(), resume=resume)
