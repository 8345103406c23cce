"""What all checks share: a plug-in with its options, and what is said where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from tardis_fl.core.importing import failure_of
from tardis_fl.core.options import converted_options, option_problems
from tardis_fl.core.registry import Registry
from tardis_fl.errors import ConfigError, TardisError

Options = Mapping[str, Any]


class PluginError(AssertionError):
    """A plug-in that doesn't keep its contract: what was got, and what was wanted."""


def name_of(plugin: object) -> str:
    """Returns what messages call a plug-in: its name in a configuration, or MODULE:OBJECT."""
    if isinstance(plugin, str):
        return plugin
    named = plugin if hasattr(plugin, "__qualname__") else type(plugin)
    return f"{getattr(named, '__module__', '?')}:{getattr(named, '__qualname__', '?')}"


def prepared(
    registry: Registry[Any], plugin: str | Callable[..., Any], options: Options | None
) -> Callable[..., Any]:
    """Returns a plug-in with its options given.

    Args:
        registry: Of its kind.
        plugin: Its name in a configuration, or itself.
        options: As a configuration has them.

    Raises:
        PluginError: It can't be imported or called, or takes other arguments or options.
    """
    given = dict(options or {})
    if isinstance(plugin, str):
        try:
            bound: Callable[..., Any] = registry.bound(plugin, given)
        except ConfigError as error:
            raise PluginError(str(error)) from None
        return bound
    if not callable(plugin):
        refuse(name_of(plugin), f"a {type(plugin).__name__}, which can't be called", registry.wants)
    problems = option_problems(
        plugin,
        given,
        name=name_of(plugin),
        key=registry.key,
        options_key=registry.options_key,
        supplied=registry.supplied,
        wants=registry.wants,
    )
    if problems:
        raise PluginError("\n".join(map(str, problems)))
    return partial(plugin, **converted_options(plugin, given, supplied=registry.supplied))


def refuse(name: str, got: str, wanted: str) -> NoReturn:
    """Raises what is wrong with a plug-in.

    Raises:
        PluginError: Always.
    """
    raise PluginError(f"{name}: got {got}; wanted {wanted}")


@contextmanager
def failures(name: str, doing: str) -> Iterator[None]:
    """Turns whatever a plug-in raises into a `PluginError`, with the exception as its cause.

    Args:
        name: The plug-in's.
        doing: What it was to do, such as `for 5 clients`.
    """
    try:
        yield
    except PluginError:
        raise
    except TardisError as error:
        raise PluginError(f"{name}: {doing}: {error}") from error
    except Exception as error:
        raise PluginError(f"{name}: {doing} it fails with {failure_of(error)}") from error
