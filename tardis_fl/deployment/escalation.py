"""Replay: the segments deployed on their tiers, every test sample on its way through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.codec import transfer
from tardis_fl.deployment.scoring.policies import ScoringRule
from tardis_fl.deployment.thresholds.mixing import mixed_draw
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
        coefficients: Of a learned score; see `ScoringRule`.
        mixed: Second thresholds, the share of samples that they decide on, and the seed of that
            draw (`mixing.mixed_draw`); None: none.
    """

    policy: str
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    codec: str
    ensemble: bool = False
    coefficients: tuple[tuple[float, ...], ...] | None = None
    mixed: tuple[tuple[float, ...], float, int] | None = None

    @property
    def scoring(self) -> ScoringRule:
        """The policy with what was fitted for it."""
        return ScoringRule(self.policy, self.temperatures, self.coefficients)


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
    """Puts the rule's score and first thresholds on each segment, without copying it; the last one answers always."""
    scoring = rule.scoring
    scores = [
        None if scoring.needs_earlier_exits or number == len(network) - 1 else scoring.at(number)
        for number in range(len(network))
    ]
    return [
        SegmentedEarlyExitNetwork(segment.body, segment.exit, threshold, score=score)
        for segment, threshold, score in zip(network, [*rule.thresholds, None], scores, strict=True)
    ]


class Deployment:
    """A network deployed by a rule, codec and mixing included.

    Args:
        network: Its modules are shared, not copied.
        rule: When each tier answers.
    """

    def __init__(self, network: EarlyExitNetwork, rule: Rule) -> None:
        self.rule = rule
        self._sides = [deploy(network, rule)]
        if rule.mixed is not None:
            self._sides.append(deploy(network, replace(rule, thresholds=rule.mixed[0])))

    def escalate(
        self, x: Tensor, sample_ids: npt.NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Passes a batch through the tiers; see `segmented.escalate`.

        Args:
            x: (B, ...).
            sample_ids: (B,) numbers by which mixing draws; needed where the rule mixes.

        Raises:
            ValueError: The rule mixes, and there are no such numbers.
        """
        if self.rule.mixed is None:
            return self._one_side(0, x)
        if sample_ids is None or len(sample_ids) != len(x):
            raise ValueError(
                "this deployment mixes two choices of thresholds by the samples' numbers; pass sample_ids, one a sample"
            )
        _, share, seed = self.rule.mixed
        second = torch.from_numpy(mixed_draw(sample_ids, seed, share))
        parts = [
            (rows, self._one_side(side, x[rows]))
            for side in (0, 1)
            if len(rows := (second == bool(side)).nonzero().squeeze(1))
        ]
        logits = parts[0][1][0].new_empty(len(x), parts[0][1][0].shape[1])
        exits = torch.empty(len(x), dtype=torch.int64)
        for rows, (said, answered_by) in parts:
            logits[rows], exits[rows] = said, answered_by
        return logits, exits

    def _one_side(self, side: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return escalate(
            self._sides[side],
            x,
            transfer=transfer(self.rule.codec),
            ensemble=self.rule.ensemble,
            patience=self.rule.scoring.needs_earlier_exits,
        )


def replay(
    network: EarlyExitNetwork,
    rule: Rule,
    inputs: Callable[[slice], Tensor],
    labels: npt.NDArray[np.int64],
    *,
    batch_size: int,
    sample_ids: npt.NDArray[np.int64] | None = None,
) -> Outcome:
    """Sends samples through the deployed segments, each decided by itself, in vectorised batches.

    Args:
        network: The segments.
        rule: When each tier answers.
        inputs: Gives the images (B, C, H, W) for a range of samples.
        labels: (N,).
        batch_size: Samples at a time.
        sample_ids: (N,) for a rule that mixes.
    """
    deployment, exits, correct = Deployment(network, rule), [], []
    for start in range(0, len(labels), batch_size):
        rows = slice(start, min(start + batch_size, len(labels)))
        logits, answered_by = deployment.escalate(
            inputs(rows), None if sample_ids is None else sample_ids[rows]
        )
        exits.append(answered_by)
        correct.append(logits.argmax(1) == torch.from_numpy(labels[rows]))
    return Outcome(torch.cat(exits).numpy(), torch.cat(correct).numpy(), len(network))
