"""Decisions of the segmented deployment: the same as the whole network's, whatever the batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from tardis_fl.codecs.codec import transfer
from tardis_fl.deployment.escalation import Rule, deploy, replay
from tardis_fl.deployment.scoring.policies import table_scores
from tardis_fl.deployment.thresholds.choice import NEVER_ESCALATE, NEVER_EXIT, decide
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.evaluation import TestTable, exit_logits
from tardis_fl.early_exit.scoring.scores import score
from tardis_fl.early_exit.segmented import SegmentedEarlyExitNetwork, escalate
from tests.reference.deployment import one_by_one

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(256, 3, 32, 32, generator=GENERATOR) * torch.rand(
    256, 3, 1, 1, generator=GENERATOR
) + torch.randn(256, 3, 1, 1, generator=GENERATOR)
TEMPERATURES = (1.3, 0.8, 1.0)


@pytest.fixture(scope="module")
def network():
    """A network with batch statistics of these images, so that its scores spread."""
    network = build_network("small_resnet", num_classes=10, width=8, exit_hidden=16, seed=4)
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(IMAGES)
    return network.eval()


def whole_network_table(network):
    logits = exit_logits(list(network), lambda rows: IMAGES[rows], len(IMAGES), batch_size=256)
    count = np.arange(len(IMAGES))
    return TestTable(logits, np.zeros(len(IMAGES), np.int64), count, count)


def rule_for(table, policy, codec="float32"):
    """A rule that lets about 40 % go at the first exit and half of the rest at the second."""
    scores = table_scores(policy, table, list(TEMPERATURES)).numpy()
    first = np.sort(scores[0])
    second = np.sort(scores[1, scores[0] < first[154:156].mean()])
    middle = len(second) // 2
    return Rule(
        policy,
        TEMPERATURES,
        (float(first[154:156].mean()), float(second[middle : middle + 2].mean())),
        codec,
    )


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("policy", ["max_softmax", "margin", "entropy"])
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_segmented_decisions_equal_the_monolithic_network(network, policy, batch_size, ensemble):
    table = whole_network_table(network).ensembled() if ensemble else whole_network_table(network)
    rule = rule_for(table, policy)
    expected = decide(table_scores(policy, table, list(TEMPERATURES)).numpy()[:-1], rule.thresholds)
    assert len(set(expected.tolist())) == 3, "the test wants all three exits in use"
    answers, exits = zip(
        *(
            escalate(deploy(network, rule), IMAGES[start : start + batch_size], ensemble=ensemble)
            for start in range(0, 256, batch_size)
        ),
        strict=True,
    )
    assert torch.cat(exits).tolist() == expected.tolist()
    np.testing.assert_allclose(
        torch.cat(answers).numpy(), table.logits[expected, np.arange(256)], rtol=1e-3, atol=1e-4
    )


def test_vectorised_escalation_equals_one_sample_at_a_time_through_the_codec(network):
    networks = deploy(network, rule_for(whole_network_table(network), "max_softmax", "uint8"))
    fast, slow = (
        escalate(networks, IMAGES[:60], transfer=transfer("uint8")),
        one_by_one(networks, IMAGES[:60], transfer("uint8")),
    )
    assert fast[1].tolist() == slow[1].tolist()
    torch.testing.assert_close(
        fast[0], slow[0], rtol=1e-2, atol=2e-2
    )  # a last-bit difference can move one uint8 step


@pytest.mark.parametrize(("threshold", "exit"), [(NEVER_ESCALATE, 0), (NEVER_EXIT, 2)])
def test_the_extreme_thresholds_use_one_exit_only(network, threshold, exit):
    rule = Rule("entropy", (1.0, 1.0, 1.0), (threshold, threshold), "float32")
    outcome = replay(
        network, rule, lambda rows: IMAGES[rows], np.zeros(256, np.int64), batch_size=100
    )
    assert outcome.exit_counts == [256 if number == exit else 0 for number in range(3)]


def test_offload_falls_as_the_threshold_falls_and_counts_add_up(network):
    offloaded = []
    for threshold in np.linspace(0, 1.01, 8):
        rule = Rule("max_softmax", (1.0, 1.0, 1.0), (float(threshold),) * 2, "float32")
        outcome = replay(
            network, rule, lambda rows: IMAGES[rows], np.zeros(256, np.int64), batch_size=64
        )
        assert sum(outcome.exit_counts) == 256
        assert outcome.crossings == [256 - outcome.exit_counts[0], outcome.exit_counts[2]]
        offloaded.append(outcome.crossings[0])
    assert offloaded == sorted(offloaded)
    assert offloaded[0] < offloaded[-1]


def test_deeper_segments_see_only_what_reaches_them(network):
    networks, seen = deploy(network, rule_for(whole_network_table(network), "max_softmax")), []
    hooks = [
        segment.body.register_forward_pre_hook(
            lambda _, inputs, k=k: seen.append((k, len(inputs[0])))
        )
        for k, segment in enumerate(network)
    ]
    _, exits = escalate(networks, IMAGES)
    for hook in hooks:
        hook.remove()
    counts = torch.bincount(exits, minlength=3)
    assert seen == [(0, 256), (1, int(counts[1:].sum())), (2, int(counts[2]))]


def test_a_users_own_score_works(network):
    networks = [
        SegmentedEarlyExitNetwork(
            segment.body, segment.exit, 0.5, lambda logits: (logits.argmax(0) == 3).float()
        )
        for segment in list(network)[:2]
    ]
    networks.append(
        SegmentedEarlyExitNetwork(
            network.segments[2].body, network.segments[2].exit, None, score=partial(score, "margin")
        )
    )
    answers, exits = escalate(networks, IMAGES)
    assert (answers.argmax(1)[exits < 2] == 3).all()


def test_a_network_that_lets_nothing_through_is_refused_but_at_the_end(network):
    networks = [SegmentedEarlyExitNetwork(segment.body, segment.exit, None) for segment in network]
    with pytest.raises(
        ValueError, match="network 0 answers every sample, so that none reaches the 2 after it"
    ):
        escalate(networks, IMAGES)
    networks[-1] = SegmentedEarlyExitNetwork(
        network.segments[2].body, network.segments[2].exit, 0.5
    )
    with pytest.raises(ValueError, match=r"the last network has the threshold 0\.5; wanted None"):
        escalate(networks[-1:], IMAGES)


def test_the_ensemble_is_the_geometric_mean_of_probabilities(network):
    table = whole_network_table(network)
    probabilities = torch.from_numpy(table.logits).softmax(-1)
    for exit in range(3):
        expected = probabilities[: exit + 1].double().prod(0) ** (1 / (exit + 1))
        got = torch.from_numpy(table.ensembled().logits[exit]).double().softmax(-1)
        torch.testing.assert_close(
            got, expected / expected.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6
        )
