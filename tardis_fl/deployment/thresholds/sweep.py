"""All shared thresholds at once, what they cost, and which exit answers at given thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.early_exit.evaluation import ExitTable
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT
from tardis_fl.early_exit.scoring.histograms import Histograms, edges
from tardis_fl.errors import RunError

NEVER_ESCALATE = 0.0  # every score is at least 0

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sweep:
    """What every distinct shared threshold gives on one table; M rows in ascending order of threshold.

    Attributes:
        thresholds: (M,) from NEVER_ESCALATE to NEVER_EXIT.
        num_correct: (M,) right answers.
        exit_counts: (exits, M) samples that each exit answers.
        num_samples: Samples in the table.
    """

    thresholds: Floats
    num_correct: Integers
    exit_counts: Integers
    num_samples: int

    @property
    def accuracy(self) -> Floats:
        """Share of right answers (M,)."""
        return self.num_correct / self.num_samples

    @property
    def offload_rate(self) -> Floats:
        """Share of samples that leave the device (M,)."""
        return 1 - self.exit_counts[0] / self.num_samples

    def cost(self, axis_costs: Sequence[float]) -> Floats:
        """Returns the mean cost of a sample (M,), see `mean_cost`."""
        return mean_cost(self.exit_counts, axis_costs)


def mean_cost(exit_counts: npt.NDArray[np.number], axis_costs: Sequence[float]) -> Floats:
    """Returns the mean cost of a sample: the sum over exits of fraction x cost.

    Args:
        exit_counts: (exits, M) or (exits,) samples that each exit answers.
        axis_costs: For each exit, the whole cost of a sample that it answers, over all tiers up to
            there.

    Raises:
        ValueError: See `checked_costs`.
    """
    costs = checked_costs(axis_costs, len(exit_counts))
    return costs @ exit_counts / exit_counts.sum(axis=0)


def checked_costs(axis_costs: Sequence[float], num_exits: int, axis: str = "costs") -> Floats:
    """Returns the costs of one axis as an array (exits,).

    Raises:
        ValueError: There isn't one finite cost for each exit, or a deeper exit costs less than a
            shallower one.
    """
    costs = np.asarray(axis_costs, dtype=np.float64)
    if costs.shape != (num_exits,) or not np.isfinite(costs).all():
        raise ValueError(
            f"{axis}: got {list(axis_costs)}; wanted one finite cost for each of {num_exits} exits"
        )
    if (np.diff(costs) < 0).any():
        raise ValueError(
            f"{axis}: got {list(axis_costs)}; wanted the whole cost of a sample up to each exit, which can't fall with depth"
        )
    return costs


def checked_scores(scores: npt.NDArray[np.float64], table: ExitTable) -> Floats:
    """Returns the scores of a table's early exits.

    Raises:
        ValueError: They aren't (exits - 1, N), or there is a NaN among them.
    """
    wanted = (table.num_exits - 1, len(table))
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != wanted:
        raise ValueError(
            f"scores: got the shape {scores.shape}; wanted (exits - 1, samples) = {wanted}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"scores: got NaN for {int(np.isnan(scores).any(axis=0).sum())} of {wanted[1]} samples; wanted numbers in [0, 1]"
        )
    return scores


def sweep(table: ExitTable, scores: npt.NDArray[np.float64], *, points: int | None = None) -> Sweep:
    """Evaluates shared thresholds on a table without running the network.

    With s_k the score of exit k and m_k the largest of s_0..s_k, a sample is answered by exit k
    just where m_{k-1} < threshold <= m_k. Counting right answers above a threshold in every m_k by
    a sorted cumulative sum gives all thresholds at once, in O(N log N).

    Args:
        table: Any role; only the calibrate role's may be used to choose.
        scores: Of its early exits (exits - 1, N).
        points: Evaluate only about so many thresholds, evenly spaced over the distinct ones, for a
            plot; None: all.
    """
    reached = np.maximum.accumulate(checked_scores(scores, table), axis=0)  # (exits - 1, N): m_k
    candidates = np.unique(reached)
    if points is not None and len(candidates) > points:
        candidates = candidates[np.linspace(0, len(candidates) - 1, points).round().astype(int)]
    thresholds = np.unique(np.concatenate([[NEVER_ESCALATE], candidates, [NEVER_EXIT]]))
    correct = table.correct()
    answered = np.stack([_count_at_least(values, thresholds) for values in reached])
    right_here = np.stack(
        [
            _count_at_least(values, thresholds, marked)
            for values, marked in zip(reached, correct[:-1], strict=True)
        ]
    )
    right_next = np.stack(
        [
            _count_at_least(values, thresholds, marked)
            for values, marked in zip(reached, correct[1:], strict=True)
        ]
    )
    return sweep_of_counts(
        thresholds,
        answered,
        right_here,
        right_next,
        right_last=int(correct[-1].sum()),
        num_samples=len(table),
    )


def sweep_of_counts(
    thresholds: Floats,
    answered: Integers,
    right_here: Integers,
    right_next: Integers,
    *,
    right_last: int,
    num_samples: int,
) -> Sweep:
    """Makes a sweep of how many samples reach each threshold.

    Args:
        thresholds: (M,) ascending.
        answered: (exits - 1, M) samples with m_k >= threshold: those that exit k or an earlier one
            answers.
        right_here: (exits - 1, M) of these, those on which exit k is right.
        right_next: (exits - 1, M) of these, those on which exit k + 1 would be right.
        right_last: Samples on which the last exit is right.
        num_samples: All samples.
    """
    # exit k's right answers among those that it or an earlier exit answers, less those that an
    # earlier exit answers
    num_correct = right_here.sum(axis=0) + right_last - right_next.sum(axis=0)
    everyone = np.full((1, len(thresholds)), num_samples, dtype=np.int64)
    exit_counts = np.diff(np.concatenate([np.zeros_like(everyone), answered, everyone]), axis=0)
    return Sweep(thresholds, num_correct, exit_counts, num_samples)


def sweep_from_histograms(histograms: Histograms) -> Sweep:
    """Returns the sweep over the edges of the bins and NEVER_EXIT.

    No sample leaves a client: it counts, for each early exit k, how often m_k, the largest score up
    to exit k, lies in each bin: over all its samples, over those on which exit k is right, and over
    those on which exit k + 1 is right. These sums are all that a `Sweep` needs.

    What holds: at every edge of a bin this sweep equals that of all clients' samples at that
    threshold, count for count. So what is chosen is the best edge. Against the choice among all
    thresholds (t):

    - a budget: at least as accurate as t moved down to the next edge, which costs no more than t;
    - max_accuracy_drop: as cheap, or cheaper, than t moved up to the next edge, if that edge keeps
      the drop; and not cheaper than t. So the threshold lies within one bin of t wherever right
      answers don't fall with the threshold within that bin, and no thresholds beyond it are just as
      cheap or just as accurate; else it may lie further off, and is then no worse than as said.
    """
    return sweep_of_counts(
        np.append(edges(histograms.num_bins), NEVER_EXIT),
        _at_least(histograms.reached),
        _at_least(histograms.right_here),
        _at_least(histograms.right_next),
        right_last=histograms.right_last,
        num_samples=histograms.num_samples,
    )


def _at_least(counts: Integers) -> Integers:
    """Returns how many samples lie in each bin or a higher one (exits - 1, bins + 2)."""
    from_here_on = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    nothing_beyond = np.zeros((len(counts), 1), dtype=np.int64)
    return np.concatenate([from_here_on, nothing_beyond], axis=1)


def _count_at_least(
    values: Floats, thresholds: Floats, marked: npt.NDArray[np.bool_] | None = None
) -> Integers:
    """Counts, for each threshold, the (marked) values that are at least as large."""
    chosen = np.sort(values if marked is None else values[marked])
    return len(chosen) - np.searchsorted(chosen, thresholds, side="left")


def decide(scores: npt.NDArray[np.float64], thresholds: Sequence[float]) -> Integers:
    """Returns which exit answers each sample (N,): the first whose score is at least its threshold, else the last.

    Args:
        scores: Of the early exits (exits - 1, N).
        thresholds: One for each early exit.

    Raises:
        ValueError: There isn't one threshold for each row of scores.
    """
    if len(scores) != len(thresholds):
        raise ValueError(
            f"thresholds: got {len(thresholds)}; wanted {len(scores)}, one for each exit but the last"
        )
    exits = np.full(np.shape(scores)[1], len(scores), dtype=np.int64)
    for exit in reversed(range(len(scores))):
        exits[scores[exit] >= thresholds[exit]] = exit
    return exits


def checked_budget(axis: str, budget: float, least: float) -> float:
    """Returns the budget.

    Raises:
        RunError: Never escalating alone costs more.
    """
    if budget * (1 + 1e-12) < least:
        raise RunError(
            f"a budget of {budget:g} for {axis} can't be met: never escalating costs {least:g} already; wanted at least that, or a cheaper device tier"
        )
    return budget
