"""Plug-ins: modules of a user's own that register networks, data sets, algorithms and more.

A configuration lists them (`plugins: [my_package.my_plugins]`), or an installed package names one
in its entry points:

    [project.entry-points."tardis_fl.plugins"]
    my_package = "my_package.my_plugins"

Every process that reads a configuration calls `load_plugins` before it looks at the names in it:
the main one, worker processes, actors of Ray, and real nodes. A node where that fails answers the
handshake with `missing_plugins`, so that the run ends before it begins to train.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tardis_fl.core.importing import (
    MODULE,
    REFERENCE,
    ImportFailure,
    import_module,
    import_object,
    import_problem,
)
from tardis_fl.core.problem import Problem, describe, raise_problems

GROUP = "tardis_fl.plugins"
KEY = "plugins"
FINGERPRINT_CHARACTERS = 16

_loaded: set[str] = set()


def load_plugins(modules: Sequence[str] = ()) -> None:
    """Imports the entry points of installed packages, then the listed modules, each once a process.

    Args:
        modules: As the key `plugins` lists them.

    Raises:
        ConfigError: Has a line for each that can't be imported.
    """
    raise_problems(plugin_problems(modules))


def plugin_problems(modules: Sequence[str] = ()) -> list[Problem]:
    """Imports plug-ins as `load_plugins` does; returns a problem for each that can't be."""
    problems = []
    for entry in _entry_points():
        name = f"{entry.value!r} of {_distribution(entry)}"
        failure = _load(f"{entry.module}:{entry.attr}" if entry.attr else entry.module)
        if failure is not None:
            wanted = f"importing it fails with {failure.reason}; mend or uninstall that package"
            problems.append(Problem(f"entry point {GROUP}", name, wanted))
    form = f"a module that is installed, or lies in {Path.cwd()}"
    for number, module in enumerate(modules):
        key = f"{KEY}.{number}"
        if not MODULE.match(module):
            wanted = "wanted a module's name, such as my_package.my_plugins"
            problems.append(Problem(key, describe(module), wanted))
            continue
        failure = _load(module)
        if failure is not None:
            problems.append(import_problem(module, failure, key, form))
    return problems


def missing_plugins(names: Iterable[str]) -> list[str]:
    """Returns what a node says of the plug-ins that it can't import, one text each.

    Args:
        names: Modules as under `plugins`, and MODULE:OBJECT as at the keys that name a plug-in.
            They are imported.
    """
    texts = []
    for name in names:
        try:
            if REFERENCE.match(name):
                import_object(name)
            else:
                import_module(name)
        except ImportFailure as failure:
            if failure.missing:
                texts.append(f"lacks the plug-in {name}: {failure.reason}; install it there")
            else:
                texts.append(f"can't import the plug-in {name}: {failure.reason}")
    return texts


def plugin_fingerprint(name: str) -> str:
    """Returns a short hash of a plug-in's source, to tell whether two machines have the same one.

    Args:
        name: A module, or MODULE:OBJECT, that is imported already.

    Returns:
        Empty where the module has no file that can be read.
    """
    module = sys.modules.get(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    if file is None:
        return ""
    try:
        content = Path(file).read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()[:FINGERPRINT_CHARACTERS]


def _load(name: str) -> ImportFailure | None:
    """Imports a module, or MODULE:OBJECT of an entry point, once a process."""
    if name in _loaded:
        return None
    try:
        if ":" in name:
            import_object(name)
        else:
            import_module(name)
    except ImportFailure as failure:
        return failure
    _loaded.add(name)
    return None


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """Returns the plug-ins of installed packages, sorted, so that messages repeat."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)))


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an installed package"
