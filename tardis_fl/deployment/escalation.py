"""Replay: the segments deployed on their tiers, every test sample on its way through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs import transfer
from tardis_fl.deployment.policies import score
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.segmented import SegmentedEarlyExitNetwork, escalate


@dataclass(frozen=True)
class Rule:
    """When a sample is answered: everything that a deployed tier needs beside its segment.

    Attributes:
        policy: Name of the score.
        temperatures: One an exit.
        thresholds: One for each tier but the last.
        codec: How features travel between tiers.
        ensemble: Whether an exit answers by the geometric mean of itself and the shallower ones.
    """

    policy: str
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    codec: str
    ensemble: bool = False


@dataclass(frozen=True)
class Outcome:
    """What happened to each of N samples.

    Attributes:
        exits: (N,) number of the exit that answered.
        correct: (N,) whether its answer was right.
        num_exits: Exits of the network.
    """

    exits: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    num_exits: int

    def __len__(self) -> int:
        return len(self.exits)

    @property
    def exit_counts(self) -> list[int]:
        """Samples that each exit answered."""
        return np.bincount(self.exits, minlength=self.num_exits).tolist()

    @property
    def crossings(self) -> list[int]:
        """Samples that crossed each boundary, from the device's on."""
        return [int((self.exits > boundary).sum()) for boundary in range(self.num_exits - 1)]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.mean())


def deploy(network: EarlyExitNetwork, rule: Rule) -> list[SegmentedEarlyExitNetwork]:
    """Puts the rule on each segment, without copying it; the last one answers always."""
    thresholds = [*rule.thresholds, None]
    return [
        SegmentedEarlyExitNetwork(segment.body, segment.exit, threshold, score=partial(_score, policy=rule.policy, temperature=temperature))
        for segment, temperature, threshold in zip(network, rule.temperatures, thresholds, strict=True)
    ]


def _score(logits: Tensor, *, policy: str, temperature: float) -> Tensor:
    return score(policy, logits, temperature)


def replay(
    networks: Sequence[SegmentedEarlyExitNetwork], inputs: Callable[[slice], Tensor], labels: npt.NDArray[np.int64], *,
    codec: str, batch_size: int, ensemble: bool = False,
) -> Outcome:  # fmt: skip
    """Sends samples through the deployed segments, each decided by itself, in vectorised batches.

    Args:
        networks: The tiers, from the device on.
        inputs: Gives the images (B, C, H, W) for a range of samples.
        labels: (N,).
        codec: How features travel between tiers.
        batch_size: Samples at a time.
        ensemble: As in `Rule`.
    """
    exits, correct = [], []
    for start in range(0, len(labels), batch_size):
        rows = slice(start, min(start + batch_size, len(labels)))
        logits, answered_by = escalate(networks, inputs(rows), transfer=transfer(codec), ensemble=ensemble)
        exits.append(answered_by)
        correct.append(logits.argmax(1) == torch.from_numpy(labels[rows]))
    return Outcome(torch.cat(exits).numpy(), torch.cat(correct).numpy(), len(networks))
