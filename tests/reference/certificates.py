"""The slow, obvious forms of what certificates rest on."""

from __future__ import annotations

import math


def binomial_cdf(k, n, p):
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(int(k) + 1))


def hoeffding_bentkus(loss_sum, n, epsilon):
    risk = min(loss_sum / n, epsilon)
    divergence = (risk * math.log(risk / epsilon) if risk > 0 else 0.0) + (1 - risk) * math.log(
        (1 - risk) / (1 - epsilon)
    )
    return min(
        1.0, math.exp(-n * divergence), math.e * binomial_cdf(math.ceil(loss_sum), n, epsilon)
    )


def loss_at(scores, losses, threshold):
    """The loss of each sample at the first exit whose score reaches the threshold."""
    num_exits, num_samples = len(losses), len(losses[0])
    exits = [
        next((k for k in range(num_exits - 1) if scores[k][i] >= threshold), num_exits - 1)
        for i in range(num_samples)
    ]
    return [losses[exits[i]][i] for i in range(num_samples)]


def fixed_sequence(scores, losses, grid, epsilon, delta, p_value):
    """The last threshold of the descending grid before the first whose p-value is above delta; None where the first is."""
    chosen = None
    for threshold in grid:
        lost = loss_at(scores, losses, threshold)
        if p_value(sum(lost), len(lost), epsilon) > delta:
            break
        chosen = threshold
    return chosen


def conformal(scores, losses, grid, epsilon):
    """As `fixed_sequence`, with each sample's largest loss so far, from never exiting down through all its scores."""
    n, chosen = len(losses[0]), None
    levels = sorted({float(s) for row in scores for s in row} | set(grid), reverse=True)
    worst = [0.0] * n
    for threshold in levels:
        worst = [max(a, b) for a, b in zip(worst, loss_at(scores, losses, threshold), strict=True)]
        if threshold not in grid:
            continue
        if n / (n + 1) * (sum(worst) / n) + 1 / (n + 1) > epsilon + 1e-12:
            break
        chosen = threshold
    return chosen
