"""In which keys two configurations differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tardis_fl.config.schema import Config

NOTHING = "nothing"


@dataclass(frozen=True)
class Difference:
    """A key with different values, or one that only one of two configurations has.

    Attributes:
        path: Dotted path of the key; entries of lists have their number.
        there: The value in the first configuration, in words.
        here: The value in the second one.
    """

    path: str
    there: str
    here: str

    def __str__(self) -> str:
        """Returns both values, such as `federation.rounds: 2 there, 3 here`."""
        return f"{self.path}: {self.there} there, {self.here} here"


def differences(there: Config, here: Config) -> list[Difference]:
    """Returns the keys in which two configurations differ, in the order of `here`.

    Their names don't count. A key that wasn't there yet when a configuration was written has its
    default, and so is no difference.
    """
    old = dict(_leaves(there.model_dump(mode="json", exclude={"name"})))
    new = dict(_leaves(here.model_dump(mode="json", exclude={"name"})))
    paths = dict.fromkeys([*new, *old])
    return [
        Difference(path, old.get(path, NOTHING), new.get(path, NOTHING))
        for path in paths
        if old.get(path) != new.get(path)
    ]


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields the path and value of every key; a list or section without entries is a value."""
    if isinstance(value, Mapping) and value:
        entries: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list) and value:
        entries = list(enumerate(value))
    else:
        yield path, _in_words(value)
        return
    for key, inner in entries:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def _in_words(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
