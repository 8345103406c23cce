"""Partitioners by name: who holds which training samples.

A partitioner of your own is a function, named as MODULE:FUNCTION at `data.partition.scheme` or
registered here in a module that the key `plugins` lists:

    @PARTITIONERS.register("quantity_skew")
    def quantity_skew(labels, num_clients, rng, *, alpha: float = 1.0): ...

Its options stand at `data.partition.options`. `tardis_fl.testing.check_partitioner` tests it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tardis_fl.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Partitioner(Protocol):
    """Deals samples to clients; further parameters are its options."""

    def __call__(
        self,
        labels: npt.NDArray[np.int64],
        num_clients: int,
        rng: np.random.Generator,
        /,
    ) -> Sequence[npt.NDArray[np.int64]]:
        """Returns the indices of each client's samples.

        Args:
            labels: (N,) of the training samples.
            num_clients: Clients to deal to.
            rng: Of this purpose alone; the same each time, on every machine that takes part.

        Returns:
            For each client an array of whole numbers from 0 to N - 1. A sample goes to one client at
            most.
        """


PARTITIONERS: Registry[Partitioner] = Registry(
    "partitioner",
    key="data.partition.scheme",
    wants="a function of (labels, num_clients, rng) that returns the indices of each client",
    supplied=3,
    options_key="data.partition.options",
)
for _name in ("iid", "dirichlet", "pathological", "shard", "natural"):
    PARTITIONERS.register(_name, f"tardis_fl.data.partitioners.label_skew:{_name}")

OWN_KEYS = {
    "iid": (),
    "dirichlet": ("alpha", "min_samples"),
    "pathological": ("classes_per_client",),
    "shard": ("shards_per_client",),
    "natural": (),
}
"""Keys of `data.partition` that each of our partitioners takes as options, by scheme."""
