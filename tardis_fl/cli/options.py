"""Options that several commands share, and how errors reach a person."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from tardis_fl.errors import TardisError

if TYPE_CHECKING:
    from tardis_fl.config import Config

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

ConfigPath = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="YAML file, or the name of a shipped configuration such as quickstart.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, such as federation.rounds=3; repeatable.",
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """What every command takes that trains one run."""

    config_path: ConfigPath
    overrides: Overrides = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder for this run.", show_default="runs/NAME"
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Name of the run, instead of the configuration's."
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the interrupted run in this folder after its last complete round.",
        ),
    ] = False

    def load(self, *overrides: str) -> Config:
        """Reads the configuration with the overrides of the command line, and with more.

        Raises:
            ConfigError: Lists everything that is wrong.
        """
        from tardis_fl.config import load_config

        given = list(self.overrides or [])
        if self.name is not None:
            given.append(f"name={json.dumps(self.name)}")
        return load_config(self.config_path, [*given, *overrides])

    def folder(self, config: Config) -> Path:
        """Returns the run's folder: the option's, or runs/NAME."""
        return self.output or Path("runs") / config.name


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take a dataclass of options: each of its fields becomes an option.

    So several commands share options, and a function that checks them takes one value.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            group = inspect.signature(groups[parameter.name], eval_str=True)
            parameters += group.parameters.values()
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))

    @wraps(command)
    def flat(**values: object) -> None:
        command(**_gathered(groups, values))

    # By keyword only, since those of a group may follow others that have a default.
    by_keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    flattened: Any = flat
    flattened.__signature__ = inspect.Signature(by_keyword)
    flattened.__annotations__ = {each.name: each.annotation for each in by_keyword}
    return flat


def _gathered(groups: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, object]:
    """Returns a command's arguments: an instance for each group, and the values of no group."""
    rest = dict(values)
    gathered = {}
    for name, group in groups.items():
        gathered[name] = group(**{field.name: rest.pop(field.name) for field in fields(group)})
    return gathered | rest


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turns an error of ours into one message without a traceback, and into its exit code."""
    try:
        yield
    except TardisError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


@contextmanager
def stoppable(folder: Path, continuing: str) -> Iterator[None]:
    """Turns Ctrl-C into an exit code and a line that says where the complete part lies.

    Args:
        folder: Where the complete part is.
        continuing: What continues it, such as `--resume`.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = ""
        if folder.exists():
            kept = f"; {folder} keeps what was complete, and {continuing} continues it"
        print(f"\nstopped{kept}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
