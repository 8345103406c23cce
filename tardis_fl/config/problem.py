"""What is wrong with a configuration: problems, and the error that holds all of them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from tardis_fl.core.problem import Problem
from tardis_fl.errors import ConfigError

__all__ = ["ConfigProblems", "Problem", "changed", "touches"]


class ConfigProblems(ConfigError):
    """A configuration that is refused, with everything that is wrong with it.

    Attributes:
        problems: All of them; the message has a line for each.
    """

    def __init__(self, problems: Iterable[Problem], source: str | None = None) -> None:
        """Makes the message.

        Args:
            problems: One or more.
            source: Where the configuration came from, such as a file's name.
        """
        self.problems = tuple(problems)
        lines = list(dict.fromkeys(str(problem) for problem in self.problems))
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        head = f"{count} in the configuration"
        if source is not None:
            head = f"{source}: {head}"
        super().__init__("\n".join([head, *(f"  {line}" for line in lines)]))


def changed(section: BaseModel, key: str) -> bool:
    """Whether a key was set to something else than its default.

    A resolved configuration sets all keys, so that being set isn't enough.
    """
    default = type(section).model_fields[key].default
    return key in section.model_fields_set and getattr(section, key) != default


def touches(problem: Problem, broken: Iterable[str]) -> bool:
    """Whether a problem rests on a key that is broken by itself."""
    related = (problem.path, *problem.involves)
    return any(_overlap(path, key) for path in related for key in broken)


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same key, or one is a section with the other in it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
