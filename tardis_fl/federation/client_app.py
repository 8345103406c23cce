"""The Flower ClientApp: unpack, call a plain function, pack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from tardis_fl.data.roles import Role, Shard
from tardis_fl.federation import messages
from tardis_fl.federation.local_training import held_out_logits, train_segments, training_features
from tardis_fl.federation.messages import Counts, FeatureBatch
from tardis_fl.federation.workspace import Workspace, open_workspace
from tardis_fl.randomness import Purpose, torch_generator

app = ClientApp()


@app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Tells which client this node is, how much it holds and what its images are like."""
    request = _Request.open(message, context)
    shape = request.workspace.dataset.train.images.shape
    record = MetricRecord({
        "client": request.shard.client, "num_train": len(request.shard.train), "num_classes": request.workspace.dataset.num_classes,
        "image_shape": [int(shape[3]), int(shape[1]), int(shape[2])],
    })  # fmt: skip
    return Message(RecordDict({messages.METRICS: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains the held segments on the client's training samples; returns their weights and counts."""
    request = _Request.open(message, context, load_weights=True)
    work = request.workspace
    counts = train_segments(
        work.segments, work.data, request.shard.train, config=work.config, learning_rate=float(request.values["learning_rate"]),
        generator=request.generator(Purpose.LOCAL_TRAINING), precision=work.precision,
    )  # fmt: skip
    content = {messages.WEIGHTS: messages.pack_weights(work.state), messages.METRICS: counts.to_record()}
    return Message(RecordDict(content), reply_to=message)


@app.query("features")
def features(message: Message, context: Context) -> Message:
    """Returns features of a share of the training samples, computed with the weights that came."""
    request = _Request.open(message, context, load_weights=True)
    work, generator = request.workspace, request.generator(Purpose.FEATURE_VIEW)
    indices = request.shard.train
    count = max(1, round(float(request.values["fraction"]) * len(indices)))
    if count < len(indices):
        indices = indices[torch.randperm(len(indices), generator=generator)[:count].numpy()]
    batch = training_features(work.segments, work.data, indices, codec=work.config.federation.feature_codec, generator=generator, precision=work.precision)
    return Message(RecordDict({messages.FEATURES_KIND: messages.pack_tensors(batch.tensors())}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Counts right answers of the held exits on the fit samples; adds features where deeper exits exist."""
    request = _Request.open(message, context, load_weights=True)
    logits, batch = request.held_out(Role.FIT)
    correct = (torch.from_numpy(logits).argmax(2) == batch.labels).sum(1)
    content: dict[str, object] = {messages.METRICS: Counts(len(batch), 0.0, tuple(correct.tolist())).to_record()}
    if not request.holds_all:
        content[messages.FEATURES_KIND] = messages.pack_tensors(batch.tensors())
    return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]


@app.query("tables")
def tables(message: Message, context: Context) -> Message:
    """Returns the held exits' logits of the held-out samples with ids and labels, and the features for deeper exits."""
    request = _Request.open(message, context, load_weights=True)
    tensors = {}
    for role in (Role.FIT, Role.CALIBRATE):
        logits, batch = request.held_out(role)
        tensors |= {f"{role.value}.logits": torch.from_numpy(logits), f"{role.value}.sample_ids": torch.from_numpy(request.shard.indices(role))}
        tensors |= {f"{role.value}.labels": batch.labels} if request.holds_all else batch.tensors(f"{role.value}.")
    return Message(RecordDict({messages.FEATURES_KIND: messages.pack_tensors(tensors)}), reply_to=message)


@dataclass(frozen=True)
class _Request:
    """A message with what this process has for it."""

    workspace: Workspace
    shard: Shard
    values: dict[str, int | float]

    @classmethod
    def open(cls, message: Message, context: Context, *, load_weights: bool = False) -> _Request:
        values = dict(message.content["instruction"])  # type: ignore[arg-type]
        workspace = open_workspace(str(values.pop("config")))
        if load_weights:
            messages.load_weights(messages.read_weights(message.content.array_records[messages.WEIGHTS], workspace.state), into=workspace.state)
        return cls(workspace, workspace.partition.shard(int(context.node_config["partition-id"])), values)

    @property
    def holds_all(self) -> bool:
        return len(self.workspace.segments) == self.workspace.config.num_segments

    def generator(self, purpose: Purpose) -> torch.Generator:
        return torch_generator(self.workspace.config.seed, purpose, int(self.values["round"]), self.shard.client)

    def held_out(self, role: Role) -> tuple[npt.NDArray[np.float32], FeatureBatch]:
        work = self.workspace
        return held_out_logits(work.segments, work.data, self.shard.indices(role), codec=work.config.deployment.feature_codec)
