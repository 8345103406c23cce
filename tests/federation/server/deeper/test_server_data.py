"""What the server trains on: fresh, stale, kept, its own, or step by step with the clients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tardis_fl.codecs.codec import codec_of
from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.data.sources import load_dataset
from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.federation.client.split_training import planned_batches
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.rounds import train_federated
from tardis_fl.federation.server.app import meet_nodes
from tardis_fl.federation.server.deeper.feature_buffer import FeatureBuffer
from tardis_fl.federation.transport.messages import FeatureBatch
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate
from tests.federation.test_rounds import same_weights
from tests.reference.federation import split_step_by_step


def batch(value, depth=1, count=3):
    return FeatureBatch(
        codec_of("float32").encode(torch.full((count, 2, 2, 2), float(value))),
        torch.zeros(count, dtype=torch.int64),
        depth,
    )


def test_a_ring_keeps_the_rounds_it_should_and_knows_their_ages():
    buffer = FeatureBuffer(2)
    buffer.add(1, [batch(1), batch(1, depth=2)])
    buffer.add(2, [batch(2, count=5)])
    assert buffer.ages(2) == {0: 5, 1: 6}
    assert [(part.depth, len(part)) for part in buffer.batches()] == [(1, 8), (2, 3)]
    buffer.add(3, [batch(3)])
    assert buffer.ages(3) == {0: 3, 1: 5}
    assert codec_of("float32").decode(buffer.batches()[0].features).unique().tolist() == [2.0, 3.0]
    buffer.add(5, [])
    assert buffer.ages(5) == {}
    assert buffer.batches() == []


def test_a_ring_survives_a_checkpoint():
    buffer, again = FeatureBuffer(3), FeatureBuffer(3)
    buffer.add(9, [batch(1), batch(4, depth=2)])
    buffer.add(10, [batch(2)])
    again.restore(buffer.state(), torch.device("cpu"))
    assert again.ages(10) == buffer.ages(10)
    for ours, theirs in zip(again.batches(), buffer.batches(), strict=True):
        assert torch.equal(ours.features.tensors["values"], theirs.features.tensors["values"])
        assert ours.depth == theirs.depth


def test_the_server_trains_on_as_many_rounds_as_it_keeps():
    recorder = Recorder()
    config = small_config(
        "federation.feature_buffer_rounds=2",
        "federation.rounds=3",
        "federation.final_server_epochs=0",
        "federation.feature_fraction=0.5",
    )
    federate(config, recorder)
    one = sum(
        round(0.5 * len(shard.train))
        for shard in open_resources(config.model_dump_json()).partition.shards()
    )
    assert [record.feature_ages for record in recorder.rounds] == [
        {0: one},
        {0: one, 1: one},
        {0: one, 1: one},
    ]
    assert [record.server.num_samples for record in recorder.rounds] == [one, 2 * one, 2 * one]


def features_seen_by_the_server(monkeypatch, config):
    seen = []
    original = FeatureBatch.from_tensors.__func__

    def watch(cls, tensors, depth, prefix=""):
        found = original(cls, tensors, depth, prefix)
        if not prefix and "open" not in tensors:
            seen.append(codec_of("float32").decode(found.features).clone())
        return found

    monkeypatch.setattr(FeatureBatch, "from_tensors", classmethod(watch))
    trained = federate(config)
    return seen, trained


def test_stale_features_are_of_the_weights_the_round_began_with(monkeypatch):
    base = (
        "federation.rounds=1",
        "federation.evaluate_every=0",
        "federation.final_server_epochs=0",
        "federation.feature_codec=float32",
        "data.augment=false",
    )
    config = small_config(*base, "federation.feature_timing=stale")
    seen, stale = features_seen_by_the_server(monkeypatch, config)
    seen = seen[1::2]  # the client opens what it kept, then the server what came
    work = open_resources(config.model_dump_json())
    start = new_network(config, 10).eval()
    for client in range(3):
        x, _ = work.data.batch(torch.from_numpy(work.partition.shard(client).train), None)
        with torch.no_grad():
            torch.testing.assert_close(seen[client], start.segments[0].body(x))
    fresh = federate(small_config(*base))
    assert (
        stale.ledger.down["weights"] < fresh.ledger.down["weights"]
    )  # they need no weights of their own
    assert stale.ledger.up["features"] == fresh.ledger.up["features"]


def test_real_nodes_compute_stale_features_when_they_are_asked_and_keep_none():
    """A shard's features would stay in a SuperNode's memory; computed again they are the same, for which weights travel once more."""
    overrides = (
        "federation.feature_timing=stale",
        "federation.server_epochs=1",
        "federation.feature_fraction=0.7",
        "data.augment=true",
    )
    config, grid = (
        small_config(*overrides, "runtime.engine=deployment"),
        InlineGrid(client_app.app, 3),
    )
    real = train_federated(
        meet_nodes(grid, config, load_dataset(config), print), config, Recorder()
    )
    simulated = federate(small_config(*overrides))
    assert same_weights(real, simulated)
    assert not grid.states()
    assert real.ledger.down["weights"] > simulated.ledger.down["weights"]


def test_proxy_images_belong_to_nobody_and_no_features_travel_for_training():
    config = small_config(
        "federation.server_training=proxy",
        "federation.proxy_fraction=0.25",
        "federation.evaluate_every=0",
    )
    recorder = Recorder()
    trained = federate(config, recorder)
    partition = open_resources(config.model_dump_json()).partition
    held = np.concatenate(
        [np.concatenate([shard.train, shard.fit, shard.calibrate]) for shard in partition.shards()]
    )
    assert len(partition.proxy) == 60
    assert not set(partition.proxy) & set(held)
    assert len(set(partition.proxy) | set(held)) == 240
    assert recorder.rounds[0].server.num_samples == recorder.epochs[0].server.num_samples == 60
    assert (
        recorder.worked_on["features"] == 60 * 3
    )  # two rounds and one final epoch, each on a view of its own
    with_features = federate(small_config("federation.evaluate_every=0"))
    assert (
        trained.ledger.up["features"] < 0.6 * with_features.ledger.up["features"]
    )  # only those of held-out samples
    start = new_network(config, 10).state_dict()
    assert all(
        not torch.equal(tensor, start[name])
        for name, tensor in trained.network.state_dict().items()
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_split_training_with_one_client_is_joint_training_of_the_whole_network(depth):
    config = small_config(
        "federation.num_clients=1",
        f"federation.client_depth={depth}",
        "federation.split=true",
        "federation.rounds=1",
        "federation.local_epochs=2",
        "federation.final_server_epochs=0",
        "federation.feature_codec=float32",
        "federation.client.schedule=constant",
        "federation.server.schedule=constant",
        "model.exit_weights=[1.0, 0.7, 0.4]",
    )
    trained, work, network = (
        federate(config),
        open_resources(config.model_dump_json()),
        new_network(config, 10),
    )
    steps = planned_batches(work.partition.shard(0).train, config, 1, 0)
    assert len(steps) > 10
    views = [
        work.data.batch(rows, torch_generator(config.seed, Purpose.SPLIT_VIEW, 1, 0, step))
        for step, rows in enumerate(steps)
    ]
    split_step_by_step(
        network,
        views,
        depth=depth,
        weights=[1.0, 0.7, 0.4],
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=5e-4,
    )
    for (name, ours), (_, joint) in zip(
        trained.network.state_dict().items(), network.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(ours, joint, rtol=1e-4, atol=1e-5, msg=name)


def test_split_training_sends_gradients_down_and_counts_them():
    recorder = Recorder()
    config = small_config(
        "federation.split=true",
        "federation.rounds=1",
        "federation.final_server_epochs=0",
        "federation.evaluate_every=0",
    )
    trained = federate(config, recorder)
    work = open_resources(config.model_dump_json())
    num_train = sum(len(shard.train) for shard in work.partition.shards())
    values = num_train * 2 * 16 * 16  # channels x height x width at width 4
    assert 4 * values <= trained.ledger.down["features"] < 4.1 * values  # the gradients, float32
    record = recorder.rounds[0]
    assert record.train.num_samples == record.server.num_samples == num_train
    assert (
        trained.ledger.down["weights"] == 3 * trained.ledger.up["weights"]
    )  # for the round, its evaluation and the tables


def test_the_deeper_gradient_reaches_the_device_segment():
    base = (
        "federation.rounds=1",
        "federation.final_server_epochs=0",
        "federation.client.schedule=constant",
        "data.augment=false",
        "federation.num_clients=1",
    )
    split, local = (
        federate(small_config(*base, "federation.split=true")),
        federate(small_config(*base)),
    )
    name = "segments.0.body.0.0.weight"
    assert not torch.allclose(
        split.network.state_dict()[name], local.network.state_dict()[name], atol=1e-4
    )


def test_a_client_that_crashes_in_split_training_is_left_out():
    config = small_config(
        "federation.split=true",
        "federation.faults=[{kind: crash, clients: [0]}]",
        "federation.max_failed_fraction=0.5",
    )
    trained = federate(config)
    assert trained.failures == {"error": 2}
    uneven = federate(
        small_config(
            "federation.split=true",
            "data.partition.scheme=dirichlet",
            "federation.fleet=[{name: a, share: 0.67, depth: 1}, {name: b, share: 0.33, depth: 2}]",
        )
    )
    assert not uneven.failures
