"""Losses of a user's own: named, given options, tried before anything trains, and used for every exit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tardis_fl.early_exit import build_network
from tardis_fl.early_exit.network import segments_loss
from tardis_fl.early_exit.training.losses import build_loss, cross_entropy
from tardis_fl.errors import ConfigError

HERE = __name__


def twice(logits, labels, *, factor: float = 2.0):
    return factor * F.cross_entropy(logits, labels)


def draws(logits, labels):
    torch.rand(3)
    return F.cross_entropy(logits, labels)


def one_a_sample(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def not_finite(logits, labels):
    return logits.sum() + torch.inf


def no_gradient(logits, labels):
    return F.cross_entropy(logits.detach(), labels)


def python_number(logits, labels):
    return 1.0


def counts(logits, labels):
    return (logits.argmax(1) == labels).sum()


def fails(logits, labels):
    raise KeyError("no such class")


def three_arguments(logits, labels, weights, /):
    return F.cross_entropy(logits, labels)


def test_cross_entropy_is_the_default_and_pytorchs_own():
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    assert build_loss("cross_entropy", num_classes=5) is cross_entropy
    assert torch.equal(cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_a_users_loss_gets_its_options_and_counts_for_every_exit():
    network = build_network("small_resnet", num_classes=4, width=4, seed=0).eval()
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    loss = build_loss(f"{HERE}:twice", {"factor": 3.0}, num_classes=4)
    ours, all_logits, _ = segments_loss(list(network), images, labels, [1.0, 0.5, 0.25])
    theirs, _, _ = segments_loss(list(network), images, labels, [1.0, 0.5, 0.25], criterion=loss)
    by_hand = sum(
        weight * F.cross_entropy(logits, labels)
        for weight, logits in zip([1.0, 0.5, 0.25], all_logits, strict=True)
    )
    torch.testing.assert_close(ours, by_hand)
    torch.testing.assert_close(theirs, 3 * by_hand)


def test_trying_a_loss_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    build_loss(f"{HERE}:draws", num_classes=3)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        ("one_a_sample", "returns a tensor of shape (4,)"),
        ("not_finite", "returns inf for logits (4, 3)"),
        ("no_gradient", "returns a number without a gradient"),
        ("python_number", "returns float for logits (4, 3) and labels (4,); wanted one finite"),
        ("counts", "returns a tensor of torch.int64"),
        ("fails", "it fails for logits (4, 3) and labels (4,): KeyError: 'no such class' (test"),
    ],
)
def test_a_loss_that_returns_something_else_is_one_message(function, got):
    with pytest.raises(ConfigError) as error:
        build_loss(f"{HERE}:{function}", num_classes=3)
    assert str(error.value).startswith(f"model.loss: got '{HERE}:{function}'")
    assert got in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cross_entropi",
            {},
            "model.loss: got the text 'cross_entropi'; wanted 'cross_entropy' or",
        ),
        (f"{HERE}:twice", {"facto": 1.0}, "model.loss_options.facto: got an unknown option with"),
        (f"{HERE}:twice", {"factor": "x"}, "model.loss_options.factor: got the text 'x'; wanted a"),
        (f"{HERE}:nothing", {}, "wanted MODULE:FUNCTION"),
        (
            f"{HERE}:three_arguments",
            {},
            "which takes other arguments; wanted a function of (logits",
        ),
        ("cross_entropy", {"weight": 1}, "model.loss_options.weight: got an unknown option"),
    ],
)
def test_a_loss_that_cannot_be_had_is_one_message(name, options, message):
    with pytest.raises(ConfigError) as error:
        build_loss(name, options, num_classes=3)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
