"""`check_policy`: what is no score for each sample is said."""

from __future__ import annotations

import re

import pytest
import torch

from tardis_fl.testing import PluginError, check_policy

HERE = "tests.testing.test_check_policy"
WANTED = "wanted a score in [0, 1] for each sample, that depends on this sample alone"


def largest(probabilities):
    return probabilities.amax(-1)


def gap(probabilities):
    first, second = probabilities.topk(2, dim=-1).values.unbind(-1)
    return first - second


def all_at_once(probabilities):
    return probabilities.max()


def of_each_class(probabilities):
    return probabilities


def in_percent(probabilities):
    return 100 * largest(probabilities)


def negative(probabilities):
    return largest(probabilities) - 1


def entropy_of_zeros(probabilities):
    return -(probabilities * probabilities.log()).sum(-1)


def as_list(probabilities):
    return largest(probabilities).tolist()


def rank_in_batch(probabilities):
    return largest(probabilities).argsort().argsort() / (2 * len(probabilities))


def of_chance(probabilities):
    return torch.rand(len(probabilities))


def sorts_in_place(probabilities):
    probabilities.copy_(probabilities.sort(-1).values)
    return probabilities[:, -1]


def fails(probabilities):
    return probabilities[:, 1000]


@pytest.mark.parametrize("policy", [largest, gap, f"{HERE}:largest"])
def test_policies_pass(policy):
    check_policy(policy)
    check_policy(policy, num_classes=2)


@pytest.mark.parametrize(
    ("policy", "got"),
    [
        (all_at_once, f"() for logits of shape (32, 10); {WANTED}"),
        (of_each_class, f"(32, 10) for logits of shape (32, 10); {WANTED}"),
        (as_list, f"list for logits of shape (32, 10); {WANTED}"),
        (entropy_of_zeros, None),
        (rank_in_batch, f"other scores for samples alone than in a batch of 32; {WANTED}"),
        (of_chance, "other scores for the same probabilities; wanted no randomness"),
        (sorts_in_place, "probabilities that it changed; wanted them left as they are"),
    ],
)
def test_what_is_no_score_is_said(policy, got):
    with pytest.raises(PluginError) as caught:
        check_policy(policy)
    text = str(caught.value)
    if got is None:  # above 1 for undecided answers, NaN for certain ones
        assert text.startswith(f"{HERE}:entropy_of_zeros: got values from ")
    else:
        assert text == f"{HERE}:{policy.__name__}: got {got}"


def test_ranges_and_nan_are_said():
    for policy in (in_percent, negative):
        with pytest.raises(
            PluginError, match=rf"got values from -?[\d.]+ to -?[\d.e-]+; {re.escape(WANTED)}"
        ):
            check_policy(policy)
    with pytest.raises(PluginError, match="got NaN for 10 of 10 samples; wanted a score"):
        check_policy(lambda probabilities: entropy_of_zeros(probabilities).div(10))


def test_exceptions_are_said():
    with pytest.raises(
        PluginError,
        match=r"fails: for probabilities of the shape \(32, 10\) it fails with IndexError: .* \(tests/testing/",
    ):
        check_policy(fails)
    with pytest.raises(
        PluginError, match=r"when it is imported: deployment.policy: got 'no\.such:f'"
    ):
        check_policy("no.such:f")
