"""Running statistics of batch norm: computed anew by every client, pooled by the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.network import Segment
from tardis_fl.federation.client.local_training import EVALUATION_BATCH, Indices, LocalData


def running_norms(
    segments: Sequence[nn.Module],
) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """Yields the batch norm layers that keep running statistics, by name."""
    for number, segment in enumerate(segments):
        for name, module in segment.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                yield f"{number}.{name}", module


def client_statistics(
    segments: Sequence[Segment], data: LocalData, indices: Indices, generator: torch.Generator
) -> dict[str, Tensor]:
    """Computes a client's mean and variance at every batch norm layer, in float32, on one training view of its samples.

    The layers normalise by their own batches meanwhile, as in training.

    Returns:
        `NAME.mean` and `NAME.var`, (channels,) each, averaged over batches of equal size.
    """
    layers = dict(running_norms(segments))
    momenta = {name: layer.momentum for name, layer in layers.items()}
    own = torch.from_numpy(indices)
    order = own[torch.randperm(len(own), generator=generator)]
    whole = len(order) // EVALUATION_BATCH * EVALUATION_BATCH or len(order)
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None  # PyTorch then keeps the plain average over batches
        for segment in segments:
            segment.train()
        with torch.no_grad():
            for positions in order[:whole].split(EVALUATION_BATCH):
                x, _ = data.batch(positions, generator)
                for segment in segments:
                    x, _ = segment(x)
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
    return {
        f"{name}.{key}": value.clone()
        for name, layer in layers.items()
        for key, value in (("mean", layer.running_mean), ("var", layer.running_var))
    }


class PooledStatistics:
    """Mean and variance over the samples of all clients, summed as they arrive.

    var = E[var_i + mean_i^2] - mean^2, the law of total variance, weighted by samples.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def add(self, statistics: Mapping[str, Tensor], num_samples: int) -> None:
        """Adds what `client_statistics` returned.

        Raises:
            ValueError: A value isn't finite.
        """
        if not all(torch.isfinite(values).all() for values in statistics.values()):
            raise ValueError("sent running statistics that are not finite")
        for name in {key.rpartition(".")[0] for key in statistics}:
            mean, var = statistics[f"{name}.mean"].double(), statistics[f"{name}.var"].double()
            first, second, count = self._sums.get(
                name, (torch.zeros_like(mean), torch.zeros_like(var), 0)
            )
            self._sums[name] = (
                first + num_samples * mean,
                second + num_samples * (var + mean**2),
                count + num_samples,
            )

    def write(self, segments: Sequence[nn.Module]) -> None:
        """Puts the pooled statistics into the layers that got any."""
        with torch.no_grad():
            for name, layer in running_norms(segments):
                if name in self._sums:
                    first, second, count = self._sums[name]
                    mean = first / count
                    layer.running_mean.copy_(mean)
                    layer.running_var.copy_((second / count - mean**2).clamp_min(0))
