"""Who the clients are: groups of an uneven fleet, and who takes part in a round."""

from __future__ import annotations

import numpy as np

from tardis_fl.config.federation import GroupConfig
from tardis_fl.config.views import PopulationSettings
from tardis_fl.core.randomness import Purpose, numpy_generator


class Population:
    """The fleet's clients by number. Everything follows from the seed, nothing from the data.

    Args:
        settings: The clients there are, and how many take part in a round.
        seed: The run's seed.

    Attributes:
        groups: The kinds of clients.
    """

    def __init__(self, settings: PopulationSettings, seed: int) -> None:
        self.groups = settings.groups
        self._clients_per_round = settings.clients_per_round
        self._seed = seed
        in_order = np.repeat(np.arange(len(self.groups)), settings.group_sizes)
        shuffled = numpy_generator(seed, Purpose.GROUPS).permutation(len(in_order))
        self._group_of = in_order[shuffled]
        self._availability = np.array([group.availability for group in self.groups])[self._group_of]

    def group(self, client: int) -> GroupConfig:
        """Returns the group of a client."""
        return self.groups[int(self._group_of[client])]

    def depth(self, client: int) -> int:
        """Returns how many segments a client holds."""
        return self.group(client).depth

    def choose(self, round_number: int) -> list[int]:
        """Returns the round's clients, ascending.

        They are as many as configured, or all that are available where those are fewer.
        """
        selection = numpy_generator(self._seed, Purpose.SELECTION, round_number)
        order = selection.permutation(len(self._group_of))
        if (self._availability < 1).any():
            drawn = numpy_generator(self._seed, Purpose.AVAILABILITY, round_number)
            is_available = drawn.random(len(order)) < self._availability
            order = order[is_available[order]]
        return sorted(order[: self._clients_per_round].tolist())
