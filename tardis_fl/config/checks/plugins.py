"""Plug-ins that a configuration names: are they there, and do their options exist?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tardis_fl.codecs.names import CODECS, training_codec_names
from tardis_fl.config.problem import Problem
from tardis_fl.core.importing import REFERENCE
from tardis_fl.core.plugins import missing_plugins, plugin_problems
from tardis_fl.core.problem import describe, did_you_mean, one_of
from tardis_fl.core.registry import Registry
from tardis_fl.data.partitioners import PARTITIONERS
from tardis_fl.early_exit.training.registry import LOSSES
from tardis_fl.federation.callbacks.registry import CALLBACKS
from tardis_fl.federation.server.aggregation.rules import AGGREGATION_RULES

if TYPE_CHECKING:
    from tardis_fl.config.schema import Config


@dataclass(frozen=True)
class Choice:
    """One key of a configuration that names a plug-in.

    Attributes:
        registry: What may be named.
        name: What is named.
        options: Its options.
        on_clients: Whether clients call it.
        key: Where it stands, where that isn't the registry's key.
        known: Registered names that may stand there; None: all of them.
    """

    registry: Registry[Any]
    name: str
    options: Mapping[str, Any]
    on_clients: bool
    key: str | None = None
    known: Sequence[str] | None = None

    def problem_with_name(self) -> Problem | None:
        """Returns what is wrong with the name by its form alone; nothing is imported."""
        if self.known is None or self.name in self.known or REFERENCE.match(self.name):
            return self.registry.problem_with_name(self.name, key=self.key)
        wanted = f"wanted {one_of(self.known, self.registry.form)}"
        hint = did_you_mean(self.name, self.known)
        return Problem(self.key or self.registry.key, describe(self.name), f"{wanted}{hint}")

    def problems(self) -> list[Problem]:
        """Returns all that is wrong with the name and its options; what is named is imported."""
        problem = self.problem_with_name()
        if problem is not None:
            return [problem]
        return self.registry.problems(self.name, self.options, key=self.key)


def choices(config: Config) -> Iterator[Choice]:
    """Yields every key that names a plug-in; a new kind of plug-in has its line here."""
    partition = config.data.partition
    aggregation = config.federation.aggregation
    yield Choice(PARTITIONERS, partition.scheme, partition.options, on_clients=True)
    yield Choice(AGGREGATION_RULES, aggregation.rule, aggregation.options, on_clients=False)
    yield Choice(LOSSES, config.model.loss, config.model.loss_options, on_clients=True)
    yield from _codecs(config)
    for number, callback in enumerate(config.callbacks):
        key = f"callbacks.{number}.use"
        yield Choice(CALLBACKS, callback.use, callback.options, on_clients=False, key=key)


def _codecs(config: Config) -> Iterator[Choice]:
    deployment = config.deployment
    yield Choice(
        CODECS,
        config.federation.feature_codec,
        {},
        on_clients=True,
        key="federation.feature_codec",
        known=training_codec_names(),
    )
    yield Choice(CODECS, deployment.feature_codec, {}, on_clients=True)
    for number, name in enumerate(deployment.measure_codecs):
        key = f"deployment.measure_codecs.{number}"
        yield Choice(CODECS, name, {}, on_clients=False, key=key)


def choice_problems(config: Config) -> Iterator[Problem]:
    """Imports what a configuration names; yields what is missing, fails, or has other options."""
    failed = plugin_problems(config.plugins)
    yield from failed
    for choice in choices(config):
        # a module that failed might have registered the name, which is then no second problem
        if failed and choice.problem_with_name() is not None:
            continue
        yield from choice.problems()


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
        if choice.problem_with_name() is not None
    ]
