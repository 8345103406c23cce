"""Options from YAML against the parameters of functions and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import Field

from tardis_fl.core.options import converted_options, option_problems, options_of

if TYPE_CHECKING:
    from somewhere_else import Missing  # type: ignore[import-not-found]


def annotated(
    labels: object,
    num_clients: int,
    rng: object,
    *,
    alpha: float = 1.0,
    count: int = 3,
    flag: bool = False,
    name: str = "a",
    mode: Literal["fast", "slow"] = "fast",
    sizes: list[int] | None = None,
    shape: tuple[int, int] = (1, 1),
    by_class: dict[str, float] | None = None,
    share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    unknown_type: Missing | None = None,
    untyped=None,  # type: ignore[no-untyped-def]
    either: int | str = 0,
) -> None:
    """Three arguments of the framework and an option of each type."""


def needs_two(first: object, *, size: int, colour: str, shade: float = 0.5) -> None:
    """Options without defaults."""


def takes_any(first: object, **options: Any) -> None:
    """A catch-all."""


class Klass:
    def __init__(self, depth: int, width: float = 1.0) -> None:
        """Options of a class."""


@dataclass
class Data:
    depth: int
    width: float = 1.0


def texts(
    target: Any, options: dict[str, Any], supplied: int = 0, options_key: str | None = "k.options"
) -> list[str]:
    found = option_problems(
        target,
        options,
        name="m:f",
        key="k.name",
        options_key=options_key,
        supplied=supplied,
        wants="a function of (x)",
    )
    return [str(problem) for problem in found]


def test_options_of_every_type_are_taken() -> None:
    options = {
        "alpha": 2,
        "count": 4,
        "flag": True,
        "name": "b",
        "mode": "slow",
        "sizes": [1, 2],
        "shape": [3, 4],
        "by_class": {"cat": 1, "dog": 0.5},
        "share": 1,
        "unknown_type": object,
        "untyped": {"a": [None]},
        "either": "x",
    }
    assert texts(annotated, options, 3) == []
    assert texts(annotated, {"sizes": None, "by_class": None, "either": 3}, 3) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("alpha", "x", "k.options.alpha: got the text 'x'; wanted a number"),
        (
            "alpha",
            "1e-3",
            "k.options.alpha: got the text '1e-3'; wanted a number; YAML reads 1e-3 as text: write it 1.0e-3",
        ),
        ("alpha", True, "k.options.alpha: got true; wanted a number"),
        ("alpha", None, "k.options.alpha: got null; wanted a number"),
        ("count", 1.5, "k.options.count: got 1.5; wanted a whole number"),
        ("count", 2.0, "k.options.count: got 2.0; wanted a whole number"),
        ("count", False, "k.options.count: got false; wanted a whole number"),
        ("flag", 1, "k.options.flag: got 1; wanted true or false"),
        ("name", 3, "k.options.name: got 3; wanted text"),
        (
            "mode",
            "fsat",
            "k.options.mode: got the text 'fsat'; wanted 'fast' or 'slow'; did you mean 'fast'?",
        ),
        ("sizes", 3, "k.options.sizes: got 3; wanted a list"),
        ("sizes", [1, "b"], "k.options.sizes.1: got the text 'b'; wanted a whole number"),
        ("shape", [1], "k.options.shape.1: got nothing; wanted a value here"),
        ("shape", [1, 2, 3], "k.options.shape: got a list of 3; wanted at most 2 entries"),
        ("by_class", {"cat": "x"}, "k.options.by_class.cat: got the text 'x'; wanted a number"),
        ("share", 0, "k.options.share: got 0; wanted greater than 0"),
        ("share", 1.5, "k.options.share: got 1.5; wanted less than or equal to 1"),
        ("either", 1.5, "k.options.either: got 1.5; wanted a whole number or text"),
        ("either", [1], "k.options.either: got a list of 1; wanted a whole number or text"),
        ("alhpa", 1, "k.options.alhpa: got an unknown option with 1; did you mean 'alpha'?"),
    ],
)
def test_wrong_options_are_named_with_what_was_got_and_wanted(
    option: str, value: Any, message: str
) -> None:
    assert texts(annotated, {option: value}, 3) == [message]


def test_an_unknown_option_that_is_near_to_nothing_gets_the_list() -> None:
    (text,) = texts(needs_two, {"zzz": 1, "size": 1, "colour": "red"}, 1)
    assert (
        text
        == "k.options.zzz: got an unknown option with 1; known options of 'm:f': size, colour, shade"
    )


def test_what_the_framework_gives_is_no_option() -> None:
    (text,) = texts(annotated, {"labels": 1}, 3)
    assert text.startswith("k.options.labels: got an unknown option with 1; ")


def test_all_problems_come_at_once() -> None:
    assert texts(needs_two, {"size": "big", "hue": 3}, 1) == [
        "k.options.size: got the text 'big'; wanted a whole number",
        "k.options.hue: got an unknown option with 3; known options of 'm:f': size, colour, shade",
        "k.options.colour: got nothing; 'm:f' wants this option: it has no default",
    ]


@pytest.mark.parametrize("target", [Klass, Data])
def test_classes_are_checked_by_what_they_are_made_with(target: type) -> None:
    assert texts(target, {"depth": 2}) == []
    assert texts(target, {"depth": 2.5, "self": 1}) == [
        "k.options.depth: got 2.5; wanted a whole number",
        "k.options.self: got an unknown option with 1; known options of 'm:f': depth, width",
    ]


def test_a_catch_all_takes_anything() -> None:
    assert texts(takes_any, {"a": 1, "b": [None]}, 1) == []
    assert options_of(takes_any, supplied=1).takes_any


def test_a_function_without_options() -> None:
    (text,) = texts(len, {"a": 1}, 1)
    assert text == "k.options.a: got an unknown option with 1; 'm:f' has no options; remove it"


def test_a_function_of_other_arguments_is_said_to_be_one() -> None:
    other = ["k.name: got 'm:f', which takes other arguments; wanted a function of (x)"]
    assert texts(lambda: None, {}, 1) == other
    assert texts(lambda a, b, /: None, {}, 1) == other
    assert texts(lambda a, b: None, {}, 1, options_key=None) == other
    assert texts(lambda *all: None, {}, 5) == []
    assert texts(lambda a, b=1: None, {}, 1, options_key=None) == []


def test_values_take_the_types_of_their_parameters() -> None:
    found = converted_options(annotated, {"shape": [3, 4], "alpha": 2, "untyped": [1]}, supplied=3)
    assert found == {"shape": (3, 4), "alpha": 2.0, "untyped": [1]}
    assert isinstance(found["alpha"], float)
    assert converted_options(takes_any, {"a": [1]}, supplied=1) == {"a": [1]}
