"""The slow, obvious forms of training with several exits."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def mean_of_binary_losses(logits, labels):
    """Mean over exits, samples and classes of the binary cross-entropy, entry by entry: what TARDIS Early Exit minimises."""
    total, count = 0.0, 0
    for sample, label in zip(logits, labels, strict=True):
        for exit in sample:
            for number, value in enumerate(exit):
                wanted = 1.0 if number == int(label) else 0.0
                probability = torch.sigmoid(value.double())
                total = total - wanted * probability.log() - (1 - wanted) * (1 - probability).log()
                count += 1
    return total / count


def mutual_distillation(logits, temperature):
    """All ordered pairs of exits, each student drawn to each teacher's probabilities (DepthFL, equation of the KL term)."""
    total = 0.0
    for i, student in enumerate(logits):
        for j, teacher in enumerate(logits):
            if i != j:
                p, q = (
                    F.softmax(teacher.double() / temperature, -1),
                    F.softmax(student.double() / temperature, -1),
                )
                total = total + temperature**2 * (p * (p.log() - q.log())).sum(-1).mean() / (
                    len(logits) - 1
                )
    return total
