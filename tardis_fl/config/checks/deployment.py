"""What can't go together in the section deployment, and what has no effect there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tardis_fl.config.deployment import TARGETS, DeploymentFaultConfig
from tardis_fl.config.problem import Problem, changed

if TYPE_CHECKING:
    from tardis_fl.config.schema import Config

BUDGETS = ("target_offload_rate", "latency_budget_ms", "energy_budget_mj", "bytes_budget")
KEYS_OF_ARRIVALS = {"on_seconds": "bursty", "off_seconds": "bursty", "trace": "trace"}
KEYS_OF_FAULTS = {
    "probability": ("loss",),
    "burst": ("loss",),
    "timeout_ms": ("loss",),
    "start_s": ("outage", "crash"),
    "end_s": ("outage", "crash"),
    "times_s": ("slow",),
    "factors": ("slow",),
}
MOST_TIERS_WITH_A_FRONTIER = 3


def deployment_problems(config: Config) -> Iterator[Problem]:
    """Yields the combinations of the section's keys that can't work."""
    yield from _target(config)
    yield from _hardware(config)
    yield from _load(config)
    lossy: set[str] = set()
    for number, fault in enumerate(config.deployment.faults):
        yield from _fault(config, fault, f"deployment.faults.{number}")
        if fault.kind == "loss" and fault.tier in lossy:
            yield Problem(
                f"deployment.faults.{number}",
                f"a second loss on the link from {fault.tier!r}",
                "wanted at most one for each link",
            )
        lossy |= {fault.tier} if fault.kind == "loss" else set()


def deployment_warnings(config: Config) -> Iterator[str]:
    """Yields a warning for each of the section's keys that was changed and does nothing."""
    deployment = config.deployment
    if changed(deployment, "minimise") and deployment.max_accuracy_drop is None:
        yield "deployment.minimise had no effect without deployment.max_accuracy_drop"
    if changed(deployment, "threshold_mode") and (
        deployment.thresholds is not None or deployment.certificate is not None
    ):
        yield "deployment.threshold_mode had no effect: fixed thresholds are taken as they are, and a certificate is of one shared threshold"
    for key in ("on_failure", "max_attempts"):
        if changed(deployment, key) and not deployment.faults:
            yield f"deployment.{key} had no effect without deployment.faults"
    certificate = deployment.certificate
    if (
        certificate is not None
        and certificate.method == "conformal"
        and changed(certificate, "delta")
    ):
        yield "deployment.certificate.delta had no effect with the method 'conformal', whose promise is one of the mean"
    if deployment.load is not None:
        for key, arrivals in KEYS_OF_ARRIVALS.items():
            if changed(deployment.load, key) and deployment.load.arrivals != arrivals:
                yield f"deployment.load.{key} had no effect with the arrivals {deployment.load.arrivals!r}"
        if changed(deployment.load, "rate") and deployment.load.arrivals == "trace":
            yield "deployment.load.rate had no effect with the arrivals 'trace'"
        batches = deployment.load.batch_sizes is not None and max(deployment.load.batch_sizes) > 1
        for key in ("batch_wait_ms", "batch_cost"):
            if changed(deployment.load, key) and not batches:
                yield f"deployment.load.{key} had no effect without batches (deployment.load.batch_sizes)"


def _target(config: Config) -> Iterator[Problem]:
    deployment, num_tiers = config.deployment, len(config.tiers)
    targets = deployment.targets
    if len(targets) != 1:
        yield Problem(
            "deployment",
            " and ".join(targets) if targets else "no target",
            f"wanted exactly one of {', '.join(TARGETS[:-1])} and {TARGETS[-1]} (set the others to null)",
            tuple(f"deployment.{key}" for key in TARGETS),
        )
    if deployment.thresholds is not None and len(deployment.thresholds) != num_tiers - 1:
        yield Problem(
            "deployment.thresholds",
            f"{len(deployment.thresholds)} thresholds",
            f"wanted {num_tiers - 1}: one for each tier but the last, which always answers",
            ("tiers",),
        )
    if deployment.mixing and not set(targets) & set(BUDGETS):
        yield Problem(
            "deployment.mixing",
            "true",
            f"wanted a budget to meet: {', '.join(BUDGETS)}",
            tuple(f"deployment.{key}" for key in BUDGETS),
        )
    if deployment.threshold_mode == "per_exit" and num_tiers > MOST_TIERS_WITH_A_FRONTIER:
        yield Problem(
            "deployment.threshold_mode",
            "'per_exit'",
            f"the exact frontier is known for two and three tiers, and here are {num_tiers}; wanted 'shared'",
            ("tiers",),
        )
    certificate = deployment.certificate
    if certificate is not None and certificate.method == "ltt" and certificate.loss == "brier":
        yield Problem(
            "deployment.certificate.loss",
            "'brier'",
            "the exact binomial test (method 'ltt') is for losses of 0 and 1; wanted the method 'hoeffding_bentkus'",
            ("deployment.certificate.method",),
        )


def _hardware(config: Config) -> Iterator[Problem]:
    deployment, num_tiers = config.deployment, len(config.tiers)
    hardware = deployment.hardware
    if hardware is None:
        for key in ("latency_budget_ms", "energy_budget_mj"):
            if getattr(deployment, key) is not None:
                yield Problem(
                    f"deployment.{key}",
                    f"{getattr(deployment, key)}",
                    "needs deployment.hardware: which machines and links?",
                    ("deployment.hardware",),
                )
        if deployment.minimise in ("latency_ms", "energy_mj"):
            yield Problem(
                "deployment.minimise",
                repr(deployment.minimise),
                "needs deployment.hardware: which machines and links?",
                ("deployment.hardware",),
            )
        return
    for key, wanted, what in (
        ("devices", num_tiers, "one for each tier"),
        ("links", num_tiers - 1, "one for each boundary between tiers"),
        ("servers", num_tiers - 1, "one number for each tier but the first"),
        ("overhead_ms", num_tiers, "one for each tier"),
    ):
        got = getattr(hardware, key)
        if got is not None and len(got) != wanted:
            yield Problem(
                f"deployment.hardware.{key}",
                f"{len(got)} entries",
                f"wanted {wanted}: {what} (or deployment.hardware: null)",
                ("tiers",),
            )


def _load(config: Config) -> Iterator[Problem]:
    deployment, num_tiers = config.deployment, len(config.tiers)
    load = deployment.load
    if load is None:
        if deployment.faults:
            yield Problem(
                "deployment.faults",
                f"{len(deployment.faults)} faults",
                "need deployment.load: faults break requests over time",
                ("deployment.load",),
            )
        return
    if deployment.hardware is None:
        yield Problem(
            "deployment.load",
            "settings",
            "needs deployment.hardware: which machines and links?",
            ("deployment.hardware",),
        )
    if load.batch_sizes is not None and len(load.batch_sizes) != num_tiers - 1:
        yield Problem(
            "deployment.load.batch_sizes",
            f"{len(load.batch_sizes)} entries",
            f"wanted {num_tiers - 1}: one for each tier but the first",
            ("tiers",),
        )
    if load.arrivals == "trace" and load.trace is None:
        yield Problem(
            "deployment.load.trace",
            "nothing",
            "the arrivals 'trace' want a file of times",
            ("deployment.load.arrivals",),
        )
    elif load.trace is not None and load.arrivals == "trace" and not Path(load.trace).is_file():
        yield Problem(
            "deployment.load.trace",
            f"the text {load.trace!r}",
            "there is no such file",
            ("deployment.load.arrivals",),
        )


def _fault(config: Config, fault: DeploymentFaultConfig, path: str) -> Iterator[Problem]:
    names = [tier.name for tier in config.tiers]
    possible = names[1:] if fault.kind == "crash" else names[:-1]
    if fault.tier not in possible:
        what = "a tier that can crash" if fault.kind == "crash" else "the sender of a link"
        yield Problem(
            f"{path}.tier",
            f"the text {fault.tier!r}",
            f"wanted {what}: {', '.join(possible)}",
            ("tiers",),
        )
    for key, kinds in KEYS_OF_FAULTS.items():
        if changed(fault, key) and fault.kind not in kinds:
            yield Problem(
                f"{path}.{key}",
                str(getattr(fault, key)),
                f"has no effect with the kind {fault.kind!r}; remove it",
                (f"{path}.kind",),
            )
    if fault.kind == "loss" and fault.probability == 0:
        yield Problem(
            f"{path}.probability", "nothing", "wanted the share of messages that get lost, above 0"
        )
    if fault.kind in ("outage", "crash") and (fault.end_s is None or fault.end_s <= fault.start_s):
        yield Problem(
            f"{path}.end_s", str(fault.end_s), f"wanted a time after start_s ({fault.start_s:g})"
        )
    if fault.kind == "slow":
        times, factors = fault.times_s or [], fault.factors or []
        if not times or len(times) != len(factors):
            yield Problem(
                f"{path}.factors",
                f"{len(factors)} factors for {len(times)} times",
                "wanted times_s and factors of the same length, at least 1",
            )
        elif any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
            yield Problem(f"{path}.times_s", str(times), "wanted times that rise")
        elif factors[-1] == 0:
            yield Problem(
                f"{path}.factors",
                str(factors),
                "the last factor must be above 0, or what waits would wait for ever",
            )
