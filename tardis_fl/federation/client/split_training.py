"""The client's side of split training: features up, their gradient down, one step at a time (SplitFed, Thapa et al. 2022).

A client process may end between two messages, so everything it needs for the next step lies in its
Flower
context: weights, momentum and counts. The views of images are drawn anew from generators of their
own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import RecordDict
from torch import Tensor

from tardis_fl.codecs.codec import codec_of
from tardis_fl.config.schema import Config
from tardis_fl.core.compute import training_arithmetic
from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.federation.client.local_training import (
    Indices,
    Objective,
    Tally,
    batches,
    build_sgd,
    finish_step,
)
from tardis_fl.federation.client.resources import ClientResources
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.messages import Counts, FeatureBatch
from tardis_fl.federation.transport.weights import Flat

START, WEIGHTS, MOMENTUM, COUNTS = RECORDS = (
    "split.start",
    "split.weights",
    "split.momentum",
    "split.counts",
)


def planned_batches(
    indices: Indices, config: Config, round_number: int, client: int
) -> list[Tensor]:
    """Returns the sample indices of each step of a client's round, over all local epochs."""
    generator, own = (
        torch_generator(config.seed, Purpose.LOCAL_TRAINING, round_number, client),
        torch.from_numpy(indices),
    )
    return [
        own[rows]
        for _ in range(config.federation.local_epochs)
        for rows in batches(len(own), config.federation.client.batch_size, generator)
    ]


class SplitClient:
    """One client's round of split training.

    Args:
        work: The process's resources; the weights of the round's start are loaded.
        state: The client's Flower state.
        indices: Its training samples.
        depth: Segments that it holds.
        objective: What the round asks.
        learning_rate: The round's.
        round_number: The round.
        client: Its number.
    """

    def __init__(
        self,
        work: ClientResources,
        state: RecordDict,
        indices: Indices,
        *,
        depth: int,
        objective: Objective,
        learning_rate: float,
        round_number: int,
        client: int,
    ) -> None:
        self._work, self._state, self._objective, self._learning_rate = (
            work,
            state,
            objective,
            learning_rate,
        )
        self._segments, self._keys = work.segments[:depth], work.weights.keys(depth)
        self._key = (round_number, client)
        self._batches = planned_batches(indices, work.config, round_number, client)
        self._parameters = [
            parameter for segment in self._segments for parameter in segment.parameters()
        ]

    def begin(self, start: Flat) -> None:
        """Puts the loaded weights into the state, and those that the server sent."""
        self._state[START] = messages.pack_tensors(start)
        self._keep({}, Counts())

    def learn(self, step: int, gradient: Tensor) -> Counts:
        """Makes the gradient step of a batch whose features the server has seen; returns the counts so far.

        The loss is that of the held exits plus the inner product of features and `gradient` (B,
        ...), so that the deeper exits' gradient goes on from where the server left it.
        """
        work, settings = self._work, self._work.config.federation.client
        start = None
        if self._objective.proximal_mu:
            work.weights.load(messages.unpack_tensors(self._state.array_records[START]))
            start = [parameter.detach().clone() for parameter in self._parameters]
        work.weights.load(messages.unpack_tensors(self._state.array_records[WEIGHTS]))
        optimizer = build_sgd(self._parameters, settings, self._learning_rate)
        for number, buffer in messages.unpack_tensors(self._state.array_records[MOMENTUM]).items():
            parameter = self._parameters[int(number)]
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(
                buffer
            )
        x, labels = self._view(step)
        with training_arithmetic(work.precision, work.device):
            loss, logits, features = self._objective.loss(self._segments, x, labels)
        optimizer.zero_grad()
        torch.autograd.backward([loss, features], [None, gradient.to(features)])
        finish_step(
            optimizer,
            self._parameters,
            settings,
            start=start,
            proximal_mu=self._objective.proximal_mu,
        )
        tally = Tally(len(self._segments), work.device)
        tally.add(loss, logits, labels)
        counts = Counts.from_record(self._state.metric_records[COUNTS]) + tally.counts()
        buffers = {
            str(number): optimizer.state[parameter].get("momentum_buffer")
            for number, parameter in enumerate(self._parameters)
        }
        self._keep({name: buffer for name, buffer in buffers.items() if buffer is not None}, counts)
        return counts

    def features(self, step: int) -> FeatureBatch | None:
        """Returns the features of a step's batch, of the weights in the state; None after the last step.

        Running statistics move here, but not in the state: they move when the step is learnt.
        """
        if step == len(self._batches):
            return None
        x, labels = self._view(step)
        with torch.no_grad(), training_arithmetic(self._work.precision, self._work.device):
            for segment in self._segments:
                x = segment.body(x)
        codec = codec_of(self._work.config.federation.feature_codec)
        return FeatureBatch(codec.encode(x), labels, len(self._segments))

    def finish(self) -> tuple[Flat, Flat]:
        """Empties the state; returns the weights that the server sent and the trained ones."""
        start, weights = (
            messages.unpack_tensors(self._state.array_records[name]) for name in (START, WEIGHTS)
        )
        for name in RECORDS:
            self._state.pop(name)
        return start, weights

    def _view(self, step: int) -> tuple[Tensor, Tensor]:
        for segment in self._segments:
            segment.train()
        generator = torch_generator(self._work.config.seed, Purpose.SPLIT_VIEW, *self._key, step)
        return self._work.data.batch(self._batches[step], generator)

    def _keep(self, momentum: Mapping[str, Tensor], counts: Counts) -> None:
        self._state[WEIGHTS] = messages.pack_tensors(self._work.weights.flatten(self._keys))
        self._state[MOMENTUM] = messages.pack_tensors(momentum)
        self._state[COUNTS] = counts.to_record()
