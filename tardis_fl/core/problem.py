"""One thing that is wrong with what a user wrote, in the words that all messages use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tardis_fl.errors import ConfigError

NUMBER_IN_TEXT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

SCALAR_NAMES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a group of keys",
    "model_attributes_type": "a group of keys",
    "dict_type": "a group of keys",
    "none_required": "null",
}


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
        """Returns the message."""
        return f"{self.path}: got {self.got}; {self.wanted}"


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raises all problems as one error; does nothing where there is none.

    Raises:
        ConfigError: Has a line for each different problem.
    """
    lines = dict.fromkeys(str(problem) for problem in problems)
    if lines:
        raise ConfigError("\n".join(lines))


def describe(value: object) -> str:
    """Returns a value from YAML as a message names it: `the text 'fast'`, `a list of 3`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Mapping):
        return "a group of keys"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return str(value) if isinstance(value, int | float) else repr(value)


def did_you_mean(got: object, known: Iterable[str]) -> str:
    """Returns `; did you mean 'NAME'?` for the nearest known name; nothing where none is near."""
    close = difflib.get_close_matches(str(got), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(names: Iterable[str], *others: str) -> str:
    """Returns what a message offers, other forms without quotes: `'a', 'b' or MODULE:CLASS`."""
    choices = [*map(repr, names), *others]
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if choices[1:] else choices)


def wanted_value(detail: Mapping[str, Any]) -> Problem:
    """Turns an error of pydantic about one value into a problem.

    Args:
        detail: An entry of `ValidationError.errors()` about a value: its type, range or form.
            Unknown keys are the caller's, who knows what keys there are.

    Returns:
        Its path is the error's location.
    """
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return Problem(path, "nothing", "wanted this key: it has no default")
    return Problem(path, describe(detail.get("input")), f"wanted {_wanted_form(detail)}")


def _wanted_form(detail: Mapping[str, Any]) -> str:
    kind = detail["type"]
    got = detail.get("input")
    context = detail.get("ctx", {})
    if kind in SCALAR_NAMES:
        return f"{SCALAR_NAMES[kind]}{_number_hint(kind, got)}"
    if kind in ("too_short", "too_long"):
        length = context.get("min_length", context.get("max_length"))
        return f"at {'least' if kind == 'too_short' else 'most'} {length} entries"
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", context["expected"])
        return f"{context['expected']}{did_you_mean(got, choices)}"
    if kind == "value_error":
        message = str(context["error"])
        return message.partition("wanted ")[2] or message
    if kind == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-', with a letter or digit first"
    message = str(detail["msg"])
    return message.replace("Input should be ", "").replace("Value should ", "")


def _number_hint(kind: str, got: object) -> str:
    """Returns how to write a number that YAML reads as text, such as 1e-3."""
    is_number = isinstance(got, str) and NUMBER_IN_TEXT.match(got)
    if not is_number or "number" not in SCALAR_NAMES[kind]:
        return ""
    return f"; YAML reads {got} as text: write it {as_yaml_number(str(got))}"


def as_yaml_number(text: str) -> str:
    """Returns a number in the form that YAML reads as one: with a dot and a signed exponent."""
    if not re.search("[eE]", text):
        return f"{text} without quotes"
    mantissa, exponent = re.split("[eE]", text)
    if "." not in mantissa:
        mantissa = f"{mantissa}.0"
    if exponent[0] not in "+-":
        exponent = f"+{exponent}"
    return f"{mantissa}e{exponent}"
