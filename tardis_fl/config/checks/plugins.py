"""Plug-ins that a configuration names: are they there, and do their options exist?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tardis_fl.config.problem import Problem
from tardis_fl.config.schema import Config
from tardis_fl.core.importing import REFERENCE
from tardis_fl.core.plugins import missing_plugins, plugin_problems
from tardis_fl.core.registry import Registry
from tardis_fl.data.partitioners import PARTITIONERS
from tardis_fl.federation.server.rules import AGGREGATION_RULES


@dataclass(frozen=True)
class Choice:
    """One key of a configuration that names a plug-in.

    Attributes:
        registry: What may be named.
        name: What is named.
        options: Its options.
        on_clients: Whether clients call it.
    """

    registry: Registry[Any]
    name: str
    options: Mapping[str, Any]
    on_clients: bool


def choices(config: Config) -> Iterator[Choice]:
    """Yields every key that names a plug-in; a new kind of plug-in has its line here."""
    partition = config.data.partition
    aggregation = config.federation.aggregation
    yield Choice(PARTITIONERS, partition.scheme, partition.options, on_clients=True)
    yield Choice(AGGREGATION_RULES, aggregation.rule, aggregation.options, on_clients=False)


def choice_problems(config: Config) -> Iterator[Problem]:
    """Imports what a configuration names; yields what is missing, fails, or has other options."""
    failed = plugin_problems(config.plugins)
    yield from failed
    for choice in choices(config):
        # a module that failed might have registered the name, which is then no second problem
        if failed and choice.registry.problem_with_name(choice.name) is not None:
            continue
        yield from choice.registry.problems(choice.name, choice.options)


def problems_on_node(config: Config) -> list[str]:
    """Imports what clients call on this node; returns what it lacks, one text each.

    The texts follow a node's name: `lacks the plug-in my_package.plugins: No module named ...`.
    """
    called = [choice for choice in choices(config) if choice.on_clients]
    references = [choice.name for choice in called if REFERENCE.match(choice.name)]
    lacking = missing_plugins([*config.plugins, *references])
    if lacking:
        return lacking
    return [
        f"lacks the plug-in with the {choice.registry.kind} {choice.name!r}; install it there"
        for choice in called
        if choice.registry.problem_with_name(choice.name) is not None
    ]
