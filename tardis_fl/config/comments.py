"""Comments in configuration files, made from the schema's descriptions.

    python -m tardis_fl.config.comments configs/*.yaml            rewrites them
    python -m tardis_fl.config.comments --check configs/*.yaml    exits with 1 where one differs

The comment beside a key, and the lines below it in the same column, are its description. A note of
one's own stands on a line above the key, where the key begins; it is left alone.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel

from tardis_fl.config.keys import description_of, section_of
from tardis_fl.config.schema import Config

WIDTH = 100
COLUMN = 32
"""Where comments begin; a key and value that are longer have theirs on the lines below."""
GAP = 2


@dataclass(frozen=True)
class Place:
    """A key of a file that has a description.

    Attributes:
        path: Of the key in the schema: entries of lists have no number.
        line: Where its own text ends: the value, or the colon where a section follows. From 0.
        column: The same, from 0.
        description: In one line.
    """

    path: str
    line: int
    column: int
    description: str


def commented(text: str, root: type[BaseModel] = Config) -> str:
    """Returns a YAML file's text with the comment of each key made from the schema.

    Keys of several entries of a list are commented in the first entry that has them.
    """
    places = {place.line: place for place in _places(yaml.compose(text, yaml.SafeLoader), root)}
    described: set[str] = set()
    lines: list[str] = []
    below_key = False
    for number, line in enumerate(text.splitlines()):
        place = places.get(number)
        if place is None:
            if below_key and _is_continuation(line):
                continue  # of the old comment
            below_key = False
            lines.append(line)
            continue
        below_key = True
        own_text = line[: place.column].rstrip()
        if place.path in described:
            lines.append(own_text)
            continue
        described.add(place.path)
        lines += _with_comment(own_text, place.description)
    return "\n".join(lines) + "\n"


def _with_comment(own_text: str, description: str) -> Iterator[str]:
    first, *others = textwrap.wrap(description, WIDTH - COLUMN - 2)
    margin = " " * COLUMN
    if len(own_text) + GAP > COLUMN:
        yield own_text
        others = [first, *others]
    else:
        yield f"{own_text:<{COLUMN}}# {first}"
    for line in others:
        yield f"{margin}# {line}"


def _is_continuation(line: str) -> bool:
    """Whether a line is a comment alone, far right of where keys begin."""
    text = line.lstrip()
    return text.startswith("#") and len(line) - len(text) >= COLUMN


def _places(
    node: yaml.Node | None, section: type[BaseModel] | None, path: str = ""
) -> Iterator[Place]:
    """Yields the keys of a block of YAML that the schema describes."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        for entry in node.value:
            yield from _places(entry, section, path)
    if not isinstance(node, yaml.MappingNode) or node.flow_style or section is None:
        return
    for key_node, value in node.value:
        key = str(key_node.value)
        description = description_of(section, key)
        here = f"{path}.{key}"
        if description is not None:
            is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
            end = key_node.end_mark if is_block else value.end_mark
            column = end.column + 1 if is_block else end.column
            yield Place(here, end.line, column, description)
        yield from _places(value, section_of(section, key), here)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the comments of files, or checks them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tardis_fl.config.comments")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 on drift")
    options = parser.parse_args(arguments)
    drifted = 0
    for file in options.files:
        before = file.read_text(encoding="utf-8")
        after = commented(before)
        if before == after:
            continue
        drifted += 1
        if options.check:
            print(f"{file}: {_first_difference(before, after)}")
        else:
            file.write_text(after, encoding="utf-8")
            print(f"{file}: comments rewritten")
    return 1 if options.check and drifted else 0


def _first_difference(before: str, after: str) -> str:
    old = before.splitlines()
    for number, line in enumerate(after.splitlines()):
        if number >= len(old) or old[number] != line:
            got = repr(old[number].strip()) if number < len(old) else "the end"
            return f"line {number + 1}: got {got}; the schema has {line.strip()!r}"
    return f"line {len(after.splitlines()) + 1}: got more than the schema has"


if __name__ == "__main__":
    sys.exit(main())
