"""Modules and objects that a configuration names: imported, with one message where that fails."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from tardis_fl.core.problem import Problem
from tardis_fl.errors import ConfigError

_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
MODULE = re.compile(rf"^{_PATH}$")
REFERENCE = re.compile(rf"^{_PATH}:{_PATH}$")
"""MODULE:OBJECT, such as `my_package.networks:TinyNet`."""

IMPORTING = threading.RLock()


class ImportFailure(Exception):
    """A module or an object that can't be imported.

    Attributes:
        reason: One line: what went wrong and where.
        missing: Whether there is no such module or object, rather than one whose own code fails.
    """

    def __init__(self, reason: str, *, missing: bool) -> None:
        """Keeps what went wrong."""
        super().__init__(reason)
        self.reason = reason
        self.missing = missing


def import_module(name: str) -> ModuleType:
    """Imports a module, from the current working folder too.

    Args:
        name: Such as `my_package.my_plugins`.

    Raises:
        ImportFailure: There is no such module, or its own code fails.
    """
    with _working_folder():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                raise ImportFailure(str(error), missing=True) from None
            raise ImportFailure(failure_of(error), missing=False) from None
        except (Exception, SystemExit) as error:  # scripts without a main guard call exit()
            raise ImportFailure(failure_of(error), missing=False) from None
        _keep_working_folder(module)
    return module


def import_object(reference: str) -> Any:
    """Imports MODULE:OBJECT; the object may be an attribute of another, as in `m:Networks.tiny`.

    Raises:
        ImportFailure: There is no such module or object, or the module's own code fails.
    """
    module_name, _, path = reference.partition(":")
    if not REFERENCE.match(reference):
        raise ImportFailure(
            "that isn't a module's name, a colon and an object's name", missing=True
        )
    module = import_module(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise ImportFailure(str(error), missing=True) from None


def import_callable(reference: str, key: str, form: str = "MODULE:FUNCTION") -> Callable[..., Any]:
    """Imports a function or class that a user names.

    Args:
        reference: MODULE:OBJECT.
        key: Where the name stands, for the message.
        form: What the message asks for.

    Raises:
        ConfigError: It can't be imported, or can't be called.
    """
    try:
        found = import_object(reference)
    except ImportFailure as failure:
        raise ConfigError(str(import_problem(reference, failure, key, form))) from None
    if not callable(found):
        raise ConfigError(str(not_callable(reference, found, key, form)))
    return found  # type: ignore[no-any-return]


def import_problem(name: str, failure: ImportFailure, key: str, form: str) -> Problem:
    """Returns the message about something that can't be imported."""
    if failure.missing:
        return Problem(key, repr(name), f"wanted {form} ({failure.reason})")
    return Problem(key, repr(name), f"importing it fails with {failure.reason}")


def not_callable(name: str, found: object, key: str, form: str) -> Problem:
    """Returns the message about an object that is neither a function nor a class."""
    return Problem(
        key, f"{name!r}, which is {_kind_of(found)} and can't be called", f"wanted {form}"
    )


def failure_of(error: BaseException) -> str:
    """Returns an exception and its place in one line, such as `ValueError: no seed (plug.py:3)`."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    in_one_line = " ".join(f"{type(error).__name__}: {text}".split()).removesuffix(":")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{in_one_line} ({_short(error.filename)}:{error.lineno})"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)
    ]
    if not frames:
        return in_one_line
    return f"{in_one_line} ({_short(frames[-1].filename)}:{frames[-1].lineno})"


def _is_users(filename: str) -> bool:
    """Whether a frame isn't one of the import machinery or of this module."""
    return not filename.startswith("<frozen") and filename not in (__file__, importlib.__file__)


def _short(filename: str) -> str:
    """Returns a path below the current folder as a relative one."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _kind_of(value: object) -> str:
    article = "an" if type(value).__name__[0] in "aeiou" else "a"
    return f"{article} {type(value).__name__}"


@contextmanager
def _working_folder() -> Iterator[None]:
    """Lets modules come from the current folder first, as `python -m` does."""
    with IMPORTING:
        folder = str(Path.cwd())
        sys.path.insert(0, folder)
        importlib.invalidate_caches()  # the user may have written the module a moment ago
        try:
            yield
        finally:
            if folder in sys.path:
                sys.path.remove(folder)


def _keep_working_folder(module: ModuleType) -> None:
    """Keeps the current folder as the last place where a module came from it.

    Its functions may import neighbours when they are called, and worker processes get this
    process's places to import from.
    """
    file = getattr(module, "__file__", None)
    folder = Path.cwd()
    # the caller's own entry is one of them and goes away
    already_there = sys.path.count(str(folder)) > 1 or "" in sys.path
    if file and Path(file).is_relative_to(folder) and not already_there:
        sys.path.append(str(folder))
