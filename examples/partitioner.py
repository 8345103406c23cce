"""A partitioner of one's own: some clients hold much, others little.

Schemes of papers skew the labels; fleets are skewed in size just as often. Here the clients' shares
come from a Dirichlet distribution, as in Hsu et al. (2019), who draw shares of labels from it.

    python -m tardis_fl.simulate examples/partitioner.yaml
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

Indices = npt.NDArray[np.int64]


def quantity_skew(
    labels: Indices,
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: Annotated[float, Field(gt=0)] = 1.0,
    smallest: Annotated[int, Field(ge=1)] = 20,
) -> list[Indices]:
    """Deals shuffled samples in shares of very different size.

    Args:
        labels: (N,) of the training samples; only their number counts.
        num_clients: Clients to deal to.
        rng: Draws shares and order.
        alpha: Concentration of the shares; smaller is more uneven.
        smallest: Samples that every client gets; the shares are of what is left.

    Raises:
        ValueError: There are too few samples for that.
    """
    left = len(labels) - num_clients * smallest
    if left < 0:
        raise ValueError(f"{len(labels)} samples are too few for {smallest} a client")
    shares = rng.dirichlet(np.full(num_clients, alpha))
    # ends are rounded, not sizes, so that every sample is dealt
    ends = np.rint(np.cumsum(shares) * left).astype(int)
    ends += smallest * np.arange(1, num_clients + 1)
    return np.split(rng.permutation(len(labels)), ends[:-1])
