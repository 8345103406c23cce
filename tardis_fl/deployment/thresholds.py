"""One threshold for all tiers, chosen on the calibrate role by an exact sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.config.schema import DeploymentConfig
from tardis_fl.deployment.policies import table_scores
from tardis_fl.early_exit.confidence import NEVER_EXIT
from tardis_fl.early_exit.evaluation import CalibrationTable, ExitTable

NEVER_ESCALATE = 0.0  # every score is at least 0


@dataclass(frozen=True)
class Sweep:
    """What every distinct shared threshold gives on one table; M rows in ascending order of threshold.

    Attributes:
        thresholds: (M,) from NEVER_ESCALATE to NEVER_EXIT.
        num_correct: (M,) right answers.
        exit_counts: (exits, M) samples that each exit answers.
        num_samples: Samples in the table.
    """

    thresholds: npt.NDArray[np.float64]
    num_correct: npt.NDArray[np.int64]
    exit_counts: npt.NDArray[np.int64]
    num_samples: int

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of right answers (M,)."""
        return self.num_correct / self.num_samples

    @property
    def offload_rate(self) -> npt.NDArray[np.float64]:
        """Share of samples that leave the device (M,)."""
        return 1 - self.exit_counts[0] / self.num_samples


@dataclass(frozen=True)
class Choice:
    """The chosen thresholds and what they promise on the calibrate role.

    Attributes:
        thresholds: One for each tier but the last.
        accuracy: On the calibrate role.
        offload_rate: On the calibrate role.
        full_accuracy: Of never exiting early, on the calibrate role.
        num_samples: Of the calibrate role.
        target: What was asked for, in words.
    """

    thresholds: tuple[float, ...]
    accuracy: float
    offload_rate: float
    full_accuracy: float
    num_samples: int
    target: str


def sweep(table: ExitTable, policy: str, temperatures: list[float], *, points: int | None = None) -> Sweep:
    """Evaluates shared thresholds on a table without running the network.

    With s_k the score of exit k and m_k the largest of s_0..s_k, a sample is answered by exit k just
    where m_{k-1} < threshold <= m_k. Counting right answers above a threshold in every m_k by a sorted
    cumulative sum gives all thresholds at once, in O(N log N).

    Args:
        table: Any role; only the calibrate role's may be used to choose.
        policy: Name of the score.
        temperatures: One an exit.
        points: Evaluate only about so many thresholds, evenly spaced over the distinct ones, for a plot; None: all.
    """
    reached = np.maximum.accumulate(table_scores(policy, table, temperatures).numpy()[:-1], axis=0)  # (exits - 1, N): m_k
    candidates = np.unique(reached)
    if points is not None and len(candidates) > points:
        candidates = candidates[np.linspace(0, len(candidates) - 1, points).round().astype(int)]
    thresholds = np.unique(np.concatenate([[NEVER_ESCALATE], candidates, [NEVER_EXIT]]))
    correct = table.correct()
    num_correct = np.zeros(len(thresholds), dtype=np.int64)
    exit_counts = np.zeros((table.num_exits, len(thresholds)), dtype=np.int64)
    answered_before = np.zeros(len(thresholds), dtype=np.int64)
    for exit in range(table.num_exits):
        # right answers of this exit among the samples that it would answer or an earlier exit does ...
        num_correct += _count_at_least(reached[exit], thresholds, correct[exit]) if exit < table.num_exits - 1 else int(correct[exit].sum())
        # ... less those that an earlier exit answers
        if exit > 0:
            num_correct -= _count_at_least(reached[exit - 1], thresholds, correct[exit])
        answered = _count_at_least(reached[exit], thresholds) if exit < table.num_exits - 1 else np.full(len(thresholds), len(table))
        exit_counts[exit] = answered - answered_before
        answered_before = answered
    return Sweep(thresholds, num_correct, exit_counts, len(table))


def _count_at_least(values: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64], marked: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """Counts, for each threshold, the (marked) values that are at least as large."""
    chosen = np.sort(values if marked is None else values[marked])
    return len(chosen) - np.searchsorted(chosen, thresholds, side="left")


def choose_thresholds(table: CalibrationTable, temperatures: list[float], deployment: DeploymentConfig) -> Choice:
    """Chooses the shared threshold for the configured target, or takes the fixed ones.

    - max_accuracy_drop: of the thresholds that lose at most so much against never exiting early, the one
      with the least offload, then the most accurate.
    - target_offload_rate: of the thresholds that offload at most so much, the most accurate, then the one
      with the least offload.
    Never exiting early and never escalating are among the candidates of both.

    Raises:
        TypeError: The table isn't of the calibrate role.
    """
    if not isinstance(table, CalibrationTable):
        raise TypeError(f"thresholds are chosen on the calibrate role only, got a table of the role {table.role!r}")
    full = table.accuracies()[-1]
    if deployment.thresholds is not None:
        fixed = tuple(min(threshold, NEVER_EXIT) for threshold in deployment.thresholds)
        exits = decide(table, deployment.policy, temperatures, fixed)
        right = table.correct()[exits, np.arange(len(table))]
        return Choice(
            fixed, float(right.mean()), float((exits > 0).mean()), full, len(table), f"keep the fixed thresholds {', '.join(f'{t:g}' for t in fixed)}"
        )
    found = sweep(table, deployment.policy, temperatures)
    if deployment.max_accuracy_drop is not None:
        allowed = found.accuracy >= full - deployment.max_accuracy_drop - 1e-12
        order = np.lexsort((-found.num_correct, -found.exit_counts[0]))
        target = f"lose at most {100 * deployment.max_accuracy_drop:g} points of accuracy against never exiting early, and offload as little as that allows"
    else:
        assert deployment.target_offload_rate is not None
        allowed = found.offload_rate <= deployment.target_offload_rate + 1e-12
        order = np.lexsort((-found.exit_counts[0], -found.num_correct))
        target = f"offload at most {100 * deployment.target_offload_rate:g} % of samples, as accurately as that allows"
    best = next(index for index in order if allowed[index])
    threshold = float(found.thresholds[best])
    return Choice((threshold,) * (table.num_exits - 1), float(found.accuracy[best]), float(found.offload_rate[best]), full, len(table), target)


def decide(table: ExitTable, policy: str, temperatures: list[float], thresholds: tuple[float, ...]) -> npt.NDArray[np.int64]:
    """Returns which exit answers each sample (N,): the first whose score is at least its threshold, else the last."""
    scores = table_scores(policy, table, temperatures).numpy()[:-1]
    answers = np.concatenate([scores >= np.asarray(thresholds)[:, None], np.ones((1, len(table)), dtype=bool)])
    return answers.argmax(axis=0).astype(np.int64)
