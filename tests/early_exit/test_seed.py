"""A script written for TARDIS Early Exit runs with only its import line changed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tardis_fl.core.torchvision_guard import import_torchvision
from tardis_fl.early_exit import (
    EarlyExitNetwork,
    SegmentedEarlyExitNetwork,
    separate_networks,
    seperate_networks,
    test_all_exits_accuracy,
    test_networks,
    train_model,
)
from tardis_fl.early_exit.scoring.confidence import PerSampleScore

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.randn(16, 3, 32, 32, generator=GENERATOR), torch.arange(16) % 10
trainloader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, shuffle=True)
testset = TensorDataset(IMAGES, LABELS)
testloader = DataLoader(testset, batch_size=8)


@pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss()])
def test_the_script_of_the_seeds_readme(criterion, tmp_path):
    """Its steps 2 to 7 in order, the saving included, on VGG19; the second cut lies before a ReLU that works in place."""
    torch.manual_seed(0)
    num_classes = 10
    model = import_torchvision("torchvision.models").vgg19(weights=None, num_classes=num_classes)
    model.classifier = nn.Sequential(
        nn.Linear(512, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, num_classes)
    )
    device_side_net = deepcopy(model.features[:7])
    server_side_net = deepcopy(model.features[7:17])
    cloud_side_net = nn.Sequential(
        deepcopy(model.features[17:]), nn.Flatten(), deepcopy(model.classifier)
    )
    core_net = nn.Sequential(device_side_net, server_side_net, cloud_side_net)
    exits = nn.ModuleList(
        [
            nn.Sequential(nn.Flatten(), nn.Linear(128 * 16 * 16, 16), nn.Linear(16, num_classes)),
            nn.Sequential(nn.Flatten(), nn.Linear(256 * 8 * 8, 16), nn.Linear(16, num_classes)),
        ]
    )
    eenet = EarlyExitNetwork(core_net, exits).to("cpu")

    optimizer = torch.optim.Adam(eenet.parameters(), lr=1e-4)
    train_model(eenet, trainloader, criterion, optimizer, epochs=1)
    before = deepcopy(eenet.state_dict())
    exit_to_train = 0
    optimizer = torch.optim.Adam(eenet.exits[exit_to_train].parameters(), lr=1e-4)
    train_model(eenet, trainloader, criterion, optimizer, exit_chosen=exit_to_train)
    changed = {
        name.rsplit(".", 2)[0]
        for name, value in eenet.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"segments.0.exit"}

    correct, total = test_all_exits_accuracy(eenet, testloader)
    assert total == 16
    assert len(correct) == 3
    assert eenet(IMAGES).shape == (16, 3, num_classes)

    networks = seperate_networks(eenet, thresholds=[0.9, 0.9])
    accuracy, exit_stats = test_networks(networks, testset)
    assert [type(network) for network in networks] == [SegmentedEarlyExitNetwork] * 3
    assert sum(counts["total"] for counts in exit_stats.values()) == 16
    assert accuracy == sum(counts["correct"] for counts in exit_stats.values()) / 16
    assert set(exit_stats) == {0, 1, 2}

    for i, net in enumerate(networks):
        torch.save(net, tmp_path / f"model_{i}.pth")


@pytest.fixture
def eenet():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        core_net = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(392, 10)),
        )
        exits = nn.ModuleList(
            [
                nn.Sequential(nn.Flatten(), nn.Linear(900, 10)),
                nn.Sequential(nn.Flatten(), nn.Linear(392, 10)),
            ]
        )
        network = EarlyExitNetwork(core_net, exits)
        for segment in network:  # spread the confidences
            for parameter in segment.parameters():
                parameter.data *= 2
        return network


def test_the_network_shows_its_parts_as_the_seed_did(eenet):
    assert len(eenet.exits) == 3
    assert len(eenet.network) == 2
    assert eenet.exits[2] is eenet.segments[2].body
    assert eenet.exits[0] is eenet.segments[0].exit
    x = IMAGES
    with torch.no_grad():
        expected = []
        for body, exit in zip(eenet.network, eenet.exits, strict=False):
            x = body(x)
            expected.append(exit(x))
        expected.append(eenet.exits[-1](x))
        assert torch.equal(eenet(IMAGES), torch.stack(expected, dim=1))
        for number in range(3):
            assert torch.equal(eenet(IMAGES, exit_chosen=number), expected[number])
    with pytest.raises(TypeError, match=r"replace an exit with network.segments\[number\].exit"):
        eenet.exits[0] = nn.Identity()


def softmax_max(logits):
    return torch.softmax(logits, dim=0).max()


class Entropy(nn.Module):
    def forward(self, logits):
        p = logits.softmax(-1)
        return 1 + (p * p.clamp_min(1e-12).log()).sum(-1) / torch.log(torch.tensor(10.0))


@pytest.mark.parametrize(
    "function",
    [
        None,
        nn.Softmax(dim=0),
        softmax_max,
        Entropy(),
        lambda logits: logits.softmax(dim=1).amax(dim=1),
        lambda logits: float(logits.softmax(0).max()),
        lambda logits: logits.softmax(-1)[:, 3],
    ],
    ids=[
        "default",
        "module over one sample",
        "scalar of one sample",
        "one sample or a batch",
        "wants a batch",
        "python number",
        "column of a batch",
    ],
)
def test_confidence_functions_of_every_form_decide_sample_by_sample(eenet, function):
    with torch.no_grad():
        scores = (
            PerSampleScore(function or nn.Softmax(dim=0))(eenet(IMAGES, exit_chosen=0))
            .sort()
            .values
        )
    middle = float(scores[7:9].mean())
    networks = separate_networks(eenet, [middle, middle], confidence_function=function)
    _, statistics = test_networks(networks, testset, "cpu", batch_size=5)
    expected = {number: {"correct": 0, "total": 0} for number in range(3)}
    for image, label in testset:
        x = image
        for number, network in enumerate(networks):
            x, answered = network(x)
            if answered:
                break
        expected[number]["total"] += 1
        expected[number]["correct"] += int(x.argmax() == label)
    assert statistics == expected
    assert statistics[0]["total"] == 8


def test_separated_networks_are_independent_copies_in_evaluation_mode(eenet):
    networks = separate_networks(eenet.train(), [0.5, 0.5])
    assert eenet.training
    assert not any(network.training for network in networks)
    before = deepcopy(networks.state_dict())
    for parameter in eenet.parameters():
        parameter.data.zero_()
    assert all(torch.equal(before[name], value) for name, value in networks.state_dict().items())


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ([0.9], "thresholds: got 1 for 3 exits; wanted 2, one for each but the last"),
        ([0.9, 1.2], "thresholds[1]: got 1.2; wanted a number in [0, 1]"),
        ([float("nan"), 0.5], "thresholds[0]: got nan"),
        (["high", 0.5], "thresholds[0]: got 'high'"),
        (0.9, "thresholds: got 1 for 3 exits"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(eenet, thresholds, text):
    with pytest.raises(ValueError, match=r".*") as caught:
        separate_networks(eenet, thresholds)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda logits: torch.ones(3),
            "confidence function: got (5, 3) for logits of shape (5, 10); wanted one value a sample, (5,)",
        ),
        (lambda logits: logits * torch.nan, "got NaN for 5 of 5 samples"),
        (lambda logits: logits.abs().sum() + 2, "wanted [0, 1], up = safer to exit"),
        (lambda logits: logits.no_such_thing, "no_such_thing"),
        (
            lambda logits: logits.softmax(dim=1) @ torch.ones(3),
            "and on a batch of them, of shape (5, 10): size mismatch",
        ),
        (
            lambda logits: logits @ torch.ones(3),
            "confidence function: it failed on the logits of one sample, of shape (10,)",
        ),
    ],
)
def test_confidence_functions_that_do_not_work_are_named(eenet, function, text):
    networks = separate_networks(eenet, [0.5, 0.5], function)
    with pytest.raises((ValueError, AttributeError)) as caught:
        test_networks(networks, testset, "cpu", batch_size=5)
    assert text in str(caught.value)


def test_a_network_in_training_mode_does_not_decide(eenet):
    networks = separate_networks(eenet, [0.5, 0.5])
    networks[0].train()
    with pytest.raises(ValueError, match=r"in training mode.*call .eval\(\) on it"):
        networks[0](IMAGES[0])


def test_exits_that_do_not_fit_say_which_and_what_they_got(eenet):
    eenet.segments[1].exit = nn.Linear(9, 10)
    with pytest.raises(
        ValueError,
        match=r"exit 1 can't take the features of its segment, of shape \(16, 8, 7, 7\): mat1",
    ):
        eenet(IMAGES)
    eenet.segments[1].exit = nn.Identity()
    with pytest.raises(
        ValueError, match=r"exit 1: got logits of shape \(16, 8, 7, 7\).*wanted \(16, classes\)"
    ):
        eenet(IMAGES)
    eenet.segments[1].exit = nn.Sequential(nn.Flatten(), nn.Linear(392, 4))
    with pytest.raises(ValueError, match="exit 1: got 4 classes, exit 0 has 10"):
        eenet(IMAGES)


def test_no_samples_and_wrong_labels_are_refused(eenet):
    networks = separate_networks(eenet, [0.5, 0.5])
    with pytest.raises(ValueError, match="the data set is empty"):
        test_networks(networks, TensorDataset(IMAGES[:0], LABELS[:0]), "cpu")
    with pytest.raises(ValueError, match="labels: got 12; the exits have 10 classes"):
        test_networks(networks, TensorDataset(IMAGES, LABELS + 3), "cpu")


def test_a_loader_of_batches_serves_as_a_data_set(eenet):
    networks = separate_networks(eenet, [0.3, 0.3])
    assert test_networks(networks, testloader, "cpu") == test_networks(networks, testset, "cpu")


def test_networks_with_a_confidence_function_can_be_saved_as_the_seed_did(eenet, tmp_path):
    networks = separate_networks(eenet, [0.3, 0.3], confidence_function=softmax_max)
    torch.save(networks, tmp_path / "networks.pth")
    loaded = torch.load(tmp_path / "networks.pth", weights_only=False)
    assert test_networks(loaded, testset, "cpu") == test_networks(networks, testset, "cpu")
