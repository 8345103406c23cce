"""The keys that a configuration may hold: their paths, and which one an unknown key may mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from tardis_fl.core.problem import Problem, describe, wanted_value

NEAR_ANYWHERE = 0.75  # a key of another section must be nearer than one of the same


def key_paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields the dotted path of every key; entries of lists have the number 0."""
    for key, field in section.model_fields.items():
        inner = section_of(section, key)
        yield f"{prefix}{key}"
        if inner is not None:
            entry = "" if field.annotation is inner else ".0"
            yield from key_paths(inner, f"{prefix}{key}{entry}.")


def section_of(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Returns the section below a key of another; None where a single value stands there."""
    if key.isdigit():
        return section
    field = section.model_fields.get(key)
    return _section_in(field.annotation) if field is not None else None


def section_at(root: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """Returns the section at a path; None where there is none."""
    section: type[BaseModel] | None = root
    for key in path:
        section = section_of(section, key) if section is not None else None
    return section


def description_of(section: type[BaseModel], key: str) -> str | None:
    """Returns what a key means, in one line; None where it is unknown."""
    field = section.model_fields.get(key)
    if field is None or field.description is None:
        return None
    return in_one_line(field.description)


def in_one_line(description: str) -> str:
    """Returns a description without the line breaks of the source."""
    return " ".join(description.split())


def key_problem(root: type[BaseModel], detail: Mapping[str, Any]) -> Problem:
    """Turns an error of pydantic into a problem, which for an unknown key names the nearest."""
    if detail["type"] != "extra_forbidden":
        return wanted_value(detail)
    location = [str(part) for part in detail["loc"]]
    got = f"an unknown key with {describe(detail.get('input'))}"
    return Problem(".".join(location), got, _nearest(root, location))


def _nearest(root: type[BaseModel], location: list[str]) -> str:
    """Names the known key nearest to an unknown one: in its section first, then anywhere."""
    *parents, unknown = location
    section = section_at(root, parents)
    siblings = list(section.model_fields) if section is not None else []
    close = difflib.get_close_matches(unknown, siblings, n=1)
    if close:
        return f"did you mean {'.'.join([*parents, close[0]])}?"
    everywhere = {path.rsplit(".", 1)[-1]: path for path in key_paths(root)}
    close = difflib.get_close_matches(unknown, everywhere, n=1, cutoff=NEAR_ANYWHERE)
    if close:
        return f"did you mean {everywhere[close[0]]}?"
    return f"known keys here: {', '.join(siblings)}"


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the group of keys in an annotation such as `list[Group] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((section for section in found if section is not None), None)
