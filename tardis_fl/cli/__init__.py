"""The command line.

A file holds the commands of one subject. PyTorch and everything else heavy is imported inside the
commands, so that help answers at once.
"""

from __future__ import annotations

import typer

from tardis_fl.cli import deploying, inspecting, models, training

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated training and tiered deployment of early-exit networks.",
)
for commands in (training.app, deploying.app, inspecting.app, models.app):
    app.add_typer(commands)

simulate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
simulate_app.command()(training.simulate)
