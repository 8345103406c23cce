"""The lowest shared threshold that can be certified on the calibrate role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.thresholds.certificates.guarantee import promise_in_words
from tardis_fl.deployment.thresholds.certificates.losses import (
    LOSSES,
    Loss,
    exit_losses,
    loss_sums,
    worst_from_here,
)
from tardis_fl.deployment.thresholds.certificates.pvalues import (
    binomial,
    check_share,
    hoeffding_bentkus,
    smallest_n,
)
from tardis_fl.deployment.thresholds.sweep import checked_scores
from tardis_fl.early_exit.evaluation import CalibrationTable, ExitTable, FitTable
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT
from tardis_fl.errors import DataError

Floats = npt.NDArray[np.float64]
METHODS, GROUPS = ("ltt", "hoeffding_bentkus", "conformal"), ("marginal", "class", "client")
GRID_POINTS = 1000


@dataclass(frozen=True)
class CertificateRequest:
    """What is to be certified.

    Attributes:
        method: ltt: Learn-then-Test by fixed sequence with the exact binomial test, for losses of 0
            and 1; hoeffding_bentkus: the same with the Hoeffding-Bentkus bound, for any loss in [0,
            1]; conformal: conformal risk control, on average only.
        loss: See `exit_losses`.
        epsilon: Largest risk (mean loss) to allow.
        delta: Largest probability that the promise is broken; not looked at by conformal.
        groups: marginal: the risk over all samples; class, client: that of each class or client,
            each tested at delta / groups.

    Raises:
        ValueError: A value is unknown or outside (0, 1), or the method isn't for the loss.
    """

    method: Literal["ltt", "hoeffding_bentkus", "conformal"] = "ltt"
    loss: Loss = "accuracy_gap"
    epsilon: float = 0.02
    delta: float = 0.1
    groups: Literal["marginal", "class", "client"] = "marginal"

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("loss", LOSSES), ("groups", GROUPS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"certificate {name}: got {getattr(self, name)!r}; wanted one of {', '.join(known)}"
                )
        check_share("epsilon", self.epsilon)
        check_share("delta", self.delta)
        if self.method == "ltt" and self.loss == "brier":
            raise ValueError(
                "certificate loss: got 'brier' with the method 'ltt', whose binomial test is for losses of 0 and 1; wanted 'hoeffding_bentkus'"
            )


@dataclass(frozen=True)
class Certificate:
    """A shared threshold and what is promised of it.

    Attributes:
        method, loss, groups, epsilon, delta: As requested.
        num_samples: Of the calibrate role.
        num_groups: 1 for marginal.
        threshold: For all exits; NEVER_EXIT if nothing could be certified.
        abstained: Whether nothing could be certified: never exiting is the answer.
        reason: Why so; empty otherwise.
        calibration_risk: Mean loss at the threshold on the calibrate role.
        promise: What is promised and what isn't, in words.
    """

    method: str
    loss: Loss
    groups: str
    epsilon: float
    delta: float
    num_samples: int
    num_groups: int
    threshold: float
    abstained: bool
    reason: str
    calibration_risk: float
    promise: str


def default_grid(points: int = GRID_POINTS) -> Floats:
    """Returns thresholds at equal distances from 1 to 0, fixed before any data is seen."""
    return np.arange(points, -1, -1) / points


def grid_from_fit(
    table: FitTable, scores: npt.NDArray[np.float64], points: int = GRID_POINTS
) -> Floats:
    """Returns about `points` thresholds at which equal shares of the fit role leave for the next tier, in descending order.

    A guarantee takes the grid as given. One made of the calibrate role's own scores would depend on
    the samples that it is tested on; the fit role is disjoint from them.

    Raises:
        TypeError: The table isn't of the fit role.
    """
    if not isinstance(table, FitTable):
        raise TypeError(
            f"the grid of a certificate comes from the fit role or is fixed in advance, got a table of the role {table.role!r}"
        )
    reached = np.unique(np.maximum.accumulate(checked_scores(scores, table), axis=0))
    if len(reached) > points:
        reached = reached[np.linspace(0, len(reached) - 1, points).round().astype(int)]
    return np.unique(np.append(reached, 0.0))[::-1]


def check_enough(num_samples: int, request: CertificateRequest) -> None:
    """Refuses a number of calibrate samples from which no certificate can come out, whatever they say.

    Raises:
        DataError: Says how many it takes.
    """
    least = smallest_n(request.epsilon, request.delta, request.method)
    if num_samples < least:
        at = f"an epsilon of {request.epsilon:g}" + (
            f" and a delta of {request.delta:g}" if request.method != "conformal" else ""
        )
        raise DataError(
            f"calibration has {num_samples} samples; a certificate at {at} needs at least {least}"
        )


def certify(
    table: CalibrationTable,
    scores: npt.NDArray[np.float64],
    request: CertificateRequest,
    *,
    grid: npt.NDArray[np.float64] | None = None,
    temperatures: Sequence[float] | None = None,
) -> Certificate:
    """Returns the lowest shared threshold of a grid that can be certified.

    Thresholds are tested from never exiting downwards. Learn-then-Test (Angelopoulos et al. 2021)
    rejects "the risk is above epsilon" while the p-value is at most delta, stops at the first that
    it can't reject, and uses the last rejected one. With groups every group has to be rejected at
    delta / groups (Bonferroni). Conformal risk control (Angelopoulos et al. 2022) goes down while n
    / (n + 1) R + 1 / (n + 1) <= epsilon, with losses made monotone by each sample's running
    maximum.

    Args:
        table: The calibrate role, each sample drawn independently from what the promise is about.
        scores: Of its early exits (exits - 1, N).
        request: What to certify.
        grid: Thresholds that don't depend on the calibrate role (`default_grid`, which is taken for
            None, or `grid_from_fit`).
        temperatures: One an exit, for the loss brier.

    Raises:
        TypeError: The table isn't of the calibrate role.
        ValueError: Scores, grid, labels or clients don't fit.
        DataError: So few samples that no certificate can come out, whatever they say.
    """
    if not isinstance(table, CalibrationTable):
        raise TypeError(
            f"certificates are made on the calibrate role only, got a table of the role {table.role!r}"
        )
    scores = checked_scores(scores, table)
    check_enough(len(table), request)
    candidates = np.unique(default_grid() if grid is None else np.asarray(grid, dtype=np.float64))[
        ::-1
    ]
    if len(candidates) == 0 or not ((candidates >= 0) & (candidates <= NEVER_EXIT)).all():
        raise ValueError(
            "grid: got no thresholds, or some outside [0, 1]; wanted at least one, all in [0, 1]"
        )
    losses = exit_losses(table, request.loss, temperatures)
    groups = group_rows(table, request.groups)
    delta = request.delta / len(groups)
    needed = smallest_n(request.epsilon, delta, request.method)
    small = [(name, len(rows)) for name, rows in groups.items() if len(rows) < needed]
    if small:
        name, count = min(small, key=lambda group: group[1])
        more = f", and {len(small) - 1} more groups are too small" if len(small) > 1 else ""
        chosen, reason = (
            0,
            f"{name} has {count} samples in the calibrate role; a certificate for each of {len(groups)} groups needs at least {needed}{more}",
        )
    else:
        bounded = worst_from_here(scores, losses) if request.method == "conformal" else losses
        passed = np.stack(
            [
                _passes(
                    request,
                    loss_sums(scores[:, rows], bounded[:, rows], candidates),
                    len(rows),
                    delta,
                )
                for rows in groups.values()
            ]
        )
        chosen = int(
            np.append(passed.all(axis=0), False).argmin()
        )  # thresholds before the first that isn't passed
        reason = ""
        if chosen == 0:
            failed = next(name for name, row in zip(groups, passed, strict=True) if not row[0])
            reason = f"already the highest threshold below never exiting, {candidates[0]:g}, can't be certified for {failed}"
    threshold = float(candidates[chosen - 1]) if chosen else NEVER_EXIT
    risk = float(loss_sums(scores, losses, np.asarray([threshold]))[0]) / len(table)
    promise = promise_in_words(
        request.method,
        request.loss,
        request.groups,
        epsilon=request.epsilon,
        delta=request.delta,
        num_samples=len(table),
        num_groups=len(groups),
        reason=reason,
    )
    return Certificate(
        request.method,
        request.loss,
        request.groups,
        request.epsilon,
        request.delta,
        len(table),
        len(groups),
        threshold,
        chosen == 0,
        reason,
        risk,
        promise,
    )


def _passes(
    request: CertificateRequest, sums: Floats, n: int, delta: float
) -> npt.NDArray[np.bool_]:
    """Tests each threshold for one group (M,)."""
    if request.method == "conformal":
        return (sums + 1) / (n + 1) <= request.epsilon
    test = binomial if request.method == "ltt" else hoeffding_bentkus
    return test(sums, n, request.epsilon) <= delta


def group_rows(table: ExitTable, groups: str) -> dict[str, npt.NDArray[np.int64]]:
    """Returns the rows of each group by its name: all samples, each class that the logits know, or each client that holds samples.

    Raises:
        ValueError: A sample has no label, or no client.
    """
    if groups == "marginal":
        return {"all samples": np.arange(len(table))}
    values = table.labels if groups == "class" else table.client_ids
    if (values < 0).any():
        raise ValueError(
            f"certificate groups: {int((values < 0).sum())} of {len(table)} samples have no {groups}; wanted one for each, or the groups marginal"
        )
    members = range(table.logits.shape[2]) if groups == "class" else np.unique(values).tolist()
    return {f"{groups} {member}": np.flatnonzero(values == member) for member in members}
