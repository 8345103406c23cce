"""Thresholds for a target, chosen on the calibrate role by exact sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.thresholds.frontier import Frontier, frontier, shared_frontier
from tardis_fl.deployment.thresholds.mixing import Mix, mix_for_budget
from tardis_fl.deployment.thresholds.sweep import (
    NEVER_ESCALATE,
    Sweep,
    checked_budget,
    checked_costs,
    checked_scores,
    decide,
    mean_cost,
    sweep,
)
from tardis_fl.deployment.thresholds.targets import BUDGETS, Target
from tardis_fl.early_exit.evaluation import CalibrationTable
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT

__all__ = [
    "NEVER_ESCALATE",
    "NEVER_EXIT",
    "Choice",
    "Sweep",
    "Target",
    "choose_from_sweep",
    "choose_thresholds",
    "decide",
    "sweep",
]

Costs = Mapping[str, Sequence[float]]
"""Axis name -> for each exit, the whole cost of a sample that it answers, over all tiers up to
there."""


@dataclass(frozen=True)
class Choice:
    """The chosen thresholds and what they promise on the calibrate role (of a mix, in expectation over draws).

    Attributes:
        thresholds: One for each tier but the last.
        accuracy: On the calibrate role.
        offload_rate: On the calibrate role.
        full_accuracy: Of never exiting early, on the calibrate role.
        num_samples: Of the calibrate role.
        target: What was asked for, in words.
        costs: Mean cost of a sample on the calibrate role, by axis.
        mixed: The second thresholds, and the share of samples that they decide on
            (`mixing.mixed_draw`); None: none.
    """

    thresholds: tuple[float, ...]
    accuracy: float
    offload_rate: float
    full_accuracy: float
    num_samples: int
    target: str
    costs: dict[str, float] = field(default_factory=dict)
    mixed: tuple[tuple[float, ...], float] | None = None


def choose_thresholds(
    table: CalibrationTable,
    scores: npt.NDArray[np.float64],
    target: Target,
    costs: Costs | None = None,
) -> Choice:
    """Chooses thresholds for a target, or takes the fixed ones.

    - max_accuracy_drop: of the thresholds that lose at most so much against never exiting early,
      those with the least cost (`minimise`; offload if nothing else is said), then the most
      accurate.
    - a budget: of the thresholds that cost at most so much, the most accurate, then those with the
      least cost. Never exiting early and never escalating are among the candidates of both.

    Args:
        table: The calibrate role.
        scores: Of its early exits (exits - 1, N).
        target: What for.
        costs: Costs by axis; offload_rate is known without.

    Raises:
        TypeError: The table isn't of the calibrate role.
        ValueError: Scores or costs don't fit the table, the target's axis is missing, or per_exit
            is wanted for more than three exits.
        RunError: Even never escalating exceeds the budget.
    """
    if not isinstance(table, CalibrationTable):
        raise TypeError(
            f"thresholds are chosen on the calibrate role only, got a table of the role {table.role!r}"
        )
    scores = checked_scores(scores, table)
    if len(table) == 0:
        raise ValueError("the calibrate role has no samples to choose thresholds on")
    if target.thresholds is not None:
        fixed = tuple(NEVER_EXIT if threshold > 1 else threshold for threshold in target.thresholds)
        exits, correct = decide(scores, fixed), table.correct()
        counts = np.bincount(exits, minlength=table.num_exits)
        right = int(correct[exits, np.arange(len(table))].sum())
        choice = _choice(
            fixed,
            right,
            counts,
            int(correct[-1].sum()),
            len(table),
            target,
            _all_costs(costs, table.num_exits, target),
        )
        return replace(
            choice, offload_rate=float((exits > 0).mean())
        )  # to the last digit as before there were costs
    if target.mode == "shared" or table.num_exits == 2:
        return choose_from_sweep(sweep(table, scores), target, costs)
    if table.num_exits > 3:
        raise ValueError(
            f"{target.kind}, per_exit: the exact frontier is known for two and three exits, and here are {table.num_exits}; wanted the mode shared"
        )
    return _choose(
        frontier(table, scores),
        int(table.correct()[-1].sum()),
        target,
        _all_costs(costs, table.num_exits, target),
    )


def choose_from_sweep(found: Sweep, target: Target, costs: Costs | None = None) -> Choice:
    """Chooses a shared threshold from a sweep of a table, or of clients' histograms; see `choose_thresholds`.

    Raises:
        ValueError: The target wants fixed thresholds or one for each exit, which a sweep doesn't
            know; or costs don't fit.
        RunError: Even never escalating exceeds the budget.
    """
    num_exits = len(found.exit_counts)
    if target.thresholds is not None or (target.mode == "per_exit" and num_exits > 2):
        raise ValueError(
            f"{target.kind}, {target.mode}: a sweep, or histograms, know shared thresholds only; wanted the mode shared and no fixed thresholds"
        )
    return _choose(found, int(found.num_correct[-1]), target, _all_costs(costs, num_exits, target))


def _choose(
    found: Sweep | Frontier,
    num_full_correct: int,
    target: Target,
    costs: dict[str, Sequence[float]],
) -> Choice:
    """Picks a row, or mixes two."""
    assert target.value is not None
    axis_costs = costs[target.axis]
    if target.kind in BUDGETS:
        checked_budget(target.axis, target.value, float(axis_costs[0]))
    if target.mixing:
        points = shared_frontier(found) if isinstance(found, Sweep) else found
        mix = mix_for_budget(points, axis_costs, target.value, axis=target.axis)
        return _choice(
            mix.first,
            mix.num_correct,
            np.asarray(mix.exit_counts),
            num_full_correct,
            found.num_samples,
            target,
            costs,
            mix,
        )
    cost = found.cost(axis_costs)
    if target.kind == "max_accuracy_drop":
        allowed = found.accuracy >= num_full_correct / found.num_samples - target.value - 1e-12
        order = np.lexsort((-found.num_correct, cost))
    else:
        allowed = cost <= target.value + 1e-12 * max(1.0, abs(target.value))
        order = np.lexsort((cost, -found.num_correct))
    best = order[allowed[order].argmax()]
    row = np.atleast_1d(found.thresholds[best]).tolist()
    thresholds = tuple(row) if len(row) > 1 else tuple(row) * (len(found.exit_counts) - 1)
    return _choice(
        thresholds,
        int(found.num_correct[best]),
        found.exit_counts[:, best],
        num_full_correct,
        found.num_samples,
        target,
        costs,
    )


def _choice(
    thresholds: tuple[float, ...],
    num_correct: float,
    exit_counts: npt.NDArray[np.number],
    num_full_correct: int,
    num_samples: int,
    target: Target,
    costs: dict[str, Sequence[float]],
    mix: Mix | None = None,
) -> Choice:
    return Choice(
        thresholds,
        num_correct / num_samples,
        float(1 - exit_counts[0] / num_samples),
        num_full_correct / num_samples,
        num_samples,
        target.in_words(thresholds),
        {axis: float(mean_cost(exit_counts, values)) for axis, values in costs.items()},
        (mix.second, mix.share) if mix is not None and mix.share > 0 else None,
    )


def _all_costs(costs: Costs | None, num_exits: int, target: Target) -> dict[str, Sequence[float]]:
    """Returns checked costs with the offload rate among them."""
    known: Costs = {"offload_rate": [0.0] + [1.0] * (num_exits - 1), **(costs or {})}
    if target.kind != "fixed" and target.axis not in known:
        raise ValueError(
            f"{target.kind}: got costs of {', '.join(known)}; wanted those of {target.axis} too"
        )
    return {axis: checked_costs(values, num_exits, axis).tolist() for axis, values in known.items()}
