"""Uneven fleets: clients of several depths in one federation, and who trains which segment in which order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.data.roles import Role
from tardis_fl.federation.client.local_training import Objective, train_segments
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.federation.conditions.population import Population
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate
from tests.reference.federation import uneven_round

MIX = "federation.fleet=[{name: a, share: 0.5, depth: 1}, {name: b, share: 0.25, depth: 2}, {name: c, share: 0.25, depth: 3}]"
FOUR = (
    "federation.num_clients=4",
    MIX,
    "federation.rounds=1",
    "federation.final_server_epochs=0",
    "federation.server_epochs=0",
    "data.partition.scheme=dirichlet",
)


def trained_alone(config, client):
    """Trains one client's segments from the initial weights; returns its tensors by the network's names."""
    network, work, depth = (
        new_network(config, 10),
        open_resources(config.model_dump_json()),
        Population(config.federation.population, config.seed).depth(client),
    )
    shard = work.partition.shard(client)
    train_segments(
        list(network)[:depth],
        work.data,
        shard.train,
        config=config,
        learning_rate=config.federation.client.learning_rate,
        generator=torch_generator(config.seed, Purpose.LOCAL_TRAINING, 1, client),
        precision="float32",
    )
    held = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if int(name.split(".")[1]) < depth
    }
    return held, len(shard.train)


def test_each_segment_is_averaged_over_the_clients_that_hold_it():
    config = small_config(*FOUR)
    depths = [
        Population(config.federation.population, config.seed).depth(client) for client in range(4)
    ]
    assert sorted(depths) == [1, 1, 2, 3]
    expected = uneven_round(
        new_network(config, 10).state_dict(), [trained_alone(config, client) for client in range(4)]
    )
    ours = federate(config).network.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, msg=name)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_group_of_all_clients_is_the_same_as_no_groups(depth):
    alike = federate(small_config(f"federation.client_depth={depth}"))
    grouped = federate(
        small_config(f"federation.fleet=[{{name: all, share: 1.0, depth: {depth}}}]")
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            alike.network.state_dict().values(), grouped.network.state_dict().values(), strict=True
        )
    )
    assert np.array_equal(alike.calibrate.logits, grouped.calibrate.logits)
    assert (
        alike.ledger == grouped.ledger or alike.ledger.up["weights"] == grouped.ledger.up["weights"]
    )


def test_shallow_clients_send_and_receive_fewer_weights():
    deep = federate(small_config(*FOUR, "federation.fleet=[{name: all, share: 1.0, depth: 3}]"))
    uneven = federate(small_config(*FOUR))
    assert uneven.ledger.up["weights"] < deep.ledger.up["weights"]
    assert uneven.ledger.down["weights"] < deep.ledger.down["weights"]


def test_tables_and_evaluations_cover_all_exits_whatever_a_client_holds():
    config = small_config(*FOUR, "deployment.feature_codec=float32")
    recorder = Recorder()
    trained = federate(config, recorder)
    work = open_resources(config.model_dump_json())
    for table, role in ((trained.fit, Role.FIT), (trained.calibrate, Role.CALIBRATE)):
        ids = torch.from_numpy(
            np.concatenate([shard.indices(role) for shard in work.partition.shards()])
        )
        assert table.sample_ids.tolist() == ids.tolist()
        with torch.no_grad():
            expected = trained.network.eval()(work.data.batch(ids, None)[0]).transpose(0, 1)
        np.testing.assert_allclose(table.logits, expected, atol=1e-5)
    validation = recorder.rounds[0].validation
    assert validation.correct == tuple(
        (trained.fit.logits.argmax(2) == trained.fit.labels).sum(1).tolist()
    )


def test_counts_of_training_have_a_denominator_for_each_exit():
    config = small_config(*FOUR)
    recorder = Recorder()
    federate(config, recorder)
    work, population = (
        open_resources(config.model_dump_json()),
        Population(config.federation.population, config.seed),
    )
    sizes = [len(work.partition.shard(client).train) for client in range(4)]
    expected = tuple(
        sum(size for client, size in enumerate(sizes) if population.depth(client) > exit)
        for exit in range(3)
    )
    assert recorder.rounds[0].train.seen == expected


TWO = "federation.fleet=[{name: a, share: 0.5, depth: 1}, {name: b, share: 0.5, depth: 2}]"


def moved(before, after, segment):
    return any(
        not torch.equal(before[name], after[name])
        for name in before
        if name.startswith(f"segments.{segment}.")
    )


def test_the_server_trains_what_nobody_holds_and_leaves_the_rest_to_the_clients():
    config = small_config(
        "federation.num_clients=4", TWO, "federation.rounds=1", "federation.final_server_epochs=0"
    )
    untouched = small_config(
        "federation.num_clients=4",
        TWO,
        "federation.rounds=1",
        "federation.final_server_epochs=1",
        "federation.server_epochs=0",
    )
    with_server, clients_first = federate(config), federate(untouched)
    ours, theirs = with_server.network.state_dict(), clients_first.network.state_dict()
    assert not moved(ours, theirs, 0)
    assert not moved(ours, theirs, 1)
    assert moved(new_network(config, 10).state_dict(), ours, 2)
    assert with_server.rounds[0].server.seen == (with_server.rounds[0].server.num_samples,)


def test_segments_that_some_hold_are_trained_by_both_clients_first():
    base = (
        "federation.num_clients=4",
        TWO,
        "federation.rounds=1",
        "federation.final_server_epochs=0",
        "federation.server.learning_rate=1.0e-4",
    )
    config = small_config(*base, "federation.server_segments=deeper")
    both, averaged = federate(config), federate(small_config(*base))
    start, ours, theirs = (
        new_network(config, 10).state_dict(),
        both.network.state_dict(),
        averaged.network.state_dict(),
    )
    assert not moved(ours, theirs, 0)
    assert moved(ours, theirs, 1)
    name = next(
        name for name in start if name.startswith("segments.1.") and name.endswith("weight")
    )
    assert (ours[name] - theirs[name]).norm() < (
        ours[name] - start[name]
    ).norm()  # the server goes on from the average
    server = both.rounds[0].server
    assert server.seen == (server.num_samples,) * 2
    assert (
        server.num_samples == both.rounds[0].train.num_samples
    )  # every client sends features of what all of them hold


def test_only_the_last_exit_is_trained_and_averaged_over_those_for_whom_it_is_the_last():
    config = small_config(*FOUR, "federation.client_exits=last")
    population, recorder = Population(config.federation.population, config.seed), Recorder()
    ours = federate(config, recorder).network.state_dict()
    work, updates = open_resources(config.model_dump_json()), []
    for client in range(4):
        network, depth, shard = (
            new_network(config, 10),
            population.depth(client),
            work.partition.shard(client),
        )
        train_segments(
            list(network)[:depth],
            work.data,
            shard.train,
            config=config,
            learning_rate=config.federation.client.learning_rate,
            generator=torch_generator(config.seed, Purpose.LOCAL_TRAINING, 1, client),
            precision="float32",
            objective=Objective([0.0] * (depth - 1) + [1.0]),
        )
        held = {
            name: tensor
            for name, tensor in network.state_dict().items()
            if int(name.split(".")[1]) < depth
            and (".body." in name or int(name.split(".")[1]) == depth - 1)
        }
        updates.append((held, len(shard.train)))
    for name, tensor in uneven_round(new_network(config, 10).state_dict(), updates).items():
        torch.testing.assert_close(ours[name], tensor, msg=name)
