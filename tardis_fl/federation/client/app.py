"""The Flower ClientApp: unpack, call a plain function, pack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from tardis_fl.core.randomness import Purpose
from tardis_fl.data.roles import Role
from tardis_fl.federation.client.errors import reply_with_errors
from tardis_fl.federation.client.local_training import (
    answering_exits,
    train_segments,
)
from tardis_fl.federation.client.norm_statistics import client_statistics
from tardis_fl.federation.client.request import Request
from tardis_fl.federation.client.resources import problems_here
from tardis_fl.federation.client.split_training import SplitClient
from tardis_fl.federation.conditions.privacy import private_weights
from tardis_fl.federation.server.evaluation.calibration_sums import (
    client_histograms,
    client_temperature_sums,
    held_out_answers,
)
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.messages import Counts, FeatureBatch

# in a client's state: computed before its training, for the request that follows it
STALE_FEATURES = "stale_features"

app = ClientApp(mods=[reply_with_errors])


@app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Tells which client this node is, how much it holds and what its images are like; of its own images, how many are of which class."""
    unable = problems_here(message, context)
    if unable is not None:
        return Message(RecordDict({messages.IDENTITY: unable.to_record()}), reply_to=message)
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
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
    request = Request.open(message, context)
    counts = client_histograms(
        request.resources,
        request.shard,
        request.answers(),
        list(request.values["temperatures"]),
        int(request.values["bins"]),
    )
    context.state.pop(messages.ANSWERS)
    return Message(RecordDict({messages.METRICS: counts}), reply_to=message)
