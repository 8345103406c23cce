"""What goes wrong: injected by configuration, seen by the server, counted, and survived while the limit holds."""

from __future__ import annotations

import pytest
import torch

from tardis_fl.errors import RunError
from tardis_fl.federation.client.resources import new_network
from tardis_fl.federation.conditions.faults import Faults
from tardis_fl.federation.conditions.population import Population
from tardis_fl.federation.server.aggregation.updates import Updates
from tardis_fl.federation.transport.weights import HeldWeights
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate

TOLERANT = "federation.max_failed_fraction=0.5"


def with_fault(kind, *overrides, clients="[1]", factor=None, **more):
    entries = {"kind": kind, "clients": clients, **({"factor": factor} if factor else {}), **more}
    text = ", ".join(f"{key}: {value}" for key, value in entries.items())
    return small_config(f"federation.faults=[{{{text}}}]", *overrides)


def distance(a, b, *, of=lambda trained: trained.network.state_dict().values()):
    pairs = zip(of(a), of(b), strict=True)
    return float(
        torch.stack([(x.detach().double() - y.detach().double()).norm() for x, y in pairs]).norm()
    )


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ("crash", "error", "InjectedCrashError: the client crashed"),
        ("dropout", "dropout", "dropped out"),
        ("nan", "rejected", "weights that are not finite (0.body."),
        (
            "explode",
            "rejected",
            "an update that has exploded: it changes the parameters by a norm of",
        ),
        ("wrong_shape", "rejected", "sent 0.body.float32 as ("),
        ("missing_segment", "rejected", "sent other segments than it was asked for"),
    ],
)
def test_each_fault_is_met_named_and_survived(fault, kind, reason):
    recorder = Recorder()
    trained = federate(with_fault(fault, TOLERANT), recorder)
    assert [
        (failure.round, failure.client, failure.stage, failure.kind)
        for failure in recorder.failures
    ] == [(1, 1, "train", kind), (2, 1, "train", kind)]
    assert reason in recorder.failures[0].reason
    assert trained.failures == {kind: 2}
    assert [len(record.failures) for record in trained.rounds] == [1, 1]
    assert all(torch.isfinite(tensor).all() for tensor in trained.network.state_dict().values())


@pytest.mark.parametrize("fault", ["crash", "dropout", "nan", "explode"])
def test_the_others_are_averaged_as_if_the_failing_client_had_not_been_asked(fault):
    """A client that fails leaves no trace in the weights, whatever it did."""
    crashed = federate(with_fault("crash", TOLERANT))
    assert distance(federate(with_fault(fault, TOLERANT)), crashed) == 0


@pytest.mark.parametrize(
    ("fault", "counted"),
    [("crash", "errors: 1"), ("dropout", "dropouts: 1"), ("nan", "rejected updates: 1")],
)
def test_beyond_the_limit_the_run_stops_with_the_reason(fault, counted):
    with pytest.raises(
        RunError,
        match=rf"(?s)round 1: 1 of 3 clients failed \({counted}\), more than federation.max_failed_fraction 0.2 allows.*Client 1 failed first, in train",
    ):
        federate(with_fault(fault, "federation.max_failed_fraction=0.2"))


def test_a_reply_that_comes_twice_counts_once_and_its_bytes_twice():
    plain, twice = federate(small_config()), federate(with_fault("repeat"))
    assert distance(plain, twice) == 0
    assert [record.num_repeated for record in twice.rounds] == [1, 1]
    assert (
        twice.ledger.up["weights"] == plain.ledger.up["weights"] * 8 / 6
    )  # two rounds of three updates
    assert plain.rounds[0].num_repeated == 0
    assert not twice.failures


def test_a_dropout_costs_what_was_sent_to_it_and_nothing_back():
    crashed, dropped = (
        federate(with_fault("crash", TOLERANT)),
        federate(with_fault("dropout", TOLERANT)),
    )
    assert dropped.ledger.down["weights"] == crashed.ledger.down["weights"]
    assert dropped.ledger.up == crashed.ledger.up  # an error brings no content either


def test_an_update_is_not_taken_for_exploded_where_the_check_is_off():
    assert federate(with_fault("explode", TOLERANT, factor=3000, rounds="[1, 1]")).failures == {
        "rejected": 1
    }
    assert (
        federate(
            with_fault(
                "explode",
                "federation.aggregation.max_update_ratio=null",
                TOLERANT,
                factor=3000,
                rounds="[1, 1]",
            )
        ).failures
        == {}
    )


def test_faults_follow_the_seed_and_strike_as_often_as_they_should():
    config = small_config(
        "federation.faults=[{kind: crash, probability: 0.25}, {kind: dropout, clients: [0, 2], rounds: [3, 4]}]",
        "federation.rounds=4",
    )
    faults = Faults(tuple(config.federation.faults), config.seed)
    struck = [[faults.strike(number, client) for client in range(50)] for number in range(1, 101)]
    assert struck == [
        [
            Faults(tuple(config.federation.faults), config.seed).strike(number, client)
            for client in range(50)
        ]
        for number in range(1, 101)
    ]
    assert 0.22 < sum("crash" in kinds for row in struck for kinds in row) / 5000 < 0.28
    assert {
        (number + 1, client)
        for number, row in enumerate(struck)
        for client, kinds in enumerate(row)
        if "dropout" in kinds
    } == {
        (3, 0),
        (3, 2),
        (4, 0),
        (4, 2),
    }


TEN = (
    "federation.num_clients=10",
    "data.synthetic.num_train=800",
    "federation.rounds=3",
    "federation.evaluate_every=0",
    "federation.aggregation.max_update_ratio=null",
    "federation.final_server_epochs=0",
    "federation.server_epochs=1",
)


def device_parameters(trained):
    return next(iter(trained.network)).parameters()


@pytest.mark.parametrize(
    "rule",
    [
        "{rule: trimmed_mean}",
        "{rule: median}",
        "{rule: norm_clipping, clip_norm: 0.3, max_update_ratio: null}",
    ],
)
def test_robust_rules_hold_against_a_tenth_of_clients_that_send_garbage(rule):
    garbage, robust_rule = {"clients": "[4]", "factor": 40}, f"federation.aggregation={rule}"
    honest = federate(small_config(*TEN))
    robust, mean = (
        federate(with_fault("garbage", *TEN, robust_rule, **garbage)),
        federate(with_fault("garbage", *TEN, **garbage)),
    )
    assert distance(robust, honest, of=device_parameters) < 0.25 * distance(
        mean, honest, of=device_parameters
    )


SLOW = "federation.fleet=[{name: slow, share: 0.34, device: mcu-stm32l4r5}, {name: fast, share: 0.66, device: phone-8-gen-2}]"


def late_config(*overrides):
    return small_config(SLOW, "federation.deadline_s=0.01", "federation.rounds=3", *overrides)


def test_an_update_after_the_deadline_is_discarded_and_counted():
    recorder = Recorder()
    trained = federate(late_config(TOLERANT), recorder)
    assert {failure.kind for failure in recorder.failures} == {"late"}
    assert "its update came after" in recorder.failures[0].reason
    assert "federation.deadline_s is 0.01" in recorder.failures[0].reason
    assert trained.failures == {"late": 3}
    assert all(record.virtual_seconds == 0.01 for record in trained.rounds)


def test_a_late_update_joins_the_round_in_which_it_arrives():
    """With a whole discount it leaves no trace yet in its own round, and does in a later one."""
    discarded, discounted = (
        federate(late_config(TOLERANT)),
        federate(late_config("federation.deadline_s=2.0", "federation.late_updates=discount")),
    )
    assert not discounted.failures
    assert [record.num_late for record in discounted.rounds] == [1, 1, 1]
    assert distance(discarded, discounted) > 0
    first = [
        federate(late_config("federation.rounds=1", "federation.client.schedule=constant", *more))
        for more in ((TOLERANT,), ("federation.deadline_s=2.0", "federation.late_updates=discount"))
    ]
    assert all(
        torch.equal(x, y)
        for (name, x), y in zip(
            first[0].network.state_dict().items(),
            first[1].network.state_dict().values(),
            strict=True,
        )
        if name.startswith("segments.0")
    )


def test_a_straggler_is_slow_on_the_virtual_clock_alone():
    usual = federate(small_config(SLOW))
    slow = federate(small_config(SLOW, "federation.faults=[{kind: straggler, factor: 100}]"))
    assert distance(usual, slow) == 0
    assert slow.rounds[0].virtual_seconds == pytest.approx(100 * usual.rounds[0].virtual_seconds)


def test_a_round_in_which_nobody_can_be_reached_changes_nothing():
    recorder = Recorder()
    config = small_config(
        "federation.fleet=[{name: all, share: 1.0, availability: 0.0001}]",
        "federation.final_server_epochs=1",
    )
    trained = federate(config, recorder)
    assert [record.clients for record in trained.rounds] == [(), ()]
    assert trained.rounds[0].train is None
    assert trained.ledger.up["weights"] == 0


def test_a_late_client_is_away_for_the_rest_of_its_round():
    recorder = Recorder()
    federate(
        late_config(
            "federation.deadline_s=2.0",
            "federation.late_updates=discount",
            "federation.rounds=1",
            "federation.final_server_epochs=0",
        ),
        recorder,
    )
    record = recorder.rounds[0]
    assert record.num_late == 1
    assert (
        record.server.num_samples < record.train.num_samples
    )  # the late one's features didn't come, though its update will
    assert record.validation.num_samples < 24


def test_a_late_change_is_discounted_on_top_of_the_weights_it_meets():
    config = late_config(
        "federation.deadline_s=2.0",
        "federation.late_updates=discount",
        "federation.late_discount=0.25",
        "federation.rounds=4",
        "federation.aggregation.max_update_ratio=null",
    )
    weights = HeldWeights(list(new_network(config, 10))[:1])
    updates, keys = Updates(weights, config), weights.keys(1)
    first = {key: values.clone() for key, values in updates.begin(1).items()}
    moved = {
        key: values + (1 if values.is_floating_point() else 0) for key, values in first.items()
    }
    updates.add(moved, keys, 10, deadlines_missed=2)
    updates.finish()
    assert updates.num_waiting == 1
    other = {
        key: values + (3 if values.is_floating_point() else 0)
        for key, values in updates.begin(2).items()
    }
    updates.add(other, keys, 5)
    updates.finish()
    third = {key: values.clone() for key, values in updates.begin(3).items()}
    updates.finish()  # nobody else is there
    ended = updates.begin(4)
    assert updates.num_waiting == 0
    for key, mask in weights.parameters.items():
        torch.testing.assert_close(third[key], first[key] + 3)
        torch.testing.assert_close(
            ended[key], torch.where(mask, third[key] + 0.25**2, moved[key])
        )  # buffers join as they are


def test_a_late_update_comes_in_a_round_in_which_nobody_is_there(monkeypatch):
    config = late_config(
        "federation.deadline_s=2.0",
        "federation.late_updates=discount",
        "federation.final_server_epochs=1",
        "federation.server_epochs=0",
    )
    everyone = Population.choose
    monkeypatch.setattr(
        Population, "choose", lambda self, number: everyone(self, number) if number == 1 else []
    )
    one, three = (
        federate(
            late_config(
                "federation.deadline_s=2.0",
                "federation.late_updates=discount",
                "federation.rounds=1",
                "federation.server_epochs=0",
            )
        ),
        federate(config),
    )
    assert distance(one, three, of=device_parameters) > 0
    assert three.num_unused == 0
    assert one.num_unused == 1
