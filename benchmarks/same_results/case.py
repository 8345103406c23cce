"""What a case of the matrix is: commands of the public command line, and what they begin with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

TREE = "{tree}"
"""Stands in a command for the folder of the version that runs."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        arguments: Of `python -m tardis_fl`.
        expects: Its exit code.
        kill_at: A file of the case; the command is killed (SIGKILL) as soon as it exists.
    """

    arguments: tuple[str, ...]
    expects: int = 0
    kill_at: str | None = None


@dataclass(frozen=True)
class Case:
    """Commands that run one after the other in a folder of their own.

    Attributes:
        name: What `--only` picks it by.
        steps: The commands.
        files: Texts to write before the first command, by their paths in the folder.
        pictures: Layout of generated pictures to write under `pictures/`: `classes`
            (train/CLASS/*, test/CLASS/*) or `clients` (clients/NAME/CLASS/*, test/CLASS/*).
        after: Name of the case whose files this one begins with; None: an empty folder.
        heavy: Starts other processes for half a minute or more; runs with `--heavy` only.
    """

    name: str
    steps: tuple[Step, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    pictures: str | None = None
    after: str | None = None
    heavy: bool = False

    def description(self) -> str:
        """Returns everything that its results follow from, as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)


CONFIG = "experiment.yaml"
RUN = "run"


def simulate(config: str, *settings: str, resume: bool = False) -> tuple[str, ...]:
    """Returns the arguments that train and deploy into the case's run folder.

    Args:
        config: The configuration's path.
        settings: Keys that are set, such as `federation.rounds=3`.
        resume: Goes on with the run that is there.
    """
    arguments = ("simulate", config, "--output", RUN, *overrides(*settings))
    return (*arguments, "--resume") if resume else arguments


def overrides(*settings: str) -> tuple[str, ...]:
    """Returns the options of a command that set keys."""
    return tuple(part for setting in settings for part in ("--set", setting))
