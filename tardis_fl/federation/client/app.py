"""The Flower ClientApp: unpack, call a plain function, pack."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, numpy_generator, torch_generator
from tardis_fl.data.roles import Role, Shard
from tardis_fl.early_exit.network import Segment
from tardis_fl.federation.client.errors import reply_with_errors
from tardis_fl.federation.client.local_training import (
    Indices,
    Objective,
    answering_exits,
    build_distillation,
    held_out_logits,
    noisy,
    train_segments,
    training_features,
)
from tardis_fl.federation.client.norm_statistics import client_statistics
from tardis_fl.federation.client.resources import ClientResources, problems_here, resources_of
from tardis_fl.federation.client.split_training import SplitClient
from tardis_fl.federation.conditions.privacy import private_weights
from tardis_fl.federation.server.calibration_sums import (
    client_histograms,
    client_temperature_sums,
    held_out_answers,
)
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.messages import Counts, FeatureBatch
from tardis_fl.federation.transport.weights import Flat

# in a client's state: computed before its training, for the request that follows it
STALE_FEATURES = "stale_features"
SECRET = "secret"  # in a real node's state: a number that nobody else has

app = ClientApp(mods=[reply_with_errors])


@app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Tells which client this node is, how much it holds and what its images are like; of its own images, how many are of which class."""
    unable = problems_here(message, context)
    if unable is not None:
        return Message(RecordDict({messages.IDENTITY: unable.to_record()}), reply_to=message)
    request = _Request.open(message, context)
    dataset = request.resources.dataset
    shape = dataset.train.images.shape
    record = ConfigRecord(
        {
            "client": request.shard.client,
            "num_train": len(request.shard.train),
            "num_classes": dataset.num_classes,
            "image_shape": [int(shape[3]), int(shape[1]), int(shape[2])],
            "content_hash": dataset.content_hash,
        }
    )
    if request.config.nodes_keep_images:
        record["label_counts"] = np.bincount(
            dataset.train.labels, minlength=dataset.num_classes
        ).tolist()
    return Message(RecordDict({messages.IDENTITY: record}), reply_to=message)


@app.train(mods=[private_weights])
def train(message: Message, context: Context) -> Message:
    """Trains the held segments on the client's training samples; returns their weights and counts."""
    request = _Request.open(message, context)
    request.load_weights()
    work = request.resources
    context.state.pop(STALE_FEATURES, None)  # of a round in which they weren't asked for
    if request.config.keeps_features:
        depth = min(request.depth, request.config.server_start)
        context.state[STALE_FEATURES] = messages.pack_tensors(request.features(depth).tensors())
    request.load_own_norms()
    counts = train_segments(
        request.segments,
        work.data,
        request.shard.train,
        config=work.config,
        learning_rate=request.learning_rate,
        generator=request.generator(Purpose.LOCAL_TRAINING),
        precision=work.precision,
        objective=request.objective(),
    )
    content = request.update(
        work.weights.flatten(request.trained_keys, copy=False), counts, start=request.received
    )
    request.keep_own_norms()
    return Message(content, reply_to=message)


@app.train("split")
def split(message: Message, context: Context) -> Message:
    """Makes one step of split training; returns the next batch's features, or weights and counts after the last."""
    request = _Request.open(message, context)
    client = SplitClient(
        request.resources,
        context.state,
        request.shard.train,
        depth=request.depth,
        objective=request.objective(),
        learning_rate=request.learning_rate,
        round_number=request.round,
        client=request.shard.client,
    )
    step, counts = int(request.values["step"]), Counts()
    if step == 0:
        request.load_weights()
        request.load_own_norms()
        client.begin(request.received())
    else:
        counts = client.learn(
            step - 1,
            messages.unpack_tensors(message.content.array_records[messages.FEATURES_KIND])[
                "gradient"
            ],
        )
    batch = client.features(step)
    if batch is not None:
        return Message(
            RecordDict({messages.FEATURES_KIND: messages.pack_tensors(batch.tensors())}),
            reply_to=message,
        )
    start, weights = client.finish()
    content = request.update(weights, counts, start=lambda: start)
    request.keep_own_norms()
    return Message(content, reply_to=message)


@app.query("features")
def features(message: Message, context: Context) -> Message:
    """Returns a piece of the features of a share of the training samples: of the weights that came, or those computed before the training."""
    request = _Request.open(message, context)
    first, most_bytes = int(request.values["first"]), request.config.federation.piece_bytes
    if messages.WEIGHTS in message.content:
        request.load_weights()
        batch, count = (
            request.features(request.depth, first=first, most_bytes=most_bytes),
            len(request.shared_samples(Purpose.FEATURE_VIEW)[0]),
        )
    else:
        kept = FeatureBatch.from_tensors(
            messages.unpack_tensors(context.state.array_records[STALE_FEATURES]), request.depth
        )
        batch, count = kept.piece(first, most_bytes), len(kept)
        if first + len(batch) == count:
            context.state.pop(STALE_FEATURES)
    content = RecordDict(
        {
            messages.FEATURES_KIND: messages.pack_tensors(batch.tensors()),
            messages.METRICS: MetricRecord({"num_samples": count}),
        }
    )
    return Message(content, reply_to=message)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Returns mean and variance of the training samples at every batch norm layer."""
    request = _Request.open(message, context)
    request.load_weights()
    found = client_statistics(
        request.segments,
        request.resources.data,
        request.shard.train,
        request.generator(Purpose.STATISTICS),
    )
    return Message(RecordDict({messages.WEIGHTS: messages.pack_tensors(found)}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Counts right answers of the held exits on the fit samples; adds a piece of the features where deeper exits exist."""
    request = _Request.open(message, context)
    request.load_weights()
    request.load_own_norms()
    logits, batch = request.held_out(Role.FIT)
    labels, serving_score = batch.labels.cpu(), request.values.get("serving_score")
    correct = (logits.argmax(2) == labels).sum(1).tolist()
    tensors = {} if request.holds_all else request.piece(batch)
    answered: Sequence[int] = ()
    if serving_score is not None:
        answers = answering_exits(logits, float(serving_score), last_answers=request.holds_all)
        answered = torch.bincount(answers, minlength=len(logits) + 1)[: len(logits)].tolist()
        if request.is_first and not request.holds_all:
            tensors["open"] = (answers == len(logits)).to(torch.uint8)
    content = RecordDict(
        {messages.METRICS: Counts(len(batch), 0.0, tuple(correct), (), tuple(answered)).to_record()}
    )
    if tensors:
        content[messages.FEATURES_KIND] = messages.pack_tensors(tensors)
    return Message(content, reply_to=message)


@app.query("tables")
def tables(message: Message, context: Context) -> Message:
    """Returns the held exits' logits of the held-out samples with ids and labels, and a piece of the features for deeper exits."""
    request = _Request.open(message, context)
    request.load_weights()
    tensors, batches = {}, []
    for role in (Role.FIT, Role.CALIBRATE):
        logits, batch = request.held_out(role)
        batches.append(batch)
        if request.is_first:
            tensors |= {
                f"{role.value}.logits": logits,
                f"{role.value}.sample_ids": torch.from_numpy(request.shard.indices(role)),
            }
            tensors |= {f"{role.value}.labels": batch.labels} if request.holds_all else {}
    if not request.holds_all:
        tensors |= request.piece(FeatureBatch.concatenate(batches))
    metrics = MetricRecord({"num_samples": sum(map(len, batches))})
    return Message(
        RecordDict(
            {messages.FEATURES_KIND: messages.pack_tensors(tensors), messages.METRICS: metrics}
        ),
        reply_to=message,
    )


@app.query("temperatures")
def temperatures(message: Message, context: Context) -> Message:
    """Returns sums over the fit samples at some temperatures; with weights, the held-out samples pass the whole network first."""
    request = _Request.open(message, context)
    if messages.WEIGHTS in message.content:
        request.load_weights()
        context.state[messages.ANSWERS] = held_out_answers(request.resources, request.shard)
    sums = client_temperature_sums(
        request.resources,
        request.shard,
        request.answers(),
        list(request.values["inverse_temperatures"]),
    )
    return Message(RecordDict({messages.METRICS: sums}), reply_to=message)


@app.query("histograms")
def histograms(message: Message, context: Context) -> Message:
    """Returns how many calibrate samples have which score, by right and wrong; forgets what it kept of them."""
    request = _Request.open(message, context)
    counts = client_histograms(
        request.resources,
        request.shard,
        request.answers(),
        list(request.values["temperatures"]),
        int(request.values["bins"]),
    )
    context.state.pop(messages.ANSWERS)
    return Message(RecordDict({messages.METRICS: counts}), reply_to=message)


@dataclass(frozen=True)
class _Request:
    """A message with what this process has for it."""

    resources: ClientResources
    shard: Shard
    values: dict[str, Any]
    content: RecordDict
    context: Context

    @classmethod
    def open(cls, message: Message, context: Context) -> _Request:
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
        return self.resources.config

    @property
    def round(self) -> int:
        return int(self.values["round"])

    @property
    def depth(self) -> int:
        return int(self.values["depth"])

    @property
    def learning_rate(self) -> float:
        return float(self.values["learning_rate"])

    @property
    def segments(self) -> list[Segment]:
        return self.resources.segments[: self.depth]

    @property
    def holds_all(self) -> bool:
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
        return self.resources.weights.keys(self.depth, exits=self.config.federation.client_exits)

    def objective(self) -> Objective:
        values, federation = self.values, self.config.federation
        weights = list(values["exit_weights"])[: self.depth]
        if federation.client_exits == "last":
            weights[:-1] = [0.0] * (self.depth - 1)
        return Objective(
            weights,
            build_distillation(self.config),
            float(values["distillation_weight"]),
            federation.proximal_mu,
        )

    def load_weights(self) -> None:
        weights, flat = self.resources.weights, self.received()
        weights.check(flat, weights.keys(self.depth))
        weights.load(flat)

    def load_own_norms(self) -> None:
        if self.config.model.norm == "batch_local" and messages.OWN_NORMS in self.context.state:
            self.resources.weights.load_norms(
                messages.unpack_tensors(self.context.state.array_records[messages.OWN_NORMS])
            )

    def keep_own_norms(self) -> None:
        if self.config.model.norm == "batch_local":
            self.context.state[messages.OWN_NORMS] = messages.pack_tensors(
                self.resources.weights.flatten_norms(self.resources.weights.keys(self.depth))
            )

    def answers(self) -> ArrayRecord:
        if messages.ANSWERS not in self.context.state:
            raise RuntimeError(
                "got a question about its held-out samples before the weights to pass them through; wanted query.temperatures with weights first"
            )
        return self.context.state.array_records[messages.ANSWERS]

    def received(self) -> Flat:
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
