"""Options of plug-ins: what the YAML gives, checked against a function's own parameters.

A parameter's annotation says what its option may be: `int`, `float` (which takes whole numbers),
`bool`, `str`, `Literal[...]`, `list[...]`, `tuple[...]`, `dict[...]`, `X | None`, and with a range
`Annotated[float, Field(gt=0)]` of pydantic. Without an annotation anything goes.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation

from tardis_fl.core.problem import Problem, describe, did_you_mean, wanted_value

BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Options:
    """The options that a function or class takes.

    Attributes:
        types: Annotations by name, `Any` where there is none.
        required: Those without a default.
        takes_any: Whether it has a catch-all, `**options`.
        lacking: Positional arguments that the framework gives and it doesn't take.
        surplus: Positional parameters without a default that nobody gives.
    """

    types: Mapping[str, Any]
    required: tuple[str, ...]
    takes_any: bool
    lacking: int
    surplus: tuple[str, ...]


def options_of(target: Callable[..., Any], *, supplied: int = 0) -> Options:
    """Returns the options of a function or class.

    Args:
        target: The function or class.
        supplied: Its first positional parameters that the framework gives; they are no options.

    Raises:
        ValueError, TypeError: It has no signature, such as some functions written in C.
    """
    parameters = list(inspect.signature(target).parameters.values())
    positional = [parameter for parameter in parameters if parameter.kind in BY_POSITION]
    given = {parameter.name for parameter in positional[:supplied]}
    has_rest = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    named = [p for p in parameters if p.kind in BY_NAME and p.name not in given]
    return Options(
        types={parameter.name: _annotation(target, parameter) for parameter in named},
        required=tuple(p.name for p in named if p.default is p.empty),
        takes_any=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
        lacking=0 if has_rest else max(0, supplied - len(positional)),
        surplus=tuple(
            parameter.name
            for parameter in positional[supplied:]
            if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty
        ),
    )


def option_problems(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    name: str,
    key: str,
    options_key: str | None,
    supplied: int = 0,
    wants: str = "",
) -> list[Problem]:
    """Returns all that is wrong with options for a function or class.

    Args:
        target: The function or class.
        options: As they stand in the YAML.
        name: What the user calls the target.
        key: Where that name stands.
        options_key: Where the options stand; None: there is no place for any.
        supplied: Positional arguments that the framework gives.
        wants: The target's contract in words, for the message where it takes other arguments.
    """
    try:
        known = options_of(target, supplied=supplied)
    except (ValueError, TypeError):
        return []  # no signature to compare with: the call itself will tell
    without_place = known.required if options_key is None else ()
    if known.lacking or known.surplus or without_place:
        return [Problem(key, f"{name!r}, which takes other arguments", f"wanted {wants}")]
    problems = []
    for option, value in options.items():
        path = f"{options_key}.{option}"
        if option in known.types:
            problems += _value_problems(known.types[option], value, path)
        elif not known.takes_any:
            problems.append(_unknown(option, value, path, name, known))
    for option in known.required:
        if option not in options:
            wanted = f"{name!r} wants this option: it has no default"
            problems.append(Problem(f"{options_key}.{option}", "nothing", wanted, (key,)))
    return problems


def converted_options(
    target: Callable[..., Any], options: Mapping[str, Any], *, supplied: int = 0
) -> dict[str, Any]:
    """Returns options in the types of their parameters, such as a tuple for a list.

    Raises:
        pydantic.ValidationError: One of them has a problem that `option_problems` reports.
    """
    try:
        known = options_of(target, supplied=supplied)
    except (ValueError, TypeError):
        return dict(options)
    return {
        option: _validated(known.types.get(option, Any), value) for option, value in options.items()
    }


def _unknown(option: str, value: object, path: str, name: str, known: Options) -> Problem:
    if not known.types:
        wanted = f"{name!r} has no options; remove it"
        return Problem(path, f"an unknown option with {describe(value)}", wanted)
    close = did_you_mean(option, known.types).removeprefix("; ")
    wanted = close or f"known options of {name!r}: {', '.join(known.types)}"
    return Problem(path, f"an unknown option with {describe(value)}", wanted)


def _value_problems(annotation: Any, value: object, path: str) -> list[Problem]:
    try:
        _validated(annotation, value)
    except ValidationError as error:
        found: dict[str, list[Problem]] = {}
        for detail in error.errors(include_url=False):
            where = ".".join([path, *_places(detail["loc"], value)])
            problem = wanted_value(detail)
            if detail["type"] == "missing":
                problem = Problem(where, "nothing", "wanted a value here")
            found.setdefault(where, []).append(problem)
        return [_joined(where, problems) for where, problems in found.items()]
    return []


def _places(location: Sequence[int | str], value: Any) -> Iterator[str]:
    """Yields keys and numbers of a place in a value, without the types of unions in between."""
    for part in location:
        if isinstance(value, dict) and part in value:
            value = value[part]
            yield str(part)
        elif isinstance(part, int):
            value = value[part] if isinstance(value, list | tuple) and part < len(value) else None
            yield str(part)


def _joined(path: str, problems: list[Problem]) -> Problem:
    """Makes one problem of those of a union's types: any of them would do."""
    texts = dict.fromkeys(problem.wanted.removeprefix("wanted ") for problem in problems)
    return Problem(path, problems[0].got, f"wanted {' or '.join(texts)}")


def _validated(annotation: Any, value: object) -> Any:
    """Returns a value in an annotation's type.

    Raises:
        ValidationError: It isn't of that type.
    """
    try:
        adapter = TypeAdapter(annotation)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError):
        return value  # a class that pydantic doesn't know: the user's own code judges
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return adapter.validate_python(value, strict=True)  # a date, which JSON lacks
    # strict JSON makes a tuple of a list and an enumeration's member of a text, but no number of a
    # text
    return adapter.validate_json(text, strict=True)


def _annotation(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Returns a parameter's annotation; `Any` where there is none that can be evaluated."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    unwrapped = inspect.unwrap(target)
    function = getattr(unwrapped, "__init__", None) if inspect.isclass(unwrapped) else unwrapped
    module = sys.modules.get(getattr(unwrapped, "__module__", ""), None)
    names = {**vars(module)} if module is not None else {}
    names |= getattr(function, "__globals__", {})
    try:
        return eval(annotation, names)
    except Exception:  # a name under TYPE_CHECKING, say
        return Any
