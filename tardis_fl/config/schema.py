"""The whole configuration: its sections, and what follows from several of them.

The models are frozen and strict: unknown keys and values of another type are refused.
What involves more than one key is checked in `checks`, whoever makes a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tardis_fl.config.changes import replace_target, set_key
from tardis_fl.config.checks.consistency import all_problems
from tardis_fl.config.data import DataConfig
from tardis_fl.config.deployment import DeploymentConfig
from tardis_fl.config.federation import FederationConfig, GroupConfig
from tardis_fl.config.model import ModelConfig, TierConfig
from tardis_fl.config.problem import ConfigProblems, Problem
from tardis_fl.config.runtime import CallbackConfig, RuntimeConfig
from tardis_fl.config.section import ADDED, Section
from tardis_fl.config.views import SegmentRoles
from tardis_fl.core.plugins import plugin_problems


class Config(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    """Name of the run, and of its folder under runs/."""
    plugins: Annotated[list[str], ADDED] = Field(default=[])
    """Modules that register plug-ins, such as my_package.my_plugins; every process imports them,
    from the current folder too."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Seed of everything that is random."""
    callbacks: Annotated[list[CallbackConfig], ADDED] = Field(default=[])
    """What is called as the run goes on: progress, early stopping, records of your own."""
    data: DataConfig = DataConfig()
    """The data set, and which client holds which part of it."""
    model: ModelConfig = ModelConfig()
    """The network: one segment a tier, one exit a segment."""
    tiers: list[TierConfig] = Field(
        default=[TierConfig(name="device"), TierConfig(name="edge"), TierConfig(name="cloud")]
    )
    """Where the segments run, from the device to the cloud: one tier a segment."""
    federation: FederationConfig = FederationConfig()
    """Who trains what, how often, and what goes wrong."""
    deployment: DeploymentConfig = DeploymentConfig()
    """When a sample leaves its tier, and what travels then."""
    profiles: str | None = None
    """YAML file with profiles of your own (keys devices, links, radios), beside the shipped ones;
    null: only those."""
    runtime: RuntimeConfig = RuntimeConfig()
    """How this machine is used."""

    placeholders: ClassVar[Mapping[str, Any]] = {"name": "unnamed"}

    def with_changes(self, changes: Mapping[str, Any]) -> Config:
        """Returns a configuration with some keys set, checked as a whole.

            config.with_changes({"federation.rounds": 3, "tiers.0.name": "phone"})

        Args:
            changes: Values by dotted path, as for `--set`. A new target of the deployment replaces
                the old one.

        Raises:
            ConfigError: Lists everything that is wrong, one line each.
        """
        raw = self.model_dump(exclude_unset=True)
        problems = []
        for path, value in changes.items():
            keys = value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
            problems += set_key(raw, path, keys, Config)
        replace_target(raw, changes)
        if problems:
            raise ConfigProblems(problems)
        return Config.model_validate(raw)

    @classmethod
    def prepare(cls, data: Any) -> None:
        """Imports the plug-ins, whose names may stand at other keys; what fails is told later."""
        listed = data.get("plugins") if isinstance(data, Mapping) else None
        if isinstance(listed, list):
            plugin_problems([name for name in listed if isinstance(name, str)])
        else:
            plugin_problems()

    def combination_problems(self) -> list[Problem]:
        """Returns what no single key shows: what can't go together, and missing plug-ins."""
        return all_problems(self)

    @property
    def num_segments(self) -> int:
        """Segments of the network, which is also the number of tiers."""
        return len(self.tiers)

    @property
    def segments(self) -> SegmentRoles:
        """Who holds and who trains each segment."""
        return self.federation.segment_roles(self.num_segments)

    @property
    def exit_weights(self) -> list[float]:
        """Weight of each exit's loss at the start, from shallow to deep."""
        return self.model.initial_exit_weights(self.num_segments)

    @property
    def norm_layer(self) -> Literal["batch", "group"]:
        """The kind of norm layer, whoever holds it."""
        return self.model.norm_layer

    @property
    def groups(self) -> list[GroupConfig]:
        """The fleet's groups; one of all clients where they are alike."""
        return list(self.federation.population.groups)

    @property
    def max_depth(self) -> int:
        """Segments that at least one group holds; the others are the server's."""
        return self.segments.max_depth

    @property
    def server_start(self) -> int:
        """Number, from 0, of the first segment that the server trains; their count if none."""
        return self.segments.server_start

    @property
    def nodes_keep_images(self) -> bool:
        """Whether each client's images lie on its own node's disk, and nowhere else."""
        return self.data.partition.scheme == "natural" and self.runtime.engine == "deployment"

    @property
    def keeps_features(self) -> bool:
        """Whether clients keep features from before their training, for a request that follows it.

        Real nodes would keep them in memory, all of them, so they don't.
        """
        federation = self.federation
        asked = (
            federation.server_training == "features"
            and federation.server_epochs > 0
            and not federation.split
        )
        simulated = self.runtime.engine != "deployment"
        stale = federation.feature_timing == "stale"
        return stale and asked and simulated and self.segments.server_trains

    @property
    def calibrates_by_sums(self) -> bool:
        """Whether clients send sums over their held-out samples instead of tables."""
        return self.federation.evaluation.by_sums

    @property
    def group_sizes(self) -> list[int]:
        """Clients in each group: by their shares, where the largest remainders get one more."""
        return self.federation.population.group_sizes

    @property
    def clients_per_round(self) -> int:
        """Clients chosen for a round: the fraction, rounded to the nearest count, at least one."""
        return self.federation.population.clients_per_round
