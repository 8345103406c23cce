"""The slow, obvious forms of what the deployment does."""

from __future__ import annotations

import math

import numpy as np
import torch


def one_by_one(networks, images, transfer=None):
    """Sends one sample at a time through the tiers; returns logits and exits."""
    answers, exits = [], []
    for image in images:
        x = image[None]
        with torch.no_grad():
            for number, network in enumerate(networks):
                network.eval()
                x = network.network(x)
                logits = network.exit(x)
                if (
                    network.threshold is None
                    or float(network.score(logits)[0]) >= network.threshold
                ):
                    break
                if transfer:
                    x = transfer(x)
        answers.append(logits[0])
        exits.append(number)
    return torch.stack(answers), torch.tensor(exits)


def outcome_at(scores, correct, threshold):
    """Right answers and exit counts of one shared threshold, sample by sample."""
    num_exits, num_samples = correct.shape
    right, counts = 0, [0] * num_exits
    for sample in range(num_samples):
        exit = next(
            (k for k in range(num_exits - 1) if scores[k, sample] >= threshold), num_exits - 1
        )
        counts[exit] += 1
        right += int(correct[exit, sample])
    return right, counts


def auroc(scores, correct):
    """Compares every right answer with every wrong one."""
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[correct] for b in scores[~correct]]
    return sum(pairs) / len(pairs)


def expected_calibration_error(confidence, correct, num_bins):
    """Goes over the bins one by one."""
    total = 0.0
    for number in range(num_bins):
        inside = [
            i
            for i, c in enumerate(confidence)
            if min(math.floor(c * num_bins), num_bins - 1) == number
        ]
        if inside:
            total += (
                len(inside)
                / len(confidence)
                * abs(
                    np.mean([confidence[i] for i in inside]) - np.mean([correct[i] for i in inside])
                )
            )
    return total


def seed_test_networks(networks, dataset):
    """The loop of TARDIS Early Exit: one sample at a time through segments of a batch of one, until one is confident.

    Returns accuracy, statistics by exit, and the exit of each sample. It says `>` where this
    project says `>=`.
    """
    softmax = torch.nn.Softmax(dim=0)
    statistics = {number: {"correct": 0, "total": 0} for number in range(len(networks))}
    exits, correct = [], 0
    with torch.no_grad():
        for image, label in dataset:
            tensor = image
            for number, network in enumerate(networks):
                features = network.network(tensor.unsqueeze(0))
                logits = (features if network.exit is None else network.exit(features)).squeeze(0)
                if network.threshold is None or softmax(logits).max() > network.threshold:
                    break
                tensor = features.squeeze(0)
            exits.append(number)
            statistics[number]["total"] += 1
            if torch.argmax(logits) == label:
                correct += 1
                statistics[number]["correct"] += 1
    return correct / len(dataset), statistics, exits
