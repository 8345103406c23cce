"""The exact frontier of accuracy against all costs, over thresholds of each exit's own.

Every cost here is the same for all samples that one exit answers, and grows with depth. So a mean
cost is a constant plus non-negative multiples of how many samples cross each boundary, and
thresholds that no others beat in (accuracy, crossings of each boundary) hold the frontier of every
such cost at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.thresholds.sweep import (
    NEVER_ESCALATE,
    Floats,
    Integers,
    Sweep,
    checked_costs,
    checked_scores,
    mean_cost,
    sweep,
)
from tardis_fl.early_exit.evaluation import ExitTable
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT


@dataclass(frozen=True)
class Frontier:
    """Thresholds that no others beat; M rows, by the number of samples that leave the device, then by right answers.

    Attributes:
        thresholds: (M, exits - 1); with them `decide` gives just these counts on the table.
        num_correct: (M,) right answers.
        exit_counts: (exits, M) samples that each exit answers.
        num_samples: Samples in the table.
        kind: per_exit: over all thresholds of each exit's own; shared: over thresholds that all
            exits share.
    """

    thresholds: Floats
    num_correct: Integers
    exit_counts: Integers
    num_samples: int
    kind: Literal["per_exit", "shared"]

    def __len__(self) -> int:
        return len(self.num_correct)

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

    def rows(self, index: npt.NDArray[np.int64]) -> Frontier:
        """Returns some of the rows."""
        return Frontier(
            self.thresholds[index],
            self.num_correct[index],
            self.exit_counts[:, index],
            self.num_samples,
            self.kind,
        )

    def axis(self, axis_costs: Sequence[float]) -> Frontier:
        """Returns the frontier of accuracy against one cost alone: rows in ascending order of cost and of accuracy."""
        cost = self.cost(axis_costs)
        cheapest = np.full(self.num_samples + 2, np.inf)  # by right answers
        np.minimum.at(cheapest, self.num_correct, cost)
        beyond = np.minimum.accumulate(cheapest[::-1])[::-1]  # with at least as many right answers
        on_frontier = cheapest[:-1] < beyond[1:]
        candidates = np.flatnonzero(
            on_frontier[self.num_correct] & (cost == cheapest[self.num_correct])
        )
        return self.rows(candidates[np.unique(self.num_correct[candidates], return_index=True)[1]])

    def joint(self, costs: Mapping[str, Sequence[float]]) -> Frontier:
        """Returns the frontier of accuracy, offload rate and these costs together; of rows that are equal in all of them, the first.

        Every cost is a non-negative combination of the offload rate and of that cost which weighs
        the second boundary most against the first, so these two rule. (With two exits or a shared
        threshold all costs grow together.)
        """
        vectors = [
            checked_costs(values, len(self.exit_counts), axis) for axis, values in costs.items()
        ]
        if self.thresholds.shape[1] != 2 or self.kind == "shared" or not vectors:
            return self.axis([0.0] + [1.0] * self.thresholds.shape[1])
        cost = self.cost(
            max(
                vectors, key=lambda vector: np.arctan2(vector[2] - vector[1], vector[1] - vector[0])
            )
        )
        starts = np.flatnonzero(
            np.diff(self.exit_counts[0], prepend=-1)
        )  # rows with the same offload rate
        least = np.full(
            self.num_samples + 1, np.inf
        )  # by right answers: with at least as many, and no larger offload rate
        kept = np.zeros(len(self), dtype=bool)
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):
            right, spent = self.num_correct[start:end], cost[start:end]  # both ascend
            kept[start:end] = (spent < least[right]) & (np.append(spent[1:], np.inf) > spent)
            span = least[: right[-1] + 1]
            np.minimum(span, np.repeat(spent, np.diff(right, prepend=-1)), out=span)
        return self.rows(np.flatnonzero(kept))


def frontier(table: ExitTable, scores: npt.NDArray[np.float64]) -> Frontier:
    """Returns the exact frontier over thresholds of each exit's own, for two or three exits.

    Two exits have one threshold. With more than three, the frontier over shared thresholds is
    returned, and its `kind` says so.

    Args:
        table: Any role; only the calibrate role's may be used to choose.
        scores: Of its early exits (exits - 1, N).

    Raises:
        ValueError: The scores don't fit the table, or it has a single exit or no samples.
    """
    scores = checked_scores(scores, table)
    if table.num_exits < 2 or len(table) == 0:
        raise ValueError(
            f"frontier: got {table.num_exits} exits and {len(table)} samples; wanted at least 2 exits and 1 sample"
        )
    if table.num_exits != 3:
        return shared_frontier(sweep(table, scores))
    return _three_exits(scores, table.correct())


def shared_frontier(found: Sweep) -> Frontier:
    """Returns the frontier over shared thresholds: crossings of all boundaries grow with the threshold, so it is where right answers rise."""
    index = np.flatnonzero(_rises(found.num_correct))
    num_exits = len(found.exit_counts)
    thresholds = np.repeat(found.thresholds[index, None], num_exits - 1, axis=1)
    return Frontier(
        thresholds,
        found.num_correct[index],
        found.exit_counts[:, index],
        found.num_samples,
        "per_exit" if num_exits == 2 else "shared",
    )


def _three_exits(scores: Floats, correct: npt.NDArray[np.bool_]) -> Frontier:
    """Finds all (right answers, crossings of boundary 1, of boundary 2) that no other thresholds beat.

    Samples leave the device in ascending order of its score, one group of equal scores after the
    other. Of those that left, the cloud takes a prefix in ascending order of the edge's score;
    `_Prefixes` knows the shortest one for each number of right answers. Useful are only the groups
    that hold a sample which the device gets wrong and another exit right, as otherwise keeping the
    group on the device costs less and loses nothing. `least[v]` is the least number of crossings of
    boundary 2 with
    v or more right answers and no more crossings of boundary 1: what isn't below it is beaten.
    """
    device, edge, cloud = (row.astype(np.int64) for row in correct)
    num_samples = correct.shape[1]
    device_scores, device_group = np.unique(scores[0], return_inverse=True)
    edge_scores, edge_group = np.unique(scores[1], return_inverse=True)
    device_thresholds = np.append(device_scores, NEVER_EXIT)
    used = np.unique(
        edge_group[edge != cloud]
    )  # groups of edge scores in which the cloud changes anything
    place = np.searchsorted(
        used, edge_group
    )  # the shortest prefix that holds a sample ends with the group used[place]
    ties = len(used) < int((edge != cloud).sum())

    prefixes = _Prefixes(len(used), int((cloud > edge).sum()))
    base = int(device.sum())  # right answers if the edge answers all that left the device
    least = np.full(num_samples + 2, num_samples + 1, dtype=np.int32)
    least[: base + 1] = 0
    # of each useful group: its number (-1: all stay), samples that left, right answers, what the
    # cloud takes, the prefix's end (-1: nothing)
    found = [(-1, 0, np.asarray([base]), np.zeros(1, np.int32), np.full(1, -1))]

    order = np.argsort(device_group, kind="stable")
    ends = (
        np.flatnonzero(np.diff(device_group[order], append=-1)) + 1
    )  # where each group of device scores ends in this order
    worth = np.logical_or.reduceat(
        ((device == 0) & (edge + cloud > 0))[order], np.concatenate([[0], ends[:-1]])
    ).tolist()
    steps, gains, places, samples = (
        (edge - device).tolist(),
        (cloud - edge).tolist(),
        place.tolist(),
        order.tolist(),
    )
    start = 0
    for group, end in enumerate(ends.tolist()):
        for sample in samples[start:end]:
            prefixes.add(places[sample], gains[sample])
            base += steps[sample]
        start = end
        if not worth[group]:
            continue
        last, crossed = prefixes.shortest()
        if least[base]:
            found.append((group, end, np.asarray([base]), np.zeros(1, np.int32), np.full(1, -1)))
            least[: base + 1] = 0
        span = least[base + 1 : base + 1 + len(crossed)]
        better = crossed < span
        if ties:
            better[:-1] &= crossed[1:] > crossed[:-1]
        index = np.flatnonzero(better)
        if len(index):
            found.append((group, end, base + 1 + index, crossed[index], last[index]))
            np.minimum(span, crossed, out=span)

    sizes = [len(row[2]) for row in found]
    left = np.repeat([row[1] for row in found], sizes)
    right, crossed, last = (
        np.concatenate([row[k] for row in found]).astype(np.int64, copy=False) for k in (2, 3, 4)
    )
    # the edge answers from the next score after the prefix on
    edge_thresholds = np.append(np.append(edge_scores, NEVER_EXIT)[used + 1], NEVER_ESCALATE)[last]
    thresholds = np.stack(
        [
            np.repeat(
                [NEVER_ESCALATE if row[0] < 0 else device_thresholds[row[0] + 1] for row in found],
                sizes,
            ),
            edge_thresholds,
        ],
        axis=1,
    )
    return Frontier(
        thresholds,
        right,
        np.stack([num_samples - left, left - crossed, crossed]),
        num_samples,
        "per_exit",
    )


class _Prefixes:
    """A growing set of samples at places, and for each number of additional right answers the shortest prefix that gains it.

    The gain of a prefix is a walk over the places. Another sample of gain +1 (-1) lifts (lowers)
    the walk from its place on,
    so the place where each level beyond is first reached becomes that of the level below (above):
        one place is inserted into the list of first places (or removed from it).

    Args:
        num_places: Places 0 .. num_places - 1; a sample at num_places is in no prefix.
        most: The number of samples with a gain of 1 that will come.
    """

    def __init__(self, num_places: int, most: int) -> None:
        self._samples = np.zeros(num_places, dtype=np.int32)  # in the prefix that ends with a place
        self._walk = np.zeros(num_places, dtype=np.int32)
        self._first = np.zeros(
            most, dtype=np.int64
        )  # where level v + 1 is first reached, for v < self._height
        self._height = 0

    def add(self, place: int, gain: int) -> None:
        """Adds a sample of gain -1, 0 or 1."""
        self._samples[place:] += 1
        if gain == 0:
            return
        walk, first, height = self._walk, self._first, self._height
        walk[place:] += gain
        level = int(first[:height].searchsorted(place))  # levels up to this one are reached before
        if gain < 0:
            if level < height:
                first[level : height - 1] = first[level + 1 : height]
                self._height -= 1
            return
        if walk[place] > level:
            new = place
        else:
            reached = walk[place : first[level] + 1 if level < height else None] > level
            new = place + int(reached.argmax())
            if not reached[new - place]:
                return
        first[level + 1 : height + 1] = first[level:height]
        first[level] = new
        self._height += 1

    def shortest(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Returns for each gain 1, 2, ...

        that any prefix reaches: the last place of the shortest such, and its samples.
        """
        last = self._first[: self._height]
        return last, self._samples[last]


def _rises(values: Integers) -> npt.NDArray[np.bool_]:
    """Marks the values that are larger than all before them."""
    highest = np.maximum.accumulate(values)
    return np.concatenate([[True], highest[1:] > highest[:-1]])
