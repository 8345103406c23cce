"""Options of learning: each does what its formula says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tardis_fl.config.federation import OptimizerConfig
from tardis_fl.data.roles import Role
from tardis_fl.early_exit.training.losses import Distillation
from tardis_fl.federation.client.local_training import (
    Objective,
    answering_exits,
    batches,
    finish_step,
    train_segments,
)
from tardis_fl.federation.client.norm_statistics import (
    PooledStatistics,
    client_statistics,
    running_norms,
)
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.federation.server.learning_rate import learning_rate
from tardis_fl.federation.server.training_plan import TrainingPlan
from tardis_fl.federation.transport.messages import Counts
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate


def rates(count=10, **settings):
    return [
        learning_rate(OptimizerConfig(learning_rate=0.1, **settings), number / count, count)
        for number in range(count)
    ]


def test_schedules_by_hand():
    assert rates(schedule="constant") == [0.1] * 10
    assert rates(schedule="linear") == pytest.approx(
        [0.1 * (1 - number / 10) for number in range(10)]
    )
    assert rates(schedule="cosine") == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * number / 10)) for number in range(10)]
    )
    assert rates(schedule="exponential", decay=0.5) == pytest.approx(
        [0.1 * 0.5**number for number in range(10)]
    )
    assert rates(schedule="constant", warmup=0.4) == pytest.approx(
        [0.02, 0.04, 0.06, 0.08, *[0.1] * 6]
    )


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine", "exponential"]),
    warmup=st.floats(0, 0.9),
    count=st.integers(1, 50),
    steps=st.integers(1, 10**6),
    share=st.floats(0, 1),
)
def test_no_schedule_leaves_the_range_of_its_start(schedule, warmup, count, steps, share):
    progress = round(share * (steps - 1)) / steps
    assert (
        0
        < learning_rate(
            OptimizerConfig(learning_rate=0.1, schedule=schedule, warmup=warmup), progress, count
        )
        <= 0.1 + 1e-12
    )


def one_step(config, objective):
    """Makes one client step from the initial weights; returns parameters before and after."""
    network, work = new_network(config, 10), open_resources(config.model_dump_json())
    before = [parameter.detach().clone() for parameter in network.parameters()]
    indices = work.partition.shard(0).train[:16]
    train_segments(
        list(network),
        work.data,
        indices,
        config=config,
        learning_rate=0.05,
        generator=torch.Generator().manual_seed(0),
        precision="float32",
        objective=objective,
    )
    return before, list(network.parameters()), (network, work, indices)


PLAIN = (
    "federation.client_depth=3",
    "federation.client.momentum=0.0",
    "federation.client.weight_decay=0.0",
    "federation.client.batch_size=16",
    "data.augment=false",
)


def test_distillation_adds_its_loss_at_the_weight_of_the_round():
    config = small_config(*PLAIN)
    objective = Objective([1.0, 1.0, 1.0], Distillation("mutual", temperature=2.0), 0.5)
    before, after, (_, work, indices) = one_step(config, objective)
    network = new_network(config, 10).train()
    order = next(batches(16, 16, torch.Generator().manual_seed(0)))
    x, labels = work.data.batch(torch.from_numpy(indices)[order], None)
    logits = network(x).unbind(1)
    kl = sum(
        F.kl_div(
            (student / 2).log_softmax(1), (teacher / 2).softmax(1).detach(), reduction="batchmean"
        )
        for student in logits
        for teacher in logits
        if student is not teacher
    )
    loss = (
        sum(F.cross_entropy(rows, labels) for rows in logits) + 0.5 * kl / 2 * 4
    )  # over K - 1 = 2 others, times T^2
    loss.backward()
    for start, end, parameter in zip(before, after, network.parameters(), strict=True):
        torch.testing.assert_close(end, start - 0.05 * parameter.grad, rtol=1e-4, atol=1e-6)


def test_distillation_is_ramped_over_the_planned_rounds():
    plan = TrainingPlan(
        small_config(
            "federation.distillation={teacher: last, ramp: 0.5, weight: 2.0}",
            "federation.rounds=10",
        )
    )
    weights = [plan.request(number)["distillation_weight"] for number in range(1, 11)]
    assert weights[0] == pytest.approx(2 * math.exp(-5))
    assert weights[:6] == sorted(weights[:6])
    assert weights[5:] == [2.0] * 5


def test_the_proximal_pull_is_the_gradient_of_its_term():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    untrained = torch.nn.Parameter(torch.tensor([5.0]))
    start = [torch.tensor([0.5, 3.0]), torch.tensor([4.0])]
    optimizer = torch.optim.SGD([parameter, untrained], 0.1)
    (parameter * torch.tensor([2.0, 2.0])).sum().backward()
    finish_step(optimizer, [parameter, untrained], OptimizerConfig(), start=start, proximal_mu=4.0)
    assert parameter.tolist() == pytest.approx(
        [1.0 - 0.1 * (2 + 4 * 0.5), 2.0 - 0.1 * (2 - 4 * 1.0)]
    )
    assert untrained.tolist() == [5.0]


def test_a_strong_proximal_term_keeps_clients_near_the_weights_they_got():
    recorders = [Recorder(), Recorder()]
    for recorder, mu in zip(recorders, (0.0, 5.0), strict=True):
        federate(
            small_config(
                f"federation.proximal_mu={mu}", "federation.rounds=1", "federation.local_epochs=3"
            ),
            recorder,
        )
    free, pulled = (recorder.rounds[0].update_norm["median"] for recorder in recorders)
    assert pulled < 0.7 * free


def test_a_clipped_step_is_no_longer_than_the_limit():
    config = small_config(*PLAIN, "federation.client.clip_norm=0.01")
    before, after, _ = one_step(config, None)
    length = float(
        torch.stack([(b - a.detach()).norm() for b, a in zip(before, after, strict=True)]).norm()
    )
    assert length == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_early_heavy_weights_fall_by_a_fixed_share():
    assert small_config("model.exit_weighting=early_heavy").exit_weights == pytest.approx(
        [1.0, math.sqrt(0.3), 0.3]
    )
    assert small_config(
        "model.exit_weighting=early_heavy", "model.exit_weights=[1, 2, 3]"
    ).exit_weights == [1, 2, 3]


def test_serving_rates_by_hand():
    plan = TrainingPlan(small_config("model.exit_weighting=serving_rate"))
    assert plan.exit_weights == [1.0, 1.0, 1.0]
    plan.learn_serving_rates(Counts(97, 0.0, (1, 1, 1), (), (49, 39, 9)))
    assert plan.exit_weights == pytest.approx([1.5, 1.2, 0.3])
    uniform = TrainingPlan(small_config())
    uniform.learn_serving_rates(Counts(97, 0.0, (1, 1, 1), (), (49, 39, 9)))
    assert uniform.exit_weights == [1.0, 1.0, 1.0]


def test_who_answers_by_hand():
    sure, unsure = [5.0, 0.0], [0.1, 0.0]
    logits = torch.tensor([[sure, unsure, unsure], [sure, sure, unsure]])
    assert answering_exits(logits, 0.9, last_answers=False).tolist() == [0, 1, 2]
    assert answering_exits(logits, 0.9, last_answers=True).tolist() == [0, 1, 1]


@pytest.mark.parametrize("depth", [1, 3])
def test_serving_rates_of_a_federation_are_those_of_its_fit_table(depth):
    """With the codec lossless and no final epochs, the last evaluation saw what the fit table holds."""
    config = small_config(
        "model.exit_weighting=serving_rate",
        "federation.serving_score=0.15",
        "federation.rounds=2",
        "federation.final_server_epochs=0",
        "deployment.feature_codec=float32",
        f"federation.client_depth={depth}",
    )
    recorder = Recorder()
    trained = federate(config, recorder)
    answers = answering_exits(torch.from_numpy(trained.fit.logits), 0.15, last_answers=True)
    assert recorder.rounds[-1].validation.answered == tuple(
        torch.bincount(answers, minlength=3).tolist()
    )
    assert recorder.rounds[1].exit_weights != recorder.rounds[0].exit_weights


def test_server_optimisers_make_other_weights_of_the_same_updates():
    results = {
        name: federate(
            small_config(
                f"federation.aggregation={{optimizer: {name}, learning_rate: {rate}}}",
                "federation.rounds=3",
            )
        )
        for name, rate in (("fedavg", 1.0), ("fedavgm", 1.0), ("fedadam", 0.01), ("fedyogi", 0.01))
    }
    devices = {
        name: torch.cat(
            [parameter.detach().flatten() for parameter in next(iter(trained.network)).parameters()]
        )
        for name, trained in results.items()
    }
    assert len({tuple(values.tolist()) for values in devices.values()}) == 4
    assert all(torch.isfinite(values).all() for values in devices.values())


def test_fedbn_clients_go_on_with_norm_layers_of_their_own(monkeypatch):
    from tardis_fl.federation.client import app as client_app

    began = {}
    original = client_app.train_segments

    def watch(segments, data, indices, **options):
        key = int(indices[0])
        began.setdefault(key, []).append(
            torch.cat([module.running_mean.clone() for _, module in running_norms(segments)])
        )
        counts = original(segments, data, indices, **options)
        began[key].append(
            torch.cat([module.running_mean.clone() for _, module in running_norms(segments)])
        )
        return counts

    monkeypatch.setattr(client_app, "train_segments", watch)
    federate(
        small_config(
            "model.norm=batch_local",
            "data.partition.scheme=dirichlet",
            "data.partition.min_samples=10",
        )
    )
    assert len(began) == 3
    for first_start, first_end, second_start, _ in began.values():
        assert torch.equal(second_start, first_end)
        assert not torch.equal(first_start, first_end)
    began.clear()
    federate(small_config("data.partition.scheme=dirichlet", "data.partition.min_samples=10"))
    assert all(
        not torch.equal(second_start, first_end) for _, first_end, second_start, _ in began.values()
    )


def test_fedbn_rounds_are_evaluated_with_own_norms_and_the_deployment_with_their_average(
    monkeypatch,
):
    from tardis_fl.federation.client import request

    used = []
    original = request.held_out_logits

    def watch(segments, *arguments, **options):
        used.append(next(iter(running_norms(segments)))[1].running_mean.clone())
        return original(segments, *arguments, **options)

    monkeypatch.setattr(request, "held_out_logits", watch)
    federate(
        small_config(
            "model.norm=batch_local", "federation.final_server_epochs=0", "federation.rounds=1"
        )
    )
    evaluated, tables = used[:3], used[3:]
    assert not torch.equal(evaluated[0], evaluated[1])
    assert len(tables) == 6  # three clients, two roles
    assert all(torch.equal(mean, tables[0]) for mean in tables)
    torch.testing.assert_close(tables[0], torch.stack(evaluated).mean(0))  # shards of one size


@given(seed=st.integers(0, 100), sizes=st.lists(st.integers(2, 40), min_size=1, max_size=5))
def test_pooled_statistics_are_those_of_all_samples_together(seed, sizes):
    generator, pooled = torch.Generator().manual_seed(seed), PooledStatistics()
    parts = [
        torch.randn(size, 3, generator=generator, dtype=torch.float64) * (number + 1) + number
        for number, size in enumerate(sizes)
    ]
    for part in parts:
        pooled.add({"0.0.mean": part.mean(0), "0.0.var": part.var(0, unbiased=False)}, len(part))
    layer, everything = torch.nn.BatchNorm1d(3).double(), torch.cat(parts)
    pooled.write([torch.nn.Sequential(layer)])
    torch.testing.assert_close(layer.running_mean, everything.mean(0))
    torch.testing.assert_close(layer.running_var, everything.var(0, unbiased=False))


def test_a_clients_statistics_are_those_of_its_own_samples():
    config = small_config("data.augment=false")
    work = open_resources(config.model_dump_json())
    segments, indices = list(new_network(config, 10))[:1], work.partition.shard(0).train
    momenta = [module.momentum for _, module in running_norms(segments)]
    found = client_statistics(segments, work.data, indices, torch.Generator().manual_seed(0))
    x, _ = work.data.batch(torch.from_numpy(indices), None)
    with torch.no_grad():
        first = segments[0].body[0][0](x)
    name = next(iter(running_norms(segments)))[0]
    torch.testing.assert_close(found[f"{name}.mean"], first.mean((0, 2, 3)))
    torch.testing.assert_close(found[f"{name}.var"], first.var((0, 2, 3)))
    assert [module.momentum for _, module in running_norms(segments)] == momenta


def test_recalibration_moves_the_running_statistics_of_held_segments_alone():
    plain, recalibrated = (
        federate(
            small_config(f"federation.recalibrate_norm={flag}", "federation.final_server_epochs=0")
        )
        for flag in ("false", "true")
    )
    for name, tensor in plain.network.state_dict().items():
        same = torch.equal(tensor, recalibrated.network.state_dict()[name])
        assert same == (
            not (name.startswith("segments.0.") and name.endswith(("running_mean", "running_var")))
        ), name


def test_training_counts_what_it_saw():
    config = small_config("federation.local_epochs=2")
    work = open_resources(config.model_dump_json())
    network, shard = new_network(config, 10), work.partition.shard(0)
    counts = train_segments(
        list(network)[:2],
        work.data,
        shard.indices(Role.TRAIN),
        config=config,
        learning_rate=0.01,
        generator=torch.Generator().manual_seed(0),
        precision="float32",
    )
    assert counts.num_samples == 2 * len(shard.train)
    assert counts.seen == (counts.num_samples,) * 2
    assert all(0 <= correct <= counts.num_samples for correct in counts.correct)
    assert np.isfinite(counts.loss_sum)


def half_cross_entropy(logits, labels):
    """A user's loss: half of what everybody takes."""
    return F.cross_entropy(logits, labels) / 2


def test_a_users_loss_is_what_clients_and_server_descend():
    # Halving is exact in binary: half the loss at twice the rates takes the same steps.
    exact = [
        "runtime.threads=1",
        "federation.client.weight_decay=0",
        "federation.server.weight_decay=0",
    ]
    rates_once = ["federation.client.learning_rate=0.05", "federation.server.learning_rate=0.05"]
    rates_twice = ["federation.client.learning_rate=0.1", "federation.server.learning_rate=0.1"]
    loss = "model.loss=tests.federation.client.test_learning:half_cross_entropy"
    usual = federate(small_config(*exact, *rates_once)).network.state_dict()
    own = federate(small_config(*exact, *rates_twice, loss)).network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in usual.items())
    other = federate(small_config(*exact, *rates_once, loss)).network.state_dict()
    trained = [name for name in usual if name.endswith("weight")]
    assert not any(torch.equal(other[name], usual[name]) for name in trained)
