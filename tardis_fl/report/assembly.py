"""From what was measured to the report: pure functions of tables, outcomes and records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from tardis_fl.config.schema import Config
from tardis_fl.data.images import Dataset
from tardis_fl.deployment.baselines import mean_bytes
from tardis_fl.deployment.hardware.machines import Machines
from tardis_fl.deployment.pipeline import Deployed
from tardis_fl.deployment.scoring.policies import table_scores
from tardis_fl.deployment.scoring.temperatures import auroc, expected_calibration_error
from tardis_fl.deployment.thresholds.certificates import Certificate, Evaluation, GroupRisk
from tardis_fl.deployment.thresholds.sweep import Sweep
from tardis_fl.early_exit.counting import SegmentCost
from tardis_fl.early_exit.scoring.scores import POLICIES
from tardis_fl.federation.records import RoundRecord
from tardis_fl.federation.rounds import Trained
from tardis_fl.report import deployment_results as parts
from tardis_fl.report import results
from tardis_fl.report.load_assembly import load_energy_mj, load_latency_ms, simulation_result
from tardis_fl.report.privacy import privacy_result


def assemble(
    config: Config,
    dataset: Dataset,
    trained: Trained,
    costs: Sequence[SegmentCost],
    deployed: Deployed,
    *,
    num_fit: int,
    label_counts: npt.NDArray[np.int64],
    warnings: Sequence[str],
    begun_rounds: Sequence[int] = (),
) -> results.Report:
    """Puts a report together; everything in it was measured or counted before.

    `begun_rounds`: see `privacy_result`.
    """
    history = _accuracies(trained.rounds)
    unused = (
        [f"{trained.num_unused} late updates were still on their way after the last round"]
        if trained.num_unused
        else []
    )
    return results.Report(
        name=config.name,
        seed=config.seed,
        dataset=results.DatasetResult(
            dataset.name,
            dataset.source,
            trained.num_train,
            num_fit,
            deployed.choice.num_samples,
            len(deployed.tables.test),
            dataset.synthetic,
            list(dataset.class_names),
            dataset.train.image_bytes,
        ),
        backbone=config.model.backbone,
        federation=_federation(config, trained, dataset.train.image_bytes),
        last_round=history[-1] if history else None,
        best_round=max(history, key=lambda record: record.validation_accuracy[-1], default=None),
        history=history,
        participation=[
            results.ParticipationResult(
                record.round,
                len(record.clients),
                dict(Counter(failure.kind for failure in record.failures)),
                record.num_late,
                record.num_repeated,
                record.virtual_seconds,
            )
            for record in trained.rounds
        ],
        final_epochs=_accuracies(trained.final_epochs),
        clients=results.ClientsResult(label_counts.tolist()),
        privacy=privacy_result(config, trained, begun_rounds),
        warnings=[*warnings, *unused],
        **deployment_parts(config, costs, deployed, dataset.class_names),
    )


def deployment_parts(
    config: Config, costs: Sequence[SegmentCost], deployed: Deployed, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the parts of a report that a deployment makes, by their names: the same for a run and for deploying it again."""
    names = [tier.name for tier in config.tiers]
    outcome, table, choice = deployed.outcome, deployed.tables.test, deployed.choice
    labels = table.labels
    return {
        "exits": _exits(names, costs, deployed),
        "boundaries": [
            parts.BoundaryResult(
                sender,
                receiver,
                list(cost.feature_shape),
                deployed.rule.codec,
                int(size) if size == int(size) else size,
            )
            for sender, receiver, cost, size in zip(
                names, names[1:], costs, deployed.boundary_bytes, strict=False
            )
        ],
        "operating_point": _operating_point(deployed, costs),
        "calibration": parts.CalibrationResult(
            choice.target,
            choice.num_samples,
            choice.accuracy,
            choice.offload_rate,
            choice.full_accuracy,
        ),
        "certificate": _certificate(*deployed.certificate, class_names)
        if deployed.certificate
        else None,
        "baselines": {
            name: parts.BaselineResult(**asdict(row)) for name, row in deployed.baselines.items()
        },
        "threshold_sweeps": [
            _sweep(role, found, deployed.costs["bytes"]) for role, found in deployed.sweeps.items()
        ],
        "tiers": [
            parts.TierResult(
                name,
                int((outcome.exits == number).sum()),
                int(outcome.correct[outcome.exits == number].sum()),
            )
            for number, name in enumerate(names)
        ],
        "classes": [
            parts.ClassResult(
                name,
                int((labels == label).sum()),
                int(outcome.correct[labels == label].sum()),
                int((outcome.exits[labels == label] > 0).sum()),
            )
            for label, name in enumerate(class_names)
        ],
        "escalation_effect": _effect(deployed),
        "codecs": [
            parts.CodecResult(
                row.codec,
                row.exit_accuracies,
                row.accuracy,
                row.offload_rate,
                row.bytes_per_boundary,
                row.bytes_per_sample,
            )
            for row in deployed.codecs
        ],
        "hardware": _hardware(config, deployed.machines, deployed) if deployed.machines else None,
        "simulation": simulation_result(config, deployed.load) if deployed.load else None,
    }


def model_description(config: Config, report: results.Report) -> dict[str, Any]:
    """Returns what a saved model tells about its deployment beside the rule itself."""
    certificate = asdict(report.certificate) if report.certificate else None
    return {
        "tiers": [tier.name for tier in config.tiers],
        "classes": report.dataset.class_names,
        "calibration": asdict(report.calibration),
        "certificate": certificate,
    }


def _federation(config: Config, trained: Trained, image_bytes: int) -> results.FederationResult:
    waited = [
        record.virtual_seconds for record in trained.rounds if record.virtual_seconds is not None
    ]
    return results.FederationResult(
        rounds=len(trained.rounds),
        num_clients=config.federation.num_clients,
        clients_per_round=config.clients_per_round,
        client_depth=config.max_depth,
        groups=[
            results.GroupResult(
                group.name, size, group.depth, group.device, group.link, group.availability
            )
            for group, size in zip(config.groups, config.group_sizes, strict=True)
        ],
        server_training=config.federation.server_training,
        bytes_up=dict(trained.ledger.up),
        bytes_down=dict(trained.ledger.down),
        raw_images_bytes=trained.num_train * image_bytes,
        num_failures=sum(trained.failures.values()),
        failures=dict(trained.failures),
        num_late=sum(record.num_late for record in trained.rounds),
        num_repeated=sum(record.num_repeated for record in trained.rounds),
        virtual_seconds=sum(waited) if waited else None,
        seconds=trained.seconds,
    )


def _accuracies(records: Sequence[RoundRecord]) -> list[results.RoundResult]:
    return [
        results.RoundResult(record.round, accuracy)
        for record in records
        if (accuracy := record.validation_accuracy) is not None
    ]


def _exits(
    names: Sequence[str], costs: Sequence[SegmentCost], deployed: Deployed
) -> list[parts.ExitResult]:
    table, temperatures = deployed.tables.test, list(deployed.rule.temperatures)
    correct, accuracies = table.correct(), table.accuracies()
    confidence = table_scores("max_softmax", table, temperatures).numpy()
    plain = deployed.rule.policy if deployed.rule.policy in POLICIES else "max_softmax"
    scores = [
        *deployed.scores,
        table_scores(plain, table, temperatures)[-1].numpy(),
    ]  # the last exit decides nothing by its score
    return [
        parts.ExitResult(
            name,
            accuracies[k],
            costs[k].num_parameters,
            costs[k].num_exit_parameters,
            costs[k].macs,
            temperatures[k],
            expected_calibration_error(confidence[k], correct[k]),
            auroc(scores[k], correct[k]),
        )
        for k, name in enumerate(names)
    ]


def _operating_point(deployed: Deployed, costs: Sequence[SegmentCost]) -> parts.OperatingPoint:
    outcome, choice, machines, load = (
        deployed.outcome,
        deployed.choice,
        deployed.machines,
        deployed.load,
    )
    count, crossings = len(outcome), outcome.crossings
    reached = [count, *crossings]
    macs_up_to = np.cumsum([cost.macs for cost in costs])
    latency, energy = None, None
    if load is not None:
        latency, energy = load_latency_ms(load), load_energy_mj(load)
    elif machines is not None:
        latency, energy = (
            machines.latency_quantiles_ms(outcome.exits),
            machines.mean_energy_mj(np.asarray(outcome.exit_counts) / count),
        )
    return parts.OperatingPoint(
        policy=deployed.rule.policy,
        thresholds=list(choice.thresholds),
        accuracy=outcome.accuracy,
        accuracy_interval=results.wilson_interval(int(outcome.correct.sum()), count),
        exit_counts=outcome.exit_counts,
        exit_fractions=[answered / count for answered in outcome.exit_counts],
        offload_rate=crossings[0] / count if crossings else 0.0,
        escalation_rates=[crossing / count for crossing in crossings],
        conditional_escalation_rates=[
            crossing / arrived if arrived else None
            for crossing, arrived in zip(crossings, reached, strict=False)
        ],
        bytes_per_sample=mean_bytes(outcome.exits, deployed.crossing_bytes),
        macs_per_sample=float(macs_up_to[outcome.exits].mean()),
        device_macs_per_sample=float(costs[0].macs),
        latency_ms=latency,
        device_energy_mj=energy,
        mixing=parts.MixingResult(list(choice.mixed[0]), choice.mixed[1]) if choice.mixed else None,
    )


def _certificate(
    certificate: Certificate,
    on_test: Evaluation,
    on_calibrate: Evaluation,
    class_names: Sequence[str],
) -> parts.CertificateResult:
    def worst(kind: str, role: str, found: GroupRisk | None) -> parts.GroupRisk | None:
        return (
            parts.GroupRisk(
                kind,
                class_names[found.index] if kind == "class" else str(found.index),
                role,
                found.risk,
                found.num_samples,
            )
            if found
            else None
        )

    groups = (
        worst("class", "test", on_test.worst_class),
        worst("client", "calibrate", on_calibrate.worst_client),
    )
    return parts.CertificateResult(
        certificate.method,
        certificate.epsilon,
        certificate.delta,
        certificate.num_samples,
        certificate.threshold,
        certificate.abstained,
        on_test.test_risk,
        max((group for group in groups if group), key=lambda group: group.risk, default=None),
        certificate.loss,
        certificate.groups,
        certificate.calibration_risk,
        certificate.promise,
        *groups,
    )


def _hardware(config: Config, machines: Machines, deployed: Deployed) -> parts.HardwareResult:
    hardware = config.deployment.hardware
    assert hardware is not None
    shares = np.asarray(deployed.outcome.exit_counts) / len(deployed.outcome)
    return parts.HardwareResult(
        list(hardware.devices),
        list(hardware.links),
        hardware.radio,
        list(machines.servers),
        list(machines.service_ms),
        dict(machines.sources),
        machines.mean_latency_ms(shares),
        machines.mean_energy_mj(shares),
    )


def _sweep(role: str, found: Sweep, axis_bytes: Sequence[float]) -> parts.SweepResult:
    return parts.SweepResult(
        role,
        found.thresholds.tolist(),
        found.accuracy.tolist(),
        found.offload_rate.tolist(),
        found.cost(axis_bytes).tolist(),
    )


def _effect(deployed: Deployed) -> parts.EscalationEffect:
    outcome = deployed.outcome
    left, device_right = outcome.exits > 0, deployed.tables.test.correct()[0]
    return parts.EscalationEffect(
        int(left.sum()),
        int((left & ~device_right & outcome.correct).sum()),
        int((left & device_right & ~outcome.correct).sum()),
    )
