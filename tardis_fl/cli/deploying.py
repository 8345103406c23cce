"""Commands on a finished run: deploy, frontier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tardis_fl.cli.options import errors_for_people

app = typer.Typer()

RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a finished run, such as runs/quickstart.", show_default=False
    ),
]
DeploymentOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the deployment, such as deployment.policy=margin; repeatable.",
    ),
]


@app.command()
def deploy(
    run: RunPath,
    overrides: DeploymentOverrides = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the folder under RUN/deployments.",
            show_default="the next number",
        ),
    ] = None,
) -> None:
    """Deploy a finished run with another policy, target, codec, hardware, load or faults.

    Nothing is trained again, and the first result stays.
    """
    with errors_for_people():
        from tardis_fl.report.terminal import Screen
        from tardis_fl.workflows.redeploy import redeploy

        redeploy(run, overrides or [], Screen(), name=name)


@app.command()
def frontier(
    run: RunPath,
    overrides: DeploymentOverrides = None,
    axis: Annotated[
        str,
        typer.Option(
            "--axis", help="The cost to show: offload_rate, bytes, macs, latency_ms or energy_mj."
        ),
    ] = "offload_rate",
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the folder under RUN/frontiers.",
            show_default="the next number",
        ),
    ] = None,
) -> None:
    """Find the exact frontier of accuracy against every cost, over the thresholds of all exits."""
    with errors_for_people():
        from tardis_fl.report.terminal import Screen
        from tardis_fl.workflows.frontier import write_frontier

        write_frontier(run, overrides or [], Screen(), axis=axis, name=name)
