"""Learning rates over the planned length of a training."""

from __future__ import annotations

import math

from tardis_fl.config.federation import OptimizerConfig


def learning_rate(settings: OptimizerConfig, progress: float, periods: float) -> float:
    """Returns the learning rate at `progress` in [0, 1) of the planned training.

    During the warm-up it rises linearly to the start's; what follows is stretched over the rest.
    cosine: base * (1 + cos(pi * progress)) / 2 (Loshchilov and Hutter 2017, equation 5, without
        restarts);
    linear: base * (1 - progress); exponential: base * decay ^ period.

    Args:
        settings: The rate at the start, the schedule and its numbers.
        progress: Share of the planned training that is done.
        periods: Rounds (server: passes) in the planned training, whole or not.
    """
    base, warmup = settings.learning_rate, settings.warmup
    if progress < warmup:
        return base * (progress * periods + 1) / (warmup * periods + 1)
    if settings.schedule == "exponential":
        return base * settings.decay ** math.floor(progress * periods + 1e-9)
    rest = (progress - warmup) / (1 - warmup)
    if settings.schedule == "linear":
        return base * (1 - rest)
    return base if settings.schedule == "constant" else base * 0.5 * (1 + math.cos(math.pi * rest))
