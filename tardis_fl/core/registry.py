"""Registries: what a configuration may name, of our own and of users.

A registry holds one kind of plug-in. Its own entries are registered as texts, so that their names
are known without importing them (and with them PyTorch):

    PARTITIONERS: Registry[Partitioner] = Registry(
        "partitioner",
        key="data.partition.scheme",
        wants="a function of (labels, num_clients, rng) that returns the indices of each client",
        supplied=3,
        options_key="data.partition.options",
    )
    PARTITIONERS.register("iid", "tardis_fl.data.partitioners:iid")

A user registers a function or class in a module that the configuration lists under `plugins`, and
names it; or names it as MODULE:OBJECT, without registering it:

    @PARTITIONERS.register("quantity_skew")
    def quantity_skew(labels, num_clients, rng, *, alpha: float = 1.0): ...

Whoever reads a configuration asks for `PARTITIONERS.problems(scheme, options)`, which imports what
is named and checks the options against its parameters; whoever needs the object calls
`PARTITIONERS.bound(scheme, options)`, which returns it with its options given.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from tardis_fl.core.importing import (
    REFERENCE,
    ImportFailure,
    import_object,
    import_problem,
    not_callable,
)
from tardis_fl.core.options import converted_options, option_problems
from tardis_fl.core.problem import Problem, describe, did_you_mean, one_of, raise_problems
from tardis_fl.errors import ConfigError

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """The plug-ins of one kind: functions or classes by name.

    Args:
        kind: What one is called in messages, such as `partitioner`.
        key: Where a configuration names one, such as `data.partition.scheme`.
        wants: The contract in words, for messages: `a function of (labels, num_clients, rng)`.
        form: `MODULE:FUNCTION` or `MODULE:CLASS`, as messages ask for it.
        supplied: Positional arguments that the framework gives; the other parameters are options.
        options_key: Where a configuration gives options; None: there are none.
        summary: Our names in words, for messages, where there are too many to list.
    """

    def __init__(
        self,
        kind: str,
        *,
        key: str,
        wants: str,
        form: str = "MODULE:FUNCTION",
        supplied: int = 0,
        options_key: str | None = None,
        summary: str = "",
    ) -> None:
        """Starts without entries."""
        self.kind = kind
        self.key = key
        self.wants = wants
        self.form = form
        self.supplied = supplied
        self.options_key = options_key
        self.summary = summary
        self._entries: dict[str, T | str] = {}
        self._texts: set[str] = set()  # names whose entries were registered as texts

    @overload
    def register(self, name: str) -> Callable[[T], T]: ...

    @overload
    def register(self, name: str, entry: T | str) -> None: ...

    def register(self, name: str, entry: T | str | None = None) -> Callable[[T], T] | None:
        """Gives a plug-in a name; without an entry it returns a decorator.

        Args:
            name: Letters, digits, `_`, `-`, `+` and `.`, as it stands in the YAML.
            entry: The function or class, or MODULE:OBJECT, which is imported when it is first used.

        Raises:
            ConfigError: The name is another entry's, or has a colon as only references have. The
                same entry may come again: a module may be imported twice, or a cell run again.
        """
        if not name or ":" in name:
            raise ConfigError(f"{self.kind}: got the name {name!r}; wanted a name without a colon")
        if entry is None:

            def decorator(decorated: T) -> T:
                self.register(name, decorated)
                return decorated

            return decorator
        before = self._entries.get(name)
        if before is not None and _origin(before) != _origin(entry):
            raise ConfigError(
                f"{self.kind} {name!r}: registered twice, as {_origin(before)} and as "
                f"{_origin(entry)}; give one of them another name"
            )
        if isinstance(entry, str):
            self._texts.add(name)
        if before is None or not isinstance(entry, str):
            self._entries[name] = entry
        return None

    def names(self) -> tuple[str, ...]:
        """Returns the registered names, ours first."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered."""
        return name in self._entries

    @property
    def wanted(self) -> str:
        """What may stand at the key, for messages: the names, or MODULE:OBJECT."""
        if self.summary:
            return f"{self.summary}, or {self.form}"
        return one_of(self.names(), self.form)

    def problem_with_name(self, name: str, *, key: str | None = None) -> Problem | None:
        """Returns what is wrong with a name by its form alone; nothing is imported.

        Args:
            name: A registered name, or MODULE:OBJECT, which is taken as it is.
            key: Where it stands, where that isn't the registry's key.
        """
        if name in self._entries or REFERENCE.match(name):
            return None
        hint = did_you_mean(name, self.names())
        return Problem(key or self.key, describe(name), f"wanted {self.wanted}{hint}")

    def problems(
        self, name: str, options: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> list[Problem]:
        """Returns all that is wrong with a name and its options.

        What is named is imported, but for our own entries where they have no options.
        """
        if name in self._texts and not options:
            return []
        found = self._find(name, key or self.key)
        if isinstance(found, Problem):
            return [found]
        return self._call_problems(name, found, options or {}, key or self.key)

    def resolve(self, name: str, *, key: str | None = None) -> T:
        """Returns the function or class of a registered name or MODULE:OBJECT.

        Raises:
            ConfigError: There is no such name, it can't be imported, or it can't be called.
        """
        found = self._find(name, key or self.key)
        if isinstance(found, Problem):
            raise ConfigError(str(found))
        return found

    def bound(
        self, name: str, options: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> T:
        """Returns the function or class with its options given, as `functools.partial` does.

        Values take the types that the parameters are annotated with, such as a tuple for a list.

        Raises:
            ConfigError: See `resolve`; or an option doesn't exist, is missing or has another type.
        """
        found = self.resolve(name, key=key)
        raise_problems(self._call_problems(name, found, options or {}, key or self.key))
        values = converted_options(found, options or {}, supplied=self.supplied)
        return cast("T", functools.partial(found, **values)) if values else found

    def json_schema(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns what may stand at a key as JSON Schema, for `json_schema_extra`.

        Args:
            names: Those that may stand there; None: all registered ones.
        """
        known = list(self.names() if names is None else names)
        return {"anyOf": [{"enum": known}, {"pattern": REFERENCE.pattern}]}

    def _find(self, name: str, key: str) -> T | Problem:
        problem = self.problem_with_name(name, key=key)
        if problem is not None:
            return problem
        entry = self._entries.get(name, name)
        if not isinstance(entry, str):
            return entry
        try:
            found = import_object(entry)
        except ImportFailure as failure:
            return import_problem(name, failure, key, self.form)
        if not callable(found):
            return not_callable(name, found, key, f"{self.form}: {self.wants}")
        if name in self._entries:
            self._entries[name] = cast("T", found)
        return cast("T", found)

    def _options_key(self, key: str) -> str | None:
        """Returns where the options stand that go with a key: beside it, where it is in a list."""
        if self.options_key is None or key == self.key:
            return self.options_key
        return f"{key.rpartition('.')[0]}.{self.options_key.rpartition('.')[2]}"

    def _call_problems(
        self, name: str, found: T, options: Mapping[str, Any], key: str
    ) -> list[Problem]:
        return option_problems(
            found,
            options,
            name=name,
            key=key,
            options_key=self._options_key(key),
            supplied=self.supplied,
            wants=self.wants,
        )


def _origin(entry: Callable[..., Any] | str) -> str:
    """Returns MODULE:OBJECT of an entry, also where its module runs as the main one."""
    if isinstance(entry, str):
        return entry
    module = getattr(entry, "__module__", None) or type(entry).__module__
    name = getattr(entry, "__qualname__", None) or repr(entry)
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module == "__main__" and spec is not None:
        module = spec.name
    if "<" in name:  # functions made inside functions, and lambdas, share their names
        name = f"{name} at {id(entry):#x}"
    return f"{module}:{name}"
