"""Commands that look and don't train: validate, describe, schema, cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tardis_fl.cli.options import ConfigPath, Overrides, errors_for_people

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=True, help="Show or clear the cache of decoded images.")
app.add_typer(cache_app, name="cache")


@app.command()
def validate(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Check a configuration and report everything that is wrong with it."""
    from tardis_fl.config import load_config

    with errors_for_people():
        config = load_config(config_path, overrides or [])
        federation = config.federation
        print(
            f"{config_path}: valid ({config.name}: {federation.num_clients} clients, "
            f"{federation.rounds} rounds, {len(config.tiers)} tiers)"
        )


@app.command()
def describe(
    config_path: ConfigPath,
    overrides: Overrides = None,
    cuts: Annotated[
        bool,
        typer.Option(
            "--cuts",
            help="List every place where model.cuts may cut the backbone, with what crosses there.",
        ),
    ] = False,
) -> None:
    """Show parameters, multiply-accumulates and bytes of each segment of the network."""
    from tardis_fl.config import load_config

    with errors_for_people():
        config = load_config(config_path, overrides or [])
        from tardis_fl.workflows.describe import describe as show

        show(config, cuts=cuts)


@app.command()
def schema() -> None:
    """Print the configuration's JSON schema, for editors."""
    from tardis_fl.config import Config

    print(json.dumps(Config.model_json_schema(), indent=2))


CacheFolder = Annotated[
    str | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Folder of the cache, where runtime.cache_dir names another than the user's.",
        show_default=False,
    ),
]


@cache_app.command("show")
def cache_show(folder_name: CacheFolder = None) -> None:
    """List what the cache holds."""
    from tardis_fl.data.cache import cache_folder, entries
    from tardis_fl.report.text import bytes_text

    folder = Path(folder_name) if folder_name else cache_folder()
    found = entries(folder)
    for path, size in found:
        print(f"{bytes_text(size):>10}  {path.name}")
    total = bytes_text(sum(size for _, size in found))
    print(f"{len(found)} entries, {total} in {folder}")


@cache_app.command("clear")
def cache_clear(folder_name: CacheFolder = None) -> None:
    """Remove everything the cache holds; the next run that needs it decodes it again."""
    from tardis_fl.data.cache import cache_folder, clear
    from tardis_fl.report.text import bytes_text

    folder = Path(folder_name) if folder_name else cache_folder()
    count, size = clear(folder)
    print(f"removed {count} entries, {bytes_text(size)}, from {folder}")
