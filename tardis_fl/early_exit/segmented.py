"""Deployment in segments: each decides for itself which samples it answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.scoring.confidence import (
    PerSampleScore,
    Score,
    checked_scores,
    checked_threshold,
    max_softmax_score,
)
from tardis_fl.early_exit.scoring.ensemble import Ensemble
from tardis_fl.early_exit.scoring.patience import Patience
from tardis_fl.early_exit.training.loading import check_labels, chosen_device, labelled_batches

BATCH_SIZE = 250


class SegmentedEarlyExitNetwork(nn.Module):
    """One segment with the rule that says which samples it answers.

    Args:
        network: Maps its input (B, ...) to features.
        exit: Maps features to logits (B, classes); None: the network ends in logits and answers
            every sample.
        threshold: Answer where confidence >= threshold; None: answer every sample.
        confidence_function: Confidence from the logits of one sample, as `PerSampleScore`
            describes; None: largest softmax probability.
        score: Instead, a score for a batch of logits.

    Raises:
        ValueError: The threshold isn't in [0, 1], or both a confidence function and a score are
            given.
    """

    def __init__(
        self,
        network: nn.Module,
        exit: nn.Module | None = None,
        threshold: float | None = 0.9,
        confidence_function: Callable[[Tensor], Tensor] | None = None,
        *,
        score: Score | None = None,
    ) -> None:
        super().__init__()
        if confidence_function is not None and score is not None:
            raise ValueError("got a confidence_function and a score; wanted one of them")
        self.network = network
        self.exit = exit
        self.threshold = (
            None if threshold is None or exit is None else checked_threshold(threshold, "threshold")
        )
        self.confidence_function = confidence_function
        self.score = score or (
            PerSampleScore(confidence_function) if confidence_function else max_softmax_score
        )

    @property
    def answers_all(self) -> bool:
        """Whether no sample goes further."""
        return self.threshold is None

    def forward(self, x: Tensor) -> tuple[Tensor, bool]:
        """Decides on one sample, as TARDIS Early Exit does.

        Args:
            x: One sample without batch dimension, such as (C, H, W).

        Returns:
            The sample's logits (classes,) and True where it is answered here, else its features and
            False.
        """
        features, logits, answered = self.decide(x.unsqueeze(0))
        return (logits[0], True) if answered[0] else (features[0], False)

    def decide(
        self, x: Tensor, ensemble: Ensemble | None = None, patience: Patience | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decides for each sample of a batch by itself.

        Args:
            x: (B, ...).
            ensemble: What the exits before said of these samples; the decision then rests on all of
                them.
            patience: Scores by how many exits in a row have said the same, instead of this
                network's own score.

        Returns:
            Features (B, ...), logits (B, classes), and whether the sample is answered here (B,)
            bool.

        Raises:
            ValueError: The network is in training mode, or the confidence function gives no valid
                score.
        """
        if self.training:
            raise ValueError(
                "this network is in training mode, where dropout and batch norm make decisions depend on chance and on the batch; call .eval() on it"
            )
        features = self.network(x)
        logits = features if self.exit is None else self.exit(features)
        if ensemble is not None:
            logits = ensemble.add(logits)
        if self.threshold is None:
            return features, logits, torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        if patience is not None:
            return features, logits, patience.add(logits.detach()) >= self.threshold
        return features, logits, checked_scores(self.score, logits.detach()) >= self.threshold


def separate_networks(
    eenet: EarlyExitNetwork,
    thresholds: Sequence[float],
    confidence_function: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> nn.ModuleList:
    """Separates a network into independent ones, one for each tier, in evaluation mode.

    Args:
        eenet: Its modules are copied, so that training it further doesn't change what is deployed.
        thresholds: One for each exit but the last, in [0, 1]; a sample is answered where confidence
            >= threshold.
        confidence_function: As in `SegmentedEarlyExitNetwork`.
        device: Where the copies are put.

    Raises:
        ValueError: The thresholds don't fit the exits, or aren't in [0, 1].
    """
    thresholds = list(thresholds) if isinstance(thresholds, Iterable) else [thresholds]
    if len(thresholds) != len(eenet) - 1:
        raise ValueError(
            f"thresholds: got {len(thresholds)} for {len(eenet)} exits; wanted {len(eenet) - 1}, one for each but the last, which answers what is left"
        )
    checked = [
        checked_threshold(value, f"thresholds[{number}]") for number, value in enumerate(thresholds)
    ]
    networks = []
    for segment, threshold in zip(eenet, [*checked, None], strict=True):
        body, head = copy.deepcopy(segment.body), copy.deepcopy(segment.exit)
        ends_in_logits = threshold is None and isinstance(head, nn.Identity)
        networks.append(
            SegmentedEarlyExitNetwork(
                body, None if ends_in_logits else head, threshold, confidence_function
            )
        )
    return nn.ModuleList(networks).to(device).eval()


seperate_networks = separate_networks  # as TARDIS Early Exit spells it


def escalate(
    networks: Sequence[SegmentedEarlyExitNetwork],
    x: Tensor,
    *,
    transfer: Callable[[Tensor], Tensor] | None = None,
    ensemble: bool = False,
    patience: bool = False,
) -> tuple[Tensor, Tensor]:
    """Passes a batch from tier to tier; a deeper segment computes only what reaches it.

    Args:
        networks: The segments in order; the last one answers what is left. They are put in
            evaluation mode.
        x: Images (B, C, H, W).
        transfer: What features go through between two tiers; None: nothing.
        ensemble: Decide and answer by the geometric mean of the exits passed so far.
        patience: Decide by how many exits in a row have said the same (`Patience`); the networks'
            own scores then don't count.

    Returns:
        Logits of the answering exit (B, classes) and its number (B,) int64.

    Raises:
        ValueError: The last network may escalate, or a confidence function gives no valid score.
    """
    if not networks[-1].answers_all:
        raise ValueError(
            f"the last network has the threshold {networks[-1].threshold}; wanted None, since it answers what is left"
        )
    early = [number for number, network in enumerate(networks[:-1]) if network.answers_all]
    if early:
        raise ValueError(
            f"network {early[0]} answers every sample, so that none reaches the {len(networks) - 1 - early[0]} after it; give it an exit and a threshold"
        )
    waiting: Tensor | None = None  # None: all of them, in order
    exits = torch.empty(len(x), dtype=torch.int64, device=x.device)
    answers: Tensor | None = None
    so_far = Ensemble() if ensemble else None
    agreement = Patience(len(networks)) if patience else None
    with torch.no_grad():
        for number, network in enumerate(networks):
            network.eval()
            features, logits, answered = network.decide(x, so_far, agreement)
            if answers is None:
                answers = logits.new_empty(len(exits), logits.shape[1])
            here = answered if waiting is None else waiting[answered]
            answers[here] = logits[answered]
            exits[here] = number
            go_on = (~answered).nonzero().squeeze(1)
            if len(go_on) == 0:
                break
            if len(go_on) < len(answered) or waiting is None:
                waiting = go_on if waiting is None else waiting[go_on]
                features = features[go_on]
                for state in (so_far, agreement):
                    if state is not None:
                        state.keep(go_on)
            x = transfer(features) if transfer else features
    assert answers is not None
    return answers, exits


def test_networks(
    networks: Sequence[SegmentedEarlyExitNetwork],
    dataset: Any,
    device: torch.device | str | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    transfer: Callable[[Tensor], Tensor] | None = None,
    ensemble: bool = False,
    patience: bool = False,
) -> tuple[float, dict[int, dict[str, int]]]:
    """Sends labelled samples through separated networks.

    Args:
        networks: From `separate_networks`.
        dataset: A data set of samples (image, label), or a loader of batches of them.
        device: Where to compute; None: a GPU where there is one.
        batch_size: Samples at a time, where `dataset` isn't a loader; decisions don't depend on it.
        transfer, ensemble, patience: As in `escalate`.

    Returns:
        Accuracy, and for each exit by number {"correct": ..., "total": ...}: samples it answered
        rightly, and answered.

    Raises:
        ValueError: There are no samples, or a label is out of range.
    """
    device = chosen_device(device, networks[0])
    for network in networks:
        network.to(device).eval()
    statistics = {number: {"correct": 0, "total": 0} for number in range(len(networks))}
    for images, labels in labelled_batches(dataset, device, batch_size):
        logits, exits = escalate(
            networks, images, transfer=transfer, ensemble=ensemble, patience=patience
        )
        check_labels(labels, logits.shape[1])
        right = logits.argmax(1) == labels
        for number, counts in statistics.items():
            here = exits == number
            counts["total"] += int(here.sum())
            counts["correct"] += int((right & here).sum())
    total = sum(counts["total"] for counts in statistics.values())
    return sum(counts["correct"] for counts in statistics.values()) / total, statistics


test_networks.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test
