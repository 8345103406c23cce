"""The slow, obvious form of the frontier: all thresholds, all pairs of outcomes."""

from __future__ import annotations

from itertools import product


def outcome(scores, correct, thresholds):
    """Right answers and exit counts, sample by sample."""
    num_exits, num_samples = correct.shape
    right, counts = 0, [0] * num_exits
    for sample in range(num_samples):
        exit = next(
            (k for k in range(num_exits - 1) if scores[k][sample] >= thresholds[k]), num_exits - 1
        )
        counts[exit] += 1
        right += int(correct[exit][sample])
    return right, tuple(counts)


def all_outcomes(scores, correct):
    """The outcomes of all combinations of distinct thresholds, never exiting and never escalating among them."""
    choices = [[0.0, *sorted(set(row.tolist())), 1.01] for row in scores]
    return {outcome(scores, correct, thresholds) for thresholds in product(*choices)}


def unbeaten(points):
    """The points (gain, cost, cost, ...) than which no other has at least the gain at no more of any cost."""

    def beats(a, b):
        return a != b and a[0] >= b[0] and all(x <= y for x, y in zip(a[1:], b[1:], strict=True))

    points = set(points)
    return {point for point in points if not any(beats(other, point) for other in points)}


def total(counts, costs):
    """The cost of all samples together."""
    return sum(count * cost for count, cost in zip(counts, costs, strict=True))
