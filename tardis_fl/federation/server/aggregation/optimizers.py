"""What the server makes of a round's aggregated update."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tardis_fl.config.federation import AggregationConfig

SLOTS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedavgm": ("momentum",),
    "fedadam": ("momentum", "squares"),
    "fedyogi": ("momentum", "squares"),
}
"""What each optimiser remembers of a key."""


class ServerOptimizer:
    """Takes the average change of the parameters for a gradient and makes a step with it.

    With Delta = target - current and the rate eta, each parameter by itself:

    - fedavg: w = current + eta Delta. With eta = 1 the target, bit for bit.
    - fedavgm (Hsu et al. 2019): m = beta m + Delta; w = current + eta m.
    - fedadam, fedyogi (Reddi et al. 2021, algorithm 2): m = beta1 m + (1 - beta1) Delta;
      v = beta2 v + (1 - beta2) Delta^2 (fedadam) or v = v - (1 - beta2) Delta^2 sign(v - Delta^2)
      (fedyogi); w = current + eta m / (sqrt(v) + tau). As in the paper no bias is corrected. The
      paper asks for v_{-1} >= tau^2; here it is tau^2. m starts at 0.

    Buffers and integer keys are taken from the target. What is remembered is float64, and a key
    that nobody sent keeps it.
    """

    def __init__(self, config: AggregationConfig, masks: Mapping[str, Tensor]) -> None:
        """Starts with nothing remembered.

        Args:
            config: Optimiser, learning_rate, momentum, beta2 and tau.
            masks: For each floating key, True where a parameter is and False where a buffer is;
                shaped like the weights.
        """
        self._config, self._masks = config, masks
        self._memory: dict[
            str, Tensor
        ] = {}  # `momentum.KEY`, `squares.KEY`; tensors are replaced, never changed

    def step(
        self, current: Mapping[str, Tensor], target: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the next weights of the target's keys.

        Args:
            current: The global weights before the round.
            target: The aggregated weights, a subset of the keys. The result shares tensors with it
                where nothing is computed.
        """
        if self._config.optimizer == "fedavg" and self._config.learning_rate == 1:
            return dict(
                target
            )  # current + (target - current) may differ from target in the last bit
        return {
            key: self._next(key, current[key], wanted) if wanted.is_floating_point() else wanted
            for key, wanted in target.items()
        }

    def _next(self, key: str, current: Tensor, target: Tensor) -> Tensor:
        mask, start = self._masks[key], current.double()
        change = (target.double() - start).masked_fill(~mask, 0.0)
        stepped = start + self._config.learning_rate * self._direction(key, change)
        return torch.where(mask, stepped.to(target.dtype), target)

    def _direction(self, key: str, change: Tensor) -> Tensor:
        config = self._config
        if config.optimizer == "fedavg":
            return change
        old = self._memory.get(f"momentum.{key}", torch.zeros_like(change))
        if config.optimizer == "fedavgm":
            momentum = self._memory[f"momentum.{key}"] = config.momentum * old + change
            return momentum
        momentum = self._memory[f"momentum.{key}"] = (
            config.momentum * old + (1 - config.momentum) * change
        )
        squares, square = (
            self._memory.get(f"squares.{key}", torch.full_like(change, config.tau**2)),
            change.square(),
        )
        if config.optimizer == "fedadam":
            squares = config.beta2 * squares + (1 - config.beta2) * square
        else:
            squares = squares - (1 - config.beta2) * square * torch.sign(squares - square)
        self._memory[f"squares.{key}"] = squares
        return momentum / (squares.sqrt() + config.tau)

    def state(self) -> dict[str, Tensor]:
        """Returns all that `restore` needs to go on bit for bit: `momentum.KEY` and `squares.KEY`, float64, as far as there are any."""
        return dict(self._memory)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a state, in place of what was remembered here.

        Raises:
            ValueError: The state is that of another optimiser or of other weights.
        """
        optimizer, keys = self._config.optimizer, {name.partition(".")[2] for name in state}
        wanted = {f"{slot}.{key}" for slot in SLOTS[optimizer] for key in keys}
        if state.keys() != wanted:
            raise ValueError(
                f"the state is not one of {optimizer} (on one side only: {', '.join(sorted(state.keys() ^ wanted)[:3])})"
            )
        for name, tensor in state.items():
            mask = self._masks.get(name.partition(".")[2])
            if mask is None or mask.shape != tensor.shape:
                raise ValueError(
                    f"the state's {name} {tuple(tensor.shape)} is of other weights, wanted {None if mask is None else tuple(mask.shape)}"
                )
        self._memory = dict(state)
