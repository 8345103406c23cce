"""The slow, obvious forms of the aggregation rules and of the server's optimisers: one Python float after the other."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import torch


def aggregate(updates, rule):
    """Applies `rule(values, weights)` to each coordinate over the updates, pairs of tensors and weight, that hold it; integers take the maximum."""
    result = {}
    for key in {key: None for update, _ in updates for key in update}:
        holders = [(update[key], weight) for update, weight in updates if key in update]
        weights, like = [weight for _, weight in holders], holders[0][0]
        coordinates = list(zip(*(tensor.flatten().tolist() for tensor, _ in holders), strict=True))
        values = [
            rule(values, weights) if like.is_floating_point() else max(values)
            for values in coordinates
        ]
        result[key] = torch.tensor(values, dtype=like.dtype).reshape(like.shape)
    return result


def weighted_mean(values, weights):
    """Computes exactly, and rounds once."""
    return float(
        sum(
            Fraction(value) * Fraction(weight)
            for value, weight in zip(values, weights, strict=True)
        )
        / sum(map(Fraction, weights))
    )


def median(values, weights):
    """Leaves the weights out of account."""
    return statistics.median(values)


def trimmed_mean(trim_fraction):
    """Returns the rule for a fraction, which is taken as the decimal number that it is written as."""

    def rule(values, weights):
        cut = math.floor(Fraction(str(trim_fraction)) * len(values))
        if trim_fraction > 0 and len(values) >= 3 and cut == 0:
            cut = 1
        kept = sorted(values)
        for _ in range(cut):
            kept.remove(min(kept))
            kept.remove(max(kept))
        return float(sum(map(Fraction, kept)) / len(kept))

    return rule


def clip(update, reference, mask, max_norm):
    """Clips one flat update, given as lists, to a norm."""
    norm = math.sqrt(
        sum(
            (new - old) ** 2
            for new, old, is_parameter in zip(update, reference, mask, strict=True)
            if is_parameter
        )
    )
    if norm <= max_norm:
        return update, norm
    return [
        old + (new - old) / norm * max_norm if is_parameter else new
        for new, old, is_parameter in zip(update, reference, mask, strict=True)
    ], norm


def server_steps(optimizer, start, targets, *, learning_rate, momentum, beta2, tau):
    """Lets one weight make a step towards each of the targets, and returns where it was after each."""
    weight, m, v, path = start, 0.0, tau**2, []
    for target in targets:
        delta = target - weight
        if optimizer == "fedavg":
            weight += learning_rate * delta
        elif optimizer == "fedavgm":
            m = momentum * m + delta
            weight += learning_rate * m
        else:
            m = momentum * m + (1 - momentum) * delta
            if optimizer == "fedadam":
                v = beta2 * v + (1 - beta2) * delta**2
            elif v > delta**2:
                v -= (1 - beta2) * delta**2
            elif v < delta**2:
                v += (1 - beta2) * delta**2
            weight += learning_rate * m / (math.sqrt(v) + tau)
        path.append(weight)
    return path
