"""Learning rates over the planned length of a training."""

from __future__ import annotations

import math


def learning_rate(base: float, schedule: str, progress: float) -> float:
    """Returns the learning rate at `progress` in [0, 1) of the planned training.

    cosine: base * (1 + cos(pi * progress)) / 2 (Loshchilov and Hutter 2017, equation 5, without restarts).
    """
    if schedule == "constant":
        return base
    return base * 0.5 * (1 + math.cos(math.pi * progress))
