"""Who the clients are: groups of an uneven fleet, and who takes part in a round."""

from __future__ import annotations

import numpy as np

from tardis_fl.config.federation import GroupConfig
from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, numpy_generator


class Population:
    """The fleet's clients by number. Everything follows from the seed, nothing from the data.

    Args:
        config: The run's configuration.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.groups = config.groups
        dealt = np.repeat(np.arange(len(self.groups)), config.group_sizes)
        self._group_of = dealt[numpy_generator(config.seed, Purpose.GROUPS).permutation(len(dealt))]
        self._availability = np.array([group.availability for group in self.groups])[self._group_of]

    def group(self, client: int) -> GroupConfig:
        """Returns the group of a client."""
        return self.groups[self._group_of[client]]

    def depth(self, client: int) -> int:
        """Returns how many segments a client holds."""
        return self.group(client).depth

    def choose(self, round_number: int) -> list[int]:
        """Returns the round's clients, ascending: the configured number, or all that can be reached where they are fewer."""
        config = self._config
        order = numpy_generator(config.seed, Purpose.SELECTION, round_number).permutation(
            len(self._group_of)
        )
        if (self._availability < 1).any():
            there = (
                numpy_generator(config.seed, Purpose.AVAILABILITY, round_number).random(len(order))
                < self._availability
            )
            order = order[there[order]]
        return sorted(order[: config.clients_per_round].tolist())
