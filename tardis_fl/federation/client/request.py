"""A request as a client sees it: the message, and what this process has for it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, numpy_generator, torch_generator
from tardis_fl.data.roles import Role, Shard
from tardis_fl.early_exit.network import Segment
from tardis_fl.federation.client.local_training import (
    Indices,
    Objective,
    build_distillation,
    held_out_logits,
    noisy,
    training_features,
)
from tardis_fl.federation.client.resources import ClientResources, resources_of
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.messages import Counts, FeatureBatch
from tardis_fl.federation.transport.weights import Flat

SECRET = "secret"  # in a real node's state: a number that nobody else has


@dataclass(frozen=True)
class Request:
    """A message with what this process has for it."""

    resources: ClientResources
    shard: Shard
    values: dict[str, Any]
    content: RecordDict
    context: Context

    @classmethod
    def open(cls, message: Message, context: Context) -> Request:
        """Opens a message with the resources of its configuration; see `resources_of` for errors."""
        resources = resources_of(message, context)
        values = dict(message.content.config_records[messages.INSTRUCTION])
        return cls(
            resources,
            resources.partition.shard(int(context.node_config["partition-id"])),
            values,
            message.content,
            context,
        )

    @property
    def config(self) -> Config:
        """The configuration that came with the message."""
        return self.resources.config

    @property
    def round(self) -> int:
        """The round, from 1; 0 is before the first."""
        return int(self.values["round"])

    @property
    def depth(self) -> int:
        """Segments, from the first, that the client works with."""
        return int(self.values["depth"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of this round's local training."""
        return float(self.values["learning_rate"])

    @property
    def segments(self) -> list[Segment]:
        """The resident model's segments that the client works with."""
        return self.resources.segments[: self.depth]

    @property
    def holds_all(self) -> bool:
        """Whether the client works with the whole network."""
        return self.depth == self.config.num_segments

    @property
    def is_first(self) -> bool:
        """Whether the first piece of something is asked for."""
        return int(self.values["first"]) == 0

    def piece(self, batch: FeatureBatch) -> dict[str, Tensor]:
        """Returns the rows that are asked for, as many as a message may hold."""
        return batch.piece(int(self.values["first"]), self.config.federation.piece_bytes).tensors()

    @property
    def trained_keys(self) -> list[str]:
        """Keys of the weights that the client trains and sends back."""
        return self.resources.weights.keys(self.depth, exits=self.config.federation.client_exits)

    def objective(self) -> Objective:
        """Returns what this round asks of the held exits."""
        values, federation = self.values, self.config.federation
        weights = list(values["exit_weights"])[: self.depth]
        if federation.client_exits == "last":
            weights[:-1] = [0.0] * (self.depth - 1)
        return Objective(
            weights,
            build_distillation(self.config),
            float(values["distillation_weight"]),
            federation.proximal_mu,
            self.resources.criterion,
        )

    def load_weights(self) -> None:
        """Loads the weights of the message; raises ValueError where they don't fit."""
        weights, flat = self.resources.weights, self.received()
        weights.check(flat, weights.keys(self.depth))
        weights.load(flat)

    def load_own_norms(self) -> None:
        """Loads the client's own norm layers, where it keeps any (FedBN)."""
        if self.config.model.norm == "batch_local" and messages.OWN_NORMS in self.context.state:
            self.resources.weights.load_norms(
                messages.unpack_tensors(self.context.state.array_records[messages.OWN_NORMS])
            )

    def keep_own_norms(self) -> None:
        """Keeps the client's norm layers for its next round, where they are its own (FedBN)."""
        if self.config.model.norm == "batch_local":
            self.context.state[messages.OWN_NORMS] = messages.pack_tensors(
                self.resources.weights.flatten_norms(self.resources.weights.keys(self.depth))
            )

    def answers(self) -> ArrayRecord:
        """Returns the logits of the held-out samples that an earlier request left."""
        if messages.ANSWERS not in self.context.state:
            raise RuntimeError(
                "got a question about its held-out samples before the weights to pass them through; wanted query.temperatures with weights first"
            )
        return self.context.state.array_records[messages.ANSWERS]

    def received(self) -> Flat:
        """Returns the weights of the message."""
        return messages.unpack_tensors(self.content.array_records[messages.WEIGHTS])

    def update(self, flat: Flat, counts: Counts, *, start: Callable[[], Flat]) -> RecordDict:
        """Packs new weights of the trained keys, after the faults of this client and round have had their way."""
        faults, flat = self.resources.faults, {key: flat[key] for key in self.trained_keys}
        if faults.entries:
            flat = faults.damage(
                flat,
                start,
                self.resources.weights.parameters,
                round_number=self.round,
                client=self.shard.client,
            )
        return RecordDict(
            {messages.WEIGHTS: messages.pack_tensors(flat), messages.METRICS: counts.to_record()}
        )

    def features(
        self, depth: int, *, first: int = 0, most_bytes: int | None = None
    ) -> FeatureBatch:
        """Computes the features of a share of the training samples with the loaded weights, after `depth` segments: all, or a piece of them."""
        work, federation = self.resources, self.config.federation
        indices, generator = self.shared_samples(Purpose.FEATURE_VIEW)

        def add_noise(features: Tensor, batch: int) -> Tensor:
            return noisy(
                features,
                federation.feature_noise,
                numpy_generator(
                    self.noise_seed(), Purpose.FEATURE_NOISE, self.round, self.shard.client, batch
                ),
            )

        return training_features(
            work.segments[:depth],
            work.data,
            indices,
            codec=federation.feature_codec,
            generator=generator,
            precision=work.precision,
            first=first,
            most_bytes=most_bytes,
            noise=add_noise if federation.feature_noise else None,
        )

    def noise_seed(self) -> int:
        """Returns the run's seed where nodes are simulated, and else a number that stays on the node: noise that the server can draw hides nothing."""
        if self.config.runtime.engine != "deployment":
            return self.config.seed
        if SECRET not in self.context.state:
            self.context.state[SECRET] = ConfigRecord({"seed": secrets.token_hex(16)})
        return int(str(self.context.state.config_records[SECRET]["seed"]), 16)

    def shared_samples(self, purpose: Purpose) -> tuple[Indices, torch.Generator]:
        """Returns the training samples whose features are asked for, and the generator that goes on with their views."""
        generator, indices = self.generator(purpose), self.shard.train
        count = max(1, round(float(self.values["fraction"]) * len(indices)))
        if count < len(indices):
            indices = indices[torch.randperm(len(indices), generator=generator)[:count].numpy()]
        return indices, generator

    def generator(self, purpose: Purpose) -> torch.Generator:
        """Returns the generator of a purpose in this round, for this client."""
        return torch_generator(self.config.seed, purpose, self.round, self.shard.client)

    def held_out(self, role: Role) -> tuple[Tensor, FeatureBatch]:
        """Returns logits (exits, N, classes) of the held exits on the CPU, and the features that travel."""
        work = self.resources
        logits, batch = held_out_logits(
            self.segments,
            work.data,
            self.shard.indices(role),
            codec=self.config.deployment.feature_codec,
        )
        return torch.from_numpy(logits), batch
