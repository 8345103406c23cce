"""One thing that is wrong with a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from tardis_fl.config.section import Section


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        path: Dotted path of the key, such as `federation.rounds`.
        got: What stands there, as the user would write it.
        wanted: What may stand there, and how to mend it.
        involves: Paths of further keys the judgement rests on.
    """

    path: str
    got: str
    wanted: str
    involves: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: got {self.got}; {self.wanted}"


def changed(section: Section, key: str) -> bool:
    """Whether a key was set to something else than its default; a resolved configuration sets them all."""
    return (
        key in section.model_fields_set
        and getattr(section, key) != type(section).model_fields[key].default
    )
