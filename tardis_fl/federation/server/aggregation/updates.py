"""From the clients' updates to the next weights: screen, aggregate, step."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tardis_fl.config.schema import Config
from tardis_fl.federation.server.aggregation.optimizers import ServerOptimizer
from tardis_fl.federation.server.aggregation.robust import clip_update, parameters_norm, update_norm
from tardis_fl.federation.server.aggregation.weighted_mean import (
    Aggregator,
    WeightedMean,
    build_aggregator,
)
from tardis_fl.federation.transport.weights import Flat, HeldWeights


class Updates:
    """Takes the updates of one round after the other.

    Args:
        weights: The global weights of the segments that clients hold; `finish` replaces them.
        config: The aggregation.
    """

    def __init__(self, weights: HeldWeights, config: Config) -> None:
        self._weights, self._federation = weights, config.federation
        self._norm_masks = {
            key: None if mask.all() else mask.float() for key, mask in weights.parameters.items()
        }
        self._optimizer = ServerOptimizer(config.federation.aggregation, weights.parameters)
        self._late: dict[int, WeightedMean] = {}
        self._aggregator: Aggregator = WeightedMean()
        self._round = 0
        self.reference: Flat = {}
        self.norms: list[float] = []
        self._norms_sent: dict[tuple[str, ...], float] = {}

    def begin(self, round_number: int) -> Flat:
        """Starts a round with what arrives late in it; returns the weights to send out."""
        self._round, self.norms, self._norms_sent = round_number, [], {}
        self.reference = self._weights.flatten()
        self._aggregator = build_aggregator(self._federation.aggregation)
        for arrival in sorted(number for number in self._late if number <= round_number):
            self._add_late(self._late.pop(arrival))
        return self.reference

    def _add_late(self, late: WeightedMean) -> None:
        """Adds late changes to the present weights, each key with the samples of the clients that hold it."""
        for key, values in late.result().items():
            mask = self._weights.parameters.get(key)
            now = (
                values if mask is None else torch.where(mask, self.reference[key] + values, values)
            )
            self._aggregator.add({key: now}, late.weights[key])

    def _late_change(self, update: Flat, factor: float) -> Flat:
        """Returns an update's change of the parameters, scaled, beside its buffers as they are."""
        masks = self._weights.parameters
        return {
            key: torch.where(masks[key], factor * (values - self.reference[key]), values)
            if key in masks
            else values
            for key, values in update.items()
        }

    def add(
        self, update: Flat, keys: Sequence[str], num_samples: int, *, deadlines_missed: int = 0
    ) -> None:
        """Takes one client's update.

        Args:
            update: New weights.
            keys: What the client was to send.
            num_samples: Its training samples.
            deadlines_missed: In how many rounds it arrives. Its change of the parameters,
                discounted, is then added to the weights of
                that round and joins its average: the weights that it was trained from are past.

        Raises:
            ValueError: It doesn't fit, isn't finite, or has exploded.
        """
        settings = self._federation.aggregation
        self._weights.check(update, keys)
        norm, sent = (
            update_norm(update, self.reference, self._norm_masks),
            self._norm_sent(tuple(keys)),
        )
        if settings.max_update_ratio is not None and norm > settings.max_update_ratio * sent:
            raise ValueError(
                f"sent an update that has exploded: it changes the parameters by a norm of {norm:.3g}, "
                f"more than {settings.max_update_ratio:g} (federation.aggregation.max_update_ratio) times their own of {sent:.3g}"
            )
        self.norms.append(norm)
        if settings.rule == "norm_clipping" and settings.clip_norm is not None:
            update, _ = clip_update(
                update, self.reference, self._weights.parameters, settings.clip_norm
            )
        if deadlines_missed:
            change = self._late_change(update, self._federation.late_discount**deadlines_missed)
            self._late.setdefault(self._round + deadlines_missed, WeightedMean()).add(
                change, num_samples
            )
        else:
            self._aggregator.add(update, num_samples)

    def _norm_sent(self, keys: tuple[str, ...]) -> float:
        """Returns the norm of the parameters that went out under some keys, computed once a round."""
        if keys not in self._norms_sent:
            self._norms_sent[keys] = parameters_norm(self.reference, self._norm_masks, keys)
        return self._norms_sent[keys]

    def finish(self) -> None:
        """Replaces the global weights; those that nobody sent stay as they are."""
        if self._aggregator.num_updates:
            self._weights.load(self._optimizer.step(self.reference, self._aggregator.result()))
        self._aggregator = WeightedMean()

    @property
    def num_waiting(self) -> int:
        """Late updates that haven't arrived yet."""
        return sum(late.num_updates for late in self._late.values())

    def norm_summary(self) -> dict[str, float] | None:
        """Returns median and largest norm of this round's updates."""
        return (
            {"median": statistics.median(self.norms), "max": max(self.norms)}
            if self.norms
            else None
        )

    def state(self) -> dict[str, Tensor]:
        """Returns the optimiser and the late updates as tensors, for a checkpoint between two rounds."""
        late = {
            f"late.{arrival}.{name}": tensor
            for arrival, mean in self._late.items()
            for name, tensor in mean.state().items()
        }
        return {
            f"optimizer.{name}": tensor for name, tensor in self._optimizer.state().items()
        } | late

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` returned."""
        self._optimizer.restore(
            {
                name.removeprefix("optimizer."): tensor
                for name, tensor in state.items()
                if name.startswith("optimizer.")
            }
        )
        for arrival in sorted(
            {int(name.split(".")[1]) for name in state if name.startswith("late.")}
        ):
            mean = WeightedMean()
            mean.restore(
                {
                    name.removeprefix(f"late.{arrival}."): tensor
                    for name, tensor in state.items()
                    if name.startswith(f"late.{arrival}.")
                }
            )
            self._late[arrival] = mean
