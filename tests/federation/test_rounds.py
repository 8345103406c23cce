"""Whole federations on small data: what they compute, what decides it, and what happens when clients fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.data.roles import Role
from tardis_fl.errors import RunError
from tardis_fl.federation.client import app as client_module
from tardis_fl.federation.client import request
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.federation.conditions.population import Population
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.rounds import view_of
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.weights import HeldWeights
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate
from tests.reference.federation import plain_sgd


def same_weights(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(
            a.network.state_dict().values(), b.network.state_dict().values(), strict=True
        )
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_client_with_all_data_equals_plain_sgd_bit_for_bit(momentum):
    config = small_config(
        "federation.num_clients=1",
        "federation.rounds=1",
        "federation.client_depth=3",
        "federation.final_server_epochs=0",
        "federation.local_epochs=2",
        f"federation.client.momentum={momentum}",
    )
    trained = federate(config)
    work = open_resources(config.model_dump_json())
    network, settings = new_network(config, 10), config.federation.client
    own = torch.from_numpy(work.partition.shard(0).indices(Role.TRAIN))
    plain_sgd(
        network,
        work.data.images[own],
        work.data.labels[own],
        normalisation=work.data.normalisation,
        epochs=2,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        momentum=momentum,
        weight_decay=settings.weight_decay,
        generator=torch_generator(config.seed, Purpose.LOCAL_TRAINING, 1, 0),
        augment=True,
    )
    for (name, ours), (_, plain) in zip(
        trained.network.state_dict().items(), network.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, plain), name


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    assert same_weights(federate(small_config()), federate(small_config()))
    assert not same_weights(federate(small_config()), federate(small_config("seed=4")))


def test_the_order_in_which_clients_answer_changes_nothing(monkeypatch):
    straight = federate(small_config())
    original = InlineGrid.pull_messages

    def last_first(self, message_ids):
        return original(self, list(message_ids)[::-1])

    monkeypatch.setattr(InlineGrid, "pull_messages", last_first)
    assert same_weights(straight, federate(small_config()))


def test_selection_follows_seed_and_round_and_has_the_configured_size():
    config = small_config(
        "federation.num_clients=40",
        "federation.client_fraction=0.25",
        "data.synthetic.num_train=1000",
    )
    chosen = [
        Population(config.federation.population, config.seed).choose(number)
        for number in range(1, 30)
    ]
    assert {len(clients) for clients in chosen} == {10}
    assert all(clients == sorted(set(clients)) for clients in chosen)
    assert chosen[0] == Population(config.federation.population, config.seed).choose(1) != chosen[1]
    assert chosen[0] != Population(config.federation.population, 9).choose(1)
    assert set().union(*chosen) == set(range(40))


def test_only_chosen_clients_train_and_every_segment_is_trained():
    recorder = Recorder()
    config = small_config(
        "federation.num_clients=4", "federation.client_fraction=0.5", "federation.rounds=3"
    )
    before = new_network(config, 10).state_dict()
    trained = federate(config, recorder)
    for record in recorder.rounds:
        assert record.clients == tuple(
            Population(config.federation.population, config.seed).choose(record.round)
        )
        assert record.train.num_samples == sum(
            open_resources(config.model_dump_json()).partition.shard(client).train.size
            for client in record.clients
        )
    for name, tensor in trained.network.state_dict().items():
        assert not torch.equal(tensor, before[name]), f"{name} was not trained"
    assert recorder.epochs[0].clients == (0, 1, 2, 3)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_depth_trains_and_its_tables_hold_the_roles_of_all_clients(depth):
    config = small_config(f"federation.client_depth={depth}")
    trained = federate(config)
    work = open_resources(config.model_dump_json())
    for table, role in ((trained.fit, Role.FIT), (trained.calibrate, Role.CALIBRATE)):
        expected = np.concatenate([shard.indices(role) for shard in work.partition.shards()])
        assert table.sample_ids.tolist() == expected.tolist()
        assert np.array_equal(table.labels, work.dataset.train.labels[expected])
        assert table.logits.shape == (3, len(expected), 10)
    training = {int(i) for shard in work.partition.shards() for i in shard.train}
    assert not training & (
        {*trained.fit.sample_ids.tolist()} | {*trained.calibrate.sample_ids.tolist()}
    )
    assert (trained.ledger.up["features"] > trained.ledger.down["features"] == 0) is True
    assert len(trained.rounds) == 2


def test_held_out_tables_equal_what_the_final_network_computes():
    from tardis_fl.codecs.codec import transfer
    from tardis_fl.early_exit.evaluation import exit_logits

    config = small_config("deployment.feature_codec=float32")
    trained = federate(config)
    work = open_resources(config.model_dump_json())
    ids = torch.from_numpy(trained.calibrate.sample_ids)
    logits = exit_logits(
        list(trained.network),
        lambda rows: work.data.batch(ids[rows], None)[0],
        len(ids),
        transfer=transfer("float32"),
    )
    np.testing.assert_allclose(trained.calibrate.logits, logits, atol=1e-5)


def test_the_ledger_counts_what_travels():
    config = small_config("federation.evaluate_every=0", "federation.rounds=1")
    trained = federate(config)
    held = HeldWeights(list(trained.network)[:1]).flatten()
    one = sum(len(array.data) for array in messages.pack_tensors(held).values())
    assert trained.ledger.up["weights"] == 3 * one
    assert (
        trained.ledger.down["weights"] == 3 * one * 6
    )  # train, features, evaluate; features, evaluate of the final epoch; tables
    feature_bytes = 2 * 16 * 16  # channels x height x width at width 4, a byte each
    num_train, num_fit, num_calibrate = (
        sum(
            len(s.indices(role))
            for s in open_resources(config.model_dump_json()).partition.shards()
        )
        for role in (Role.TRAIN, Role.FIT, Role.CALIBRATE)
    )
    payload = (2 * num_train + 3 * num_fit + num_calibrate) * feature_bytes
    assert payload < trained.ledger.up["features"] < 1.35 * payload + 50_000


def test_final_epochs_share_the_configured_number_of_views(monkeypatch):
    config = small_config(
        "federation.final_server_epochs=5",
        "federation.final_feature_views=2",
        "federation.rounds=1",
    )
    assert [view_of(epoch, config=config) for epoch in range(5)] == [0, 0, 0, 1, 1]
    requests = []
    original = request.training_features
    monkeypatch.setattr(
        request,
        "training_features",
        lambda *args, **options: requests.append(1) or original(*args, **options),
    )
    recorder = Recorder()
    federate(config, recorder)
    assert len(requests) == 3 * (1 + 2)  # three clients: one round, two views
    assert len(recorder.epochs) == 5


class Saboteur:
    """Makes chosen clients fail in training."""

    def __init__(self, monkeypatch, clients, how):
        original = client_module.train_segments

        def train_segments(segments, data, indices, **options):
            counts = original(segments, data, indices, **options)
            shards = open_resources(options["config"].model_dump_json()).partition.shards()
            client = next(shard.client for shard in shards if np.array_equal(shard.train, indices))
            if client in clients:
                how(segments)
            return counts

        monkeypatch.setattr(client_module, "train_segments", train_segments)


def raise_error(_):
    raise FloatingPointError("sensor on fire")


def poison(segments):
    with torch.no_grad():
        next(segments[0].parameters())[0] = float("nan")


def test_a_client_that_raises_ends_the_run_with_round_client_and_reason(monkeypatch):
    Saboteur(monkeypatch, {1}, raise_error)
    recorder = Recorder()
    with pytest.raises(
        RunError,
        match=r"(?s)round 1: 1 of 3 clients failed \(errors: 1\), more than federation.max_failed_fraction 0 allows.*Client 1 failed first, in train: FloatingPointError: sensor on fire",
    ) as caught:
        federate(small_config(), recorder)
    assert caught.value.exit_code == 4
    assert "raise_error" in recorder.failures[0].details  # the client's own traceback


def test_failures_within_the_limit_are_counted_and_the_others_averaged(monkeypatch):
    Saboteur(monkeypatch, {1}, raise_error)
    recorder = Recorder()
    federate(small_config("federation.max_failed_fraction=0.4"), recorder)
    assert [(f.round, f.client) for f in recorder.failures] == [(1, 1), (2, 1)]
    assert [len(record.failures) for record in recorder.rounds] == [1, 1]
    assert recorder.rounds[0].train.num_samples < recorder.worked_on["train"]


def test_non_finite_weights_are_rejected_and_named(monkeypatch):
    Saboteur(monkeypatch, {2}, poison)
    recorder = Recorder()
    trained = federate(small_config("federation.max_failed_fraction=0.4"), recorder)
    assert recorder.failures[0].client == 2
    assert "not finite (0.body.0.0.weight)" in recorder.failures[0].reason
    assert all(torch.isfinite(tensor).all() for tensor in trained.network.state_dict().values())


def test_all_clients_failing_always_ends_the_run(monkeypatch):
    Saboteur(monkeypatch, {0, 1, 2}, raise_error)
    with pytest.raises(RunError, match="3 of 3 clients failed"):
        federate(small_config("federation.max_failed_fraction=0.9"))


def test_a_diverging_server_says_which_rate_to_lower():
    with pytest.raises(
        RunError,
        match=r"server's training diverged \(its loss or weights are not finite\); lower federation.server.learning_rate",
    ):
        federate(
            small_config(
                "federation.server.learning_rate=1.0e+30",
                "federation.server.schedule=constant",
                "federation.rounds=6",
            )
        )
