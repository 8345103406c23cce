"""Comments of configuration files: made from the schema, and checked to be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import Field

from tardis_fl.config import Config
from tardis_fl.config.comments import commented, main
from tardis_fl.config.keys import description_of, section_of
from tardis_fl.config.section import Section
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


class Inner(Section):
    """Keys of a section."""

    size: int = 1
    """Number of samples."""
    names: list[str] = Field(default=[])
    """Names, such as a#b."""
    options: dict[str, Any] = Field(default={})
    """Options of your own."""


class Outer(Section):
    """Keys of a file."""

    inner: Inner = Inner()
    """A section
    in two lines."""
    entries: list[Inner] = Field(default=[])
    """Several of them."""
    long: str = ""
    """A description that is longer than the place beside the key, so that it is wrapped into two
    lines."""


BEFORE = """
# A note on the file.
inner:  # what it was
  # A note on the key.
  size: 3
                                # a line of the old comment
                                # and another
  names: ['a # b',   # not a comment
          'c']
  options: {any: 1}
entries:
  - size: 1
  - size: 2   # twice

long: "a text that takes the place of its comment"
"""
AFTER = """
# A note on the file.
inner:                          # A section in two lines.
  # A note on the key.
  size: 3                       # Number of samples.
  names: ['a # b',   # not a comment
          'c']                  # Names, such as a#b.
  options: {any: 1}             # Options of your own.
entries:                        # Several of them.
  - size: 1
  - size: 2

long: "a text that takes the place of its comment"
                                # A description that is longer than the place beside the key, so
                                # that it is wrapped into two lines.
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_comments_of_shipped_configurations_are_those_of_the_schema(path):
    assert main(["--check", str(path)]) == 0


def test_comments_are_made_beside_keys_and_notes_stay():
    expected = AFTER.replace(
        "  - size: 1\n", "  - size: 1                     # Number of samples.\n"
    )
    assert commented(BEFORE, Outer) == expected
    assert commented(expected, Outer) == expected
    assert yaml.safe_load(expected) == yaml.safe_load(BEFORE)


def test_a_comment_that_differs_is_named_and_rewritten(tmp_path, capsys):
    file = tmp_path / "some.yaml"
    file.write_text("name: a\nseed: 3  # a lucky number\n")
    assert main(["--check", str(file)]) == 1
    assert f"{file}: line 1: got 'name: a'; the schema has 'name: a " in capsys.readouterr().out
    assert file.read_text() == "name: a\nseed: 3  # a lucky number\n"
    assert main([str(file)]) == 0
    assert main(["--check", str(file)]) == 0
    assert "seed: 3                         # Seed of everything" in file.read_text()


def choices_of(annotation):
    """The values of every Literal in an annotation."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    return [value for part in get_args(annotation) for value in choices_of(part)]


def keys_with_choices(section=Config, prefix=""):
    schema = section.model_json_schema()["properties"]
    for key, field in section.model_fields.items():
        listed = schema[key].get("anyOf", [{}])[0].get("enum", [])
        names = choices_of(field.annotation) or listed
        if names:
            yield pytest.param(section, key, names, id=f"{prefix}{key}")
        inner = section_of(section, key)
        if inner is not None:
            yield from keys_with_choices(inner, f"{prefix}{key}.")


@pytest.mark.parametrize(("section", "key", "names"), keys_with_choices())
def test_a_description_names_every_choice(section, key, names):
    description = description_of(section, key)
    missing = [name for name in names if name.partition("+")[0] not in description]
    assert missing == []


def test_choices_are_found_in_unions_and_annotations():
    assert choices_of(Annotated[Literal["a", "b"] | None, "meta"]) == ["a", "b"]
