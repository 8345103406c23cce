"""Training of several exits: which parameters change, what is minimised, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tardis_fl.early_exit import (
    Distillation,
    EarlyExitNetwork,
    test_all_exits_accuracy,
    train_model,
)
from tests.reference.training import mean_of_binary_losses, mutual_distillation

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(24, 1, 6, 6, generator=GENERATOR)
LABELS = torch.arange(24) % 3
QUIET = {"device": "cpu", "progress": False}


def make_network(seed=0, last_exit_is_body=True):
    """Three small segments with batch norm and dropout, as a seed's user builds them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bodies = [
            nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            nn.Sequential(
                nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)
            ),
            nn.Sequential(
                nn.Conv2d(4, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                *([nn.Flatten(), nn.Linear(144, 3)] if last_exit_is_body else []),
            ),
        ]
        exits = [
            nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
            for _ in range(2 if last_exit_is_body else 3)
        ]
        return EarlyExitNetwork(nn.Sequential(*bodies), nn.ModuleList(exits))


def loader(batch_size=8, shuffle=False, images=IMAGES, labels=LABELS):
    return DataLoader(TensorDataset(images, labels), batch_size, shuffle=shuffle)


def changed(before, network):
    """Names of parameters and buffers that differ, without their last part."""
    return {
        name.rsplit(".", 1)[0]
        for name, value in network.state_dict().items()
        if not torch.equal(before[name], value)
    }


def train(network, *args, parameters=None, learning_rate=0.05, criterion=None, **options):
    optimizer = torch.optim.SGD(
        parameters or network.parameters(), learning_rate, momentum=0.9, weight_decay=0.1
    )
    return train_model(
        network,
        loader(),
        criterion or nn.CrossEntropyLoss(),
        optimizer,
        *args,
        **{**QUIET, **options},
    )


def parts(network, bodies=(), heads=()):
    """Names of the leaf modules with parameters in some bodies and heads."""
    names = set()
    for kind, numbers in (("body", bodies), ("exit", heads)):
        for number in numbers:
            module = getattr(network.segments[number], kind)
            names |= {
                f"segments.{number}.{kind}.{name}"
                for name, leaf in module.named_modules()
                if list(leaf.parameters(recurse=False))
            }
    return names


@pytest.mark.parametrize(
    ("options", "bodies", "heads"),
    [
        ({}, (0, 1, 2), (0, 1)),
        ({"exit_chosen": 0}, (), (0,)),
        ({"exit_chosen": 1}, (), (1,)),
        ({"exit_chosen": 2}, (2,), ()),
        ({"mode": "heads"}, (), (0, 1)),
        ({"mode": "backbone_first", "epochs": [1, 1]}, (0, 1, 2), (0, 1)),
        ({"mode": "layerwise"}, (0, 1, 2), (0, 1)),
    ],
)
def test_only_what_a_mode_trains_changes_whatever_the_optimiser_holds(options, bodies, heads):
    """Weight decay and momentum would move anything that gets a gradient; batch norm's buffers anything that runs in training mode."""
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    train(network, **options)
    assert changed(before, network) == parts(network, bodies, heads)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_one_exit_can_be_trained_with_an_optimiser_of_its_own():
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    train(
        network,
        parameters=network.exits[0].parameters(),
        exit_chosen=0,
        criterion=nn.BCEWithLogitsLoss(),
    )
    assert changed(before, network) == parts(network, heads=(0,))


def test_layerwise_trains_from_shallow_to_deep_and_backbone_first_leaves_shallow_exits_to_the_second_phase():
    network = make_network()
    records = train(network, mode="layerwise", epochs=[2, 1, 1])
    assert [record.phase for record in records] == [
        "segment 0",
        "segment 0",
        "segment 1",
        "segment 2",
    ]
    assert [set(record.num_correct) for record in records] == [{0}, {0}, {1}, {2}]
    records = train(make_network(), mode="backbone_first", epochs=[1, 1])
    assert [set(record.num_correct) for record in records] == [{2}, {0, 1, 2}]
    assert all(record.num_samples == 24 for record in records)


@pytest.mark.parametrize(
    "criterion", [nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss(), nn.MSELoss(), nn.MultiMarginLoss()]
)
def test_any_criterion_learns_from_integer_labels(criterion):
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    records = train_model(network, loader(), criterion, optimizer, epochs=30, seed=1, **QUIET)
    assert records[-1].loss < 0.7 * records[0].loss
    correct, total = test_all_exits_accuracy(network, loader(), "cpu")
    assert total == 24
    assert min(correct) > 16


def test_the_loss_is_the_seeds_mean_over_exits():
    network = make_network().eval()
    with torch.no_grad():
        expected = float(mean_of_binary_losses(network(IMAGES), LABELS))
    optimizer = torch.optim.SGD(network.parameters(), 1e-12)
    for module in network.modules():
        module.train = lambda mode=True, module=module: (
            module
        )  # stay in evaluation mode, to compare with one forward pass
    records = train_model(network, loader(24), nn.BCEWithLogitsLoss(), optimizer, **QUIET)
    assert records[0].loss == pytest.approx(expected, rel=1e-5)


def test_exit_weights_scale_each_exits_loss():
    """An exit of weight 0 gets a gradient of 0, and one of weight 2 twice that of weight 1."""
    moved = {}
    for weight in (1.0, 2.0):
        network = make_network()
        before = copy.deepcopy(network.state_dict())
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        train_model(
            network,
            loader(24),
            nn.CrossEntropyLoss(),
            optimizer,
            exit_weights=[weight, 0.0, 0.0],
            **QUIET,
        )
        assert not parts(network, heads=(1,)) & changed(before, network)
        moved[weight] = (
            network.state_dict()["segments.0.exit.1.weight"] - before["segments.0.exit.1.weight"]
        )
    torch.testing.assert_close(moved[2.0], 2 * moved[1.0], rtol=1e-3, atol=1e-6)


def test_a_seed_makes_shuffling_and_dropout_repeatable_and_leaves_the_global_generator_alone():
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        expected = torch.random.get_rng_state()
        network = make_network()
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        train_model(
            network, loader(shuffle=True), nn.CrossEntropyLoss(), optimizer, 2, seed=7, **QUIET
        )
        assert torch.equal(torch.random.get_rng_state(), expected)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_schedulers_step_by_epoch_or_batch_and_gradients_are_clipped():
    rates = {}
    for step in ("epoch", "batch"):
        network = make_network()
        optimizer = torch.optim.SGD(network.parameters(), 1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        records = train_model(
            network,
            loader(),
            nn.CrossEntropyLoss(),
            optimizer,
            2,
            scheduler=scheduler,
            step_scheduler=step,
            max_grad_norm=1e-3,
            **QUIET,
        )
        rates[step] = records[-1].learning_rate
    assert rates == {"epoch": 0.25, "batch": 0.5**6}
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
    train_model(network, loader(), nn.CrossEntropyLoss(), optimizer, 3, scheduler=plateau, **QUIET)
    assert optimizer.param_groups[0]["lr"] < 0.5**6
    before = copy.deepcopy(network)
    train_model(
        network,
        loader(24),
        nn.CrossEntropyLoss(),
        torch.optim.SGD(network.parameters(), 1.0),
        max_grad_norm=1e-3,
        **QUIET,
    )
    moved = (
        sum(
            float((a - b).detach().square().sum())
            for a, b in zip(network.parameters(), before.parameters(), strict=True)
        )
        ** 0.5
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_optimisers_that_evaluate_several_times_work():
    network = make_network(last_exit_is_body=False)
    optimizer = torch.optim.LBFGS(network.parameters(), 0.1, max_iter=4)
    records = train_model(network, loader(24), nn.CrossEntropyLoss(), optimizer, 5, **QUIET)
    assert records[-1].loss < 0.8 * records[0].loss


def test_bfloat16_trains():
    network, seen = make_network(), set()
    network.segments[0].body[0].register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    records = train(network, 8, precision="bfloat16", learning_rate=0.02)
    assert seen == {torch.bfloat16}
    assert records[-1].loss < records[0].loss


def test_an_optimiser_that_lacks_a_replaced_exit_is_named():
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network.segments[0].exit = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    with pytest.warns(
        UserWarning,
        match=r"the optimizer lacks 2 of \d+ parameters that all exits would train \(of shape",
    ):
        train_model(network, loader(), nn.CrossEntropyLoss(), optimizer, **QUIET)
    with pytest.raises(AttributeError, match="exits only shows the network's modules"):
        network.exits = nn.ModuleList()


def test_soft_labels_train_and_are_smoothed_too():
    rows = torch.nn.functional.one_hot(LABELS, 3).float()
    losses = []
    for labels in (rows, LABELS):
        network = make_network()
        optimizer = torch.optim.SGD(network.parameters(), 0.05)
        records = train_model(
            network,
            loader(labels=labels),
            nn.BCEWithLogitsLoss(),
            optimizer,
            2,
            label_smoothing=0.3,
            seed=1,
            **QUIET,
        )
        losses.append([(record.loss, record.num_correct) for record in records])
    assert losses[0] == losses[1]


def test_label_smoothing_equals_torchs_own():
    rows = []
    for options in (
        {"label_smoothing": 0.2},
        {"criterion": nn.CrossEntropyLoss(label_smoothing=0.2)},
    ):
        network = make_network()
        rows.append([record.loss for record in train(network, 2, seed=3, **options)])
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)


@settings(max_examples=20)
@given(st.integers(2, 4), st.integers(1, 5), st.floats(0.5, 4), st.integers(0, 10))
def test_mutual_distillation_agrees_with_its_definition(num_exits, samples, temperature, seed):
    logits = torch.randn(num_exits, samples, 4, generator=torch.Generator().manual_seed(seed))
    got = Distillation("mutual", temperature=temperature).loss(list(logits))
    assert float(got) == pytest.approx(
        float(mutual_distillation(logits, temperature)), rel=1e-4, abs=1e-5
    )


def test_the_last_exit_teaches_without_learning_from_its_pupils():
    logits = [torch.randn(4, 3, generator=GENERATOR, requires_grad=True) for _ in range(3)]
    loss = Distillation("last").loss(logits)
    loss.backward()
    assert logits[2].grad is None
    assert all(row.grad is not None for row in logits[:2])
    assert float(Distillation("last").loss([logits[0]] * 3).detach()) == pytest.approx(0, abs=1e-6)


def test_distillation_ramps_up_over_the_planned_training():
    ramped = Distillation(weight=2.0, ramp=0.5)
    weights = [ramped.weight_at(progress / 10) for progress in range(11)]
    assert weights[:6] == sorted(weights[:6])
    assert weights[0] == pytest.approx(2 * 0.0067379, rel=1e-4)
    assert weights[5:] == [2.0] * 6
    assert Distillation().weight_at(0.0) == 1.0


def test_distillation_draws_exits_together():
    spread = []
    for distillation in (None, Distillation("mutual", weight=5.0)):
        network = make_network()
        train(network, 15, distillation=distillation, learning_rate=0.02, seed=1)
        with torch.no_grad():
            spread.append(float(network.eval()(IMAGES).softmax(-1).std(1).mean()))
    assert spread[1] < spread[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exit_chosen": 3}, "exit_chosen: got 3, the network has the exits 0 to 2"),
        ({"exit_chosen": 0, "mode": "heads"}, "got exit_chosen=0 and mode='heads'"),
        (
            {"mode": "sideways"},
            "mode: got 'sideways'; wanted one of joint, heads, backbone_first, layerwise",
        ),
        ({"exit_weights": [1, 2]}, "exit_weights: got 2 for 3 exits"),
        ({"exit_weights": [1, -2, 0]}, "wanted numbers of 0 or more"),
        ({"epochs": 0}, "epochs: got 0"),
        (
            {"mode": "layerwise", "epochs": [1, 2]},
            "one for each of the 3 phases: segment 0, segment 1, segment 2",
        ),
        ({"label_smoothing": 1.0}, "label_smoothing: got 1.0"),
        (
            {"exit_chosen": 0, "distillation": Distillation()},
            "distillation: it has no effect where one exit is trained at a time",
        ),
        (
            {"step_scheduler": "sometimes"},
            "step_scheduler: got 'sometimes'; wanted 'epoch' or 'batch'",
        ),
        ({"max_grad_norm": -1.0}, "max_grad_norm: got -1.0; wanted a number above 0"),
        ({"exit_chosen": 0, "exit_weights": [0, 1, 1]}, "exit 0 would be trained by no loss"),
        ({"precision": "int8"}, "precision: got 'int8'; wanted one of float32, bfloat16, float16"),
        ({"criterion": nn.NLLLoss(), "label_smoothing": 0.1}, "NLLLoss takes class numbers only"),
    ],
)
def test_wrong_arguments_say_what_is_wanted(options, text):
    with pytest.raises(ValueError, match=r".*") as caught:
        train(make_network(), **options)
    assert text in str(caught.value)


def test_wrong_data_and_optimisers_say_what_is_wanted():
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with pytest.raises(ValueError, match="the loader is empty: it gave no batch"):
        train_model(
            network,
            DataLoader(TensorDataset(IMAGES, LABELS), 50, drop_last=True),
            nn.CrossEntropyLoss(),
            optimizer,
            **QUIET,
        )
    with pytest.raises(
        ValueError, match="labels: got 3; the exits have 3 classes, so wanted 0 to 2"
    ):
        train_model(network, loader(labels=LABELS + 1), nn.CrossEntropyLoss(), optimizer, **QUIET)
    with pytest.raises(ValueError, match="labels: got -1; the exits have 3 classes"):
        test_all_exits_accuracy(network, loader(labels=LABELS - 1), "cpu")
    with pytest.raises(
        ValueError,
        match="the optimizer holds none of the parameters that are trained here \\(exit 1\\)",
    ):
        train_model(
            network,
            loader(),
            nn.CrossEntropyLoss(),
            torch.optim.SGD(network.exits[0].parameters(), 0.1),
            exit_chosen=1,
            **QUIET,
        )
    with pytest.raises(
        ValueError, match=r"labels: got a tensor of shape \(8, 1\); wanted class numbers \(B,\)"
    ):
        train_model(
            network, loader(labels=LABELS[:, None]), nn.CrossEntropyLoss(), optimizer, **QUIET
        )
    with pytest.raises(ValueError, match="the loss became nan: lower the learning rate"):
        train_model(
            network, loader(images=IMAGES * torch.nan), nn.CrossEntropyLoss(), optimizer, **QUIET
        )
    with pytest.raises(ValueError, match="teacher: got 'first'"):
        Distillation("first")
    with pytest.raises(ValueError, match="the loader is empty"):
        test_all_exits_accuracy(network, [], "cpu")


def test_accuracy_counts_agree_with_counting_one_by_one():
    network = make_network()
    correct, total = test_all_exits_accuracy(network, loader(7), "cpu")
    assert network.training, "the mode is left as it was"
    network.segments[0].body[1].eval()
    test_all_exits_accuracy(network, loader(7), "cpu")
    assert not network.segments[0].body[1].training, "that of each module, too"
    network.eval()
    with torch.no_grad():
        expected = [
            sum(
                int(network(image[None], exit_chosen=exit).argmax()) == int(label)
                for image, label in zip(IMAGES, LABELS, strict=True)
            )
            for exit in range(3)
        ]
    assert (correct, total) == (expected, 24)
    alone, _ = test_all_exits_accuracy(network, loader(7), "cpu", ensemble=True)
    with torch.no_grad():
        probabilities = network(IMAGES).softmax(-1)
    for exit in range(3):
        geometric = probabilities[:, : exit + 1].prod(1) ** (1 / (exit + 1))
        assert alone[exit] == int((geometric.argmax(-1) == LABELS).sum())
