"""How often a certified threshold breaks its promise, over 1,000 repeated calibrations.

    python -m benchmarks.certificate_coverage --table runs/NAME/exit_table.npz [--repeats 1000]
    [--output FILE]

Each repeat draws calibration samples, chooses a threshold, and compares its true risk with epsilon.
Beside the certificates: naive tuning (the lowest threshold whose risk on the calibration samples is
at most epsilon) and Learn-then-Test done wrong (the first threshold that isn't rejected, instead of
the last that is).

1. synthetic: samples of a model whose true risk at every threshold is known in closed form.
2. real: samples drawn with replacement from the test role of a run's exit table, half as many as it
  has; the truth is the risk over all its rows, and temperatures and grid come from its fit role.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta

from tardis_fl.deployment.exit_tables import read_exit_table
from tardis_fl.deployment.scoring.policies import table_scores
from tardis_fl.deployment.scoring.temperatures import fit_temperatures
from tardis_fl.deployment.thresholds.certificates import (
    CertificateRequest,
    certify,
    default_grid,
    grid_from_fit,
)
from tardis_fl.deployment.thresholds.certificates.losses import exit_losses, loss_sums
from tardis_fl.deployment.thresholds.certificates.pvalues import binomial
from tardis_fl.deployment.thresholds.sweep import decide
from tardis_fl.early_exit.evaluation import CalibrationTable
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT
from tardis_fl.runs.folder import machine_facts

FULL, DEVICE, EDGE = (
    0.8,
    0.6,
    0.4,
)  # of the synthetic model: P(last exit right); P(exit wrong | last right) = this x (1 - score)
POLICY = "max_softmax"


@dataclass(frozen=True)
class Source:
    """Where calibration samples come from.

    Attributes:
        name: Shown.
        draw: Gives a calibrate role and its scores.
        truth: Gives the true risks of a threshold under a loss: of all samples, and of the worst
            class.
        grid: Thresholds fixed without the calibration samples.
        temperatures: One an exit.
        num_samples: Of a calibration.
    """

    name: str
    draw: Callable[[np.random.Generator], tuple[CalibrationTable, np.ndarray]]
    truth: Callable[[float, str], tuple[float, float]]
    grid: np.ndarray
    temperatures: list[float]
    num_samples: int


def synthetic(num_samples: int) -> Source:
    """Scores are uniform and independent; an exit is wrong where the last is right with probability FULL x factor x (1 - score)."""

    def draw(rng: np.random.Generator) -> tuple[CalibrationTable, np.ndarray]:
        scores, last = rng.random((2, num_samples)), rng.random(num_samples) < FULL
        right = rng.random((2, num_samples)) > np.where(
            last, np.asarray([[DEVICE], [EDGE]]) * (1 - scores), 0.8
        )
        says = np.where(np.concatenate([right, last[None]]), 0, 1)
        logits = np.zeros((3, num_samples, 2), np.float32)
        np.put_along_axis(logits, says[..., None], 5.0, axis=2)
        return CalibrationTable(
            logits,
            np.zeros(num_samples, np.int64),
            np.arange(num_samples),
            np.zeros(num_samples, np.int64),
        ), scores

    def truth(threshold: float, loss: str) -> tuple[float, float]:
        at = min(
            threshold, 1.0
        )  # the device answers scores above it, the edge those of the others whose second score is above it
        risk = FULL * (1 - at) ** 2 / 2 * (DEVICE + at * EDGE)
        return risk, risk

    return Source("synthetic", draw, truth, default_grid(), [1.0] * 3, num_samples)


def resampled(path: Path) -> Source:
    """Half as many samples as the test role has, drawn with replacement, so that they are independent draws from its rows."""
    roles = read_exit_table(path)
    temperatures = fit_temperatures(roles["fit"])
    fit_scores, scores = (
        table_scores(POLICY, roles[role], temperatures).numpy()[:-1] for role in ("fit", "test")
    )
    test, half = roles["test"], len(roles["test"]) // 2
    losses = {
        loss: exit_losses(test, loss, temperatures)
        for loss in ("accuracy_gap", "consistency", "brier")
    }

    def draw(rng: np.random.Generator) -> tuple[CalibrationTable, np.ndarray]:
        rows = rng.integers(0, len(test), half)
        return CalibrationTable(
            test.logits[:, rows], test.labels[rows], np.arange(half), np.zeros(half, np.int64)
        ), scores[:, rows]

    def truth(threshold: float, loss: str) -> tuple[float, float]:
        lost = losses[loss][decide(scores, [threshold] * len(scores)), np.arange(len(test))]
        return float(lost.mean()), float(
            (np.bincount(test.labels, weights=lost) / np.bincount(test.labels)).max()
        )

    return Source("real", draw, truth, grid_from_fit(roles["fit"], fit_scores), temperatures, half)


def clopper_pearson(count: int, n: int) -> list[float]:
    """Returns the exact 95 % interval of a share."""
    return [
        float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0,
        float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0,
    ]


def choices(
    source: Source, request: CertificateRequest, table: CalibrationTable, scores: np.ndarray
) -> dict[str, float]:
    """Returns the thresholds of the certificate, of naive tuning and, for Learn-then-Test, of stopping one too late."""
    chosen = {
        request.method: certify(
            table, scores, request, grid=source.grid, temperatures=source.temperatures
        ).threshold
    }
    if request.groups != "marginal":
        return chosen
    sums = loss_sums(scores, exit_losses(table, request.loss, source.temperatures), source.grid)
    within = np.flatnonzero(sums / len(table) <= request.epsilon)
    chosen["naive"] = float(source.grid[within[-1]]) if len(within) else NEVER_EXIT
    if request.method == "ltt":
        failed = np.flatnonzero(binomial(sums, len(table), request.epsilon) > request.delta)
        chosen["first_not_rejected"] = float(
            source.grid[failed[0]] if len(failed) else source.grid[-1]
        )
    return chosen


def measure(source: Source, request: CertificateRequest, repeats: int, seed: int) -> dict:
    """Repeats a choice, and counts how often the true risk is above epsilon."""
    started, chosen = time.perf_counter(), {}
    for repeat in range(repeats):
        table, scores = source.draw(np.random.default_rng([seed, repeat]))
        for name, threshold in choices(source, request, table, scores).items():
            chosen.setdefault(name, []).append(threshold)
    row = {
        "source": source.name,
        "method": request.method,
        "loss": request.loss,
        "groups": request.groups,
        "epsilon": request.epsilon,
        "delta": None if request.method == "conformal" else request.delta,
        "num_samples": source.num_samples,
        "repeats": repeats,
        "seconds": time.perf_counter() - started,
        "choices": {},
    }
    for name, thresholds in chosen.items():
        risks = np.asarray([source.truth(threshold, request.loss) for threshold in thresholds])
        watched = risks[:, 1 if request.groups == "class" else 0]
        violations = int((watched > request.epsilon + 1e-12).sum())
        row["choices"][name] = {
            "violations": violations,
            "rate": violations / repeats,
            "interval": clopper_pearson(violations, repeats),
            "mean_risk": float(risks[:, 0].mean()),
            "standard_error": float(risks[:, 0].std(ddof=1) / repeats**0.5),
            "mean_worst_class_risk": float(risks[:, 1].mean()),
            "median_threshold": float(np.median(thresholds)),
            "abstained": int((np.asarray(thresholds) == NEVER_EXIT).sum()),
        }
        entry = row["choices"][name]
        low, high = entry["interval"]
        print(
            f"  {source.name} {request.loss} {100 * request.epsilon:g} % {request.groups:8} {name:18} violated {100 * entry['rate']:5.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}], mean risk {100 * entry['mean_risk']:.2f} %",
            flush=True,
        )
    return row


def kept(row: dict) -> bool:
    """Whether delta isn't below the interval of a row's violations; of conformal, whether the mean risk is within two standard errors of epsilon or below."""
    own = row["choices"][row["method"]]
    return (
        own["mean_risk"] - 2 * own["standard_error"] <= row["epsilon"]
        if row["delta"] is None
        else own["interval"][0] <= row["delta"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table",
        type=Path,
        help="exit_table.npz of a run; without it the synthetic part alone runs",
    )
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "certificate_coverage.json",
    )
    arguments = parser.parse_args()
    requests = [
        CertificateRequest(method, "accuracy_gap", 0.02, 0.1)
        for method in ("ltt", "hoeffding_bentkus", "conformal")
    ]
    rows = [
        measure(synthetic(1000), request, arguments.repeats, seed)
        for seed, request in enumerate(requests)
    ]
    description = None
    if arguments.table:
        source = resampled(arguments.table)
        test = read_exit_table(arguments.table)["test"]
        description = {
            "test_samples": len(test),
            "exits": test.num_exits,
            "classes": test.logits.shape[2],
            "accuracies": test.accuracies(),
            "policy": POLICY,
        }
        requests += [
            CertificateRequest("ltt", "consistency", 0.05, 0.1),
            CertificateRequest("hoeffding_bentkus", "brier", 0.02, 0.1),
            CertificateRequest("ltt", "accuracy_gap", 0.05, 0.1),
            CertificateRequest("ltt", "accuracy_gap", 0.05, 0.1, "class"),
        ]
        rows += [
            measure(source, request, arguments.repeats, 100 + seed)
            for seed, request in enumerate(requests)
        ]
    result = {
        "command": " ".join(
            ["python", "-m", "benchmarks.certificate_coverage", *_without_paths(sys.argv[1:])]
        ),
        **machine_facts(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "table": description,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    broken = [row for row in rows if not kept(row)]
    print(
        f"promises kept within the interval: {len(rows) - len(broken)} of {len(rows)}: target all {'met' if not broken else 'NOT met'}"
    )


def _without_paths(words: list[str]) -> list[str]:
    """Keeps a table's file name and its folder's as in the usage; results hold no paths of a machine."""
    return [
        str(Path("runs", "NAME", Path(word).name))
        if word.endswith(".npz")
        else Path(word).name
        if word.endswith(".json")
        else word
        for word in words
    ]


if __name__ == "__main__":
    main()
