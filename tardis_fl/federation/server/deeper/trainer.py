"""What the server trains: deeper segments, on the clients' features or on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.codec import codec_of, transfer
from tardis_fl.config.schema import Config
from tardis_fl.core.compute import training_arithmetic
from tardis_fl.early_exit.evaluation import exit_logits
from tardis_fl.early_exit.network import Segment
from tardis_fl.federation.client.local_training import (
    Objective,
    Tally,
    batches,
    build_sgd,
    finish_step,
)
from tardis_fl.federation.server.learning_rate import learning_rate
from tardis_fl.federation.transport.messages import Counts, FeatureBatch


class ServerTrainer:
    """The segments that the server trains, with one optimiser that lives as long as the run.

    Features that come from above the first trained segment go through the segments between as these
    are.

    Args:
        segments: All segments of the network; those from `config.server_start` are trained in
            place.
        config: Optimiser and the planned number of epochs.
        precision: float32 or bfloat16.
        device: Where the segments lie.
    """

    def __init__(
        self, segments: Sequence[Segment], config: Config, precision: str, device: torch.device
    ) -> None:
        self._segments, self._start = segments, config.server_start
        self._settings, self._precision, self._device = config.federation.server, precision, device
        self._codec = codec_of(config.federation.feature_codec)
        self._planned_epochs = max(1, planned_epochs(config))
        self._parameters = [
            parameter for segment in segments[self._start :] for parameter in segment.parameters()
        ]
        self._optimizer = build_sgd(self._parameters, self._settings, self._settings.learning_rate)

    def train_epoch(
        self,
        data: Sequence[FeatureBatch],
        *,
        epoch: int,
        generator: torch.Generator,
        objective: Objective,
    ) -> Counts:
        """Makes one pass over features, shuffled over all clients and depths.

        Args:
            data: Features and labels of all clients, one batch a depth.
            epoch: Which of the planned epochs this is, for the learning rate.
            generator: The order is drawn from it.
            objective: Weights of all exits of the network, and their distillation.

        Returns:
            Samples, losses and right answers of the trained exits seen on the way.
        """
        tally, total = self.tally(), sum(len(part) for part in data)
        self._set_modes()
        steps = [
            (part, rows)
            for part in data
            for rows in batches(len(part), self._settings.batch_size, generator)
        ]
        if len(data) > 1:
            steps = [
                steps[position] for position in torch.randperm(len(steps), generator=generator)
            ]
        for part, rows in steps:
            self._set_rate((epoch + tally.num_samples / total) / self._planned_epochs)
            rows = rows.to(part.labels.device)
            self._step(
                self._codec.decode(part.features[rows]).to(self._device),
                part.labels[rows].to(self._device),
                part.depth,
                objective,
                tally,
            )
        return tally.counts()

    def train_split(
        self, batch: FeatureBatch, *, epoch: int, objective: Objective, tally: Tally
    ) -> Tensor:
        """Makes one step on a client's batch and returns the gradient (B, ...) of its loss for the features.

        Args:
            batch: One client's features, of one step.
            epoch: Which of the planned epochs the round stands for, for the learning rate.
            objective: Weights of all exits of the network, and their distillation.
            tally: What was seen is added to it.
        """
        self._set_modes()
        self._set_rate(epoch / self._planned_epochs)
        features = self._codec.decode(batch.features).to(self._device).requires_grad_()
        self._step(features, batch.labels.to(self._device), batch.depth, objective, tally)
        assert features.grad is not None
        return features.grad

    def tally(self) -> Tally:
        """Returns an empty tally of the trained exits."""
        return Tally(len(self._segments) - self._start, self._device)

    def is_finite(self) -> bool:
        """Whether all trained weights are."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters)

    def state(self) -> dict[str, Tensor]:
        """Returns the optimiser's momentum by number of the parameter, for a checkpoint."""
        buffers = {
            number: self._optimizer.state[parameter].get("momentum_buffer")
            for number, parameter in enumerate(self._parameters)
        }
        return {str(number): buffer for number, buffer in buffers.items() if buffer is not None}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` returned."""
        for number, buffer in state.items():
            parameter = self._parameters[int(number)]
            self._optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(
                buffer
            )

    def _step(
        self, x: Tensor, labels: Tensor, depth: int, objective: Objective, tally: Tally
    ) -> None:
        between = self._segments[depth : self._start]
        with training_arithmetic(self._precision, self._device):
            with torch.set_grad_enabled(x.requires_grad):
                for segment in between:
                    x = segment.body(x)
            loss, logits, _ = replace(
                objective, exit_weights=objective.exit_weights[self._start :]
            ).loss(self._segments[self._start :], x, labels)
        self._optimizer.zero_grad()
        loss.backward()
        for segment in between:
            segment.zero_grad()
        finish_step(self._optimizer, self._parameters, self._settings)
        tally.add(loss, logits, labels)

    def _set_modes(self) -> None:
        for number, segment in enumerate(self._segments):
            segment.train(number >= self._start)

    def _set_rate(self, progress: float) -> None:
        self._optimizer.param_groups[0]["lr"] = learning_rate(
            self._settings, progress, self._planned_epochs
        )


def epochs_a_round(config: Config) -> int:
    """Returns the passes over features that the server makes in a round; split training sees every sample at least once."""
    return 1 if config.federation.split else config.federation.server_epochs


def planned_epochs(config: Config) -> int:
    """Returns the passes over features that the server makes in a whole run."""
    return config.federation.rounds * epochs_a_round(config) + config.federation.final_server_epochs


def deeper_logits(
    segments: Sequence[Segment], batch: FeatureBatch, codec: str, device: torch.device
) -> npt.NDArray[np.float32]:
    """Returns the logits (exits, N, classes) of all exits deeper than the sender's, on features that it sent, in float32.

    `codec` is what features travel in between the deeper tiers.
    """
    sent = codec_of(codec)
    return exit_logits(
        segments[batch.depth :],
        lambda rows: sent.decode(batch.features[rows]).to(device),
        len(batch),
        transfer=transfer(codec),
    )
