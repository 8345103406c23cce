"""From what was measured to the report: pure functions of tables, outcomes and records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from tardis_fl.codecs import sample_bytes
from tardis_fl.config.schema import Config, DeploymentConfig
from tardis_fl.data.images import Dataset
from tardis_fl.deployment.baselines import Baseline, mean_bytes
from tardis_fl.deployment.calibration import auroc, expected_calibration_error
from tardis_fl.deployment.escalation import Outcome
from tardis_fl.deployment.policies import table_scores
from tardis_fl.deployment.thresholds import Choice, sweep
from tardis_fl.early_exit.counting import SegmentCost
from tardis_fl.early_exit.evaluation import ExitTable, TestTable
from tardis_fl.federation.events import RoundRecord
from tardis_fl.federation.rounds import Trained
from tardis_fl.report import results

CURVE_POINTS = 200


def boundary_bytes(costs: Sequence[SegmentCost], deployment: DeploymentConfig, num_classes: int) -> list[int]:
    """Returns the bytes that one sample takes over each boundary: its features, and for an ensemble what the exits before said."""
    said = sample_bytes((num_classes,), "float32") if deployment.ensemble == "geometric" else 0
    return [sample_bytes(cost.feature_shape, deployment.feature_codec) + said for cost in costs[:-1]]


def assemble(
    config: Config, dataset: Dataset, trained: Trained, costs: Sequence[SegmentCost], *,
    temperatures: list[float], choice: Choice, test: TestTable, outcome: Outcome,
    baselines: dict[str, Baseline], label_counts: npt.NDArray[np.int64], warnings: Sequence[str],
) -> results.Report:  # fmt: skip
    """Puts a report together; everything in it was measured or counted before."""
    names = [tier.name for tier in config.tiers]
    deployment = config.deployment
    history = _accuracies(trained.rounds)
    sizes = boundary_bytes(costs, deployment, dataset.num_classes)
    return results.Report(
        name=config.name,
        seed=config.seed,
        dataset=results.DatasetResult(
            dataset.name, dataset.source, trained.num_train, len(trained.fit), len(trained.calibrate), len(test),
            dataset.synthetic, list(dataset.class_names), dataset.train.image_bytes,
        ),
        backbone=config.model.backbone,
        exits=_exits(names, costs, deployment.policy, temperatures, test),
        boundaries=[
            results.BoundaryResult(sender, receiver, list(cost.feature_shape), deployment.feature_codec, size)
            for sender, receiver, cost, size in zip(names, names[1:], costs, sizes, strict=False)
        ],
        operating_point=_operating_point(deployment.policy, choice, outcome, costs, sizes),
        calibration=results.CalibrationResult(choice.target, choice.num_samples, choice.accuracy, choice.offload_rate, choice.full_accuracy),
        certificate=None,
        baselines={name: results.BaselineResult(**asdict(row)) for name, row in baselines.items()},
        federation=_federation(config, trained, dataset.train.image_bytes),
        last_round=history[-1] if history else None,
        best_round=max(history, key=lambda record: record.validation_accuracy[-1], default=None),
        history=history,
        participation=[
            results.ParticipationResult(
                record.round, len(record.clients), dict(Counter(failure.kind for failure in record.failures)), record.num_late, record.num_repeated,
                record.virtual_seconds,
            )
            for record in trained.rounds
        ],
        final_epochs=_accuracies(trained.final_epochs),
        threshold_sweeps=[_sweep(table, deployment.policy, temperatures, sizes) for table in (trained.calibrate, test)],
        tiers=[
            results.TierResult(name, int((outcome.exits == number).sum()), int(outcome.correct[outcome.exits == number].sum()))
            for number, name in enumerate(names)
        ],
        classes=[
            results.ClassResult(
                name, int((test.labels == label).sum()), int(outcome.correct[test.labels == label].sum()), int((outcome.exits[test.labels == label] > 0).sum())
            )
            for label, name in enumerate(dataset.class_names)
        ],
        escalation_effect=_effect(test, outcome),
        clients=results.ClientsResult(label_counts.tolist()),
        warnings=[*warnings, *([f"{trained.num_unused} late updates were still on their way after the last round"] if trained.num_unused else [])],
    )  # fmt: skip


def _federation(config: Config, trained: Trained, image_bytes: int) -> results.FederationResult:
    waited = [record.virtual_seconds for record in trained.rounds if record.virtual_seconds is not None]
    return results.FederationResult(
        rounds=len(trained.rounds), num_clients=config.federation.num_clients, clients_per_round=config.clients_per_round, client_depth=config.max_depth,
        groups=[
            results.GroupResult(group.name, size, group.depth, group.device, group.link, group.availability)
            for group, size in zip(config.groups, config.group_sizes, strict=True)
        ],
        server_training=config.federation.server_training, bytes_up=dict(trained.ledger.up), bytes_down=dict(trained.ledger.down),
        raw_images_bytes=trained.num_train * image_bytes, num_failures=sum(trained.failures.values()), failures=dict(trained.failures),
        num_late=sum(record.num_late for record in trained.rounds), num_repeated=sum(record.num_repeated for record in trained.rounds),
        virtual_seconds=sum(waited) if waited else None, seconds=trained.seconds,
    )  # fmt: skip


def _accuracies(records: Sequence[RoundRecord]) -> list[results.RoundResult]:
    return [results.RoundResult(record.round, accuracy) for record in records if (accuracy := record.validation_accuracy) is not None]


def _exits(names: Sequence[str], costs: Sequence[SegmentCost], policy: str, temperatures: list[float], test: TestTable) -> list[results.ExitResult]:
    correct, accuracies = test.correct(), test.accuracies()
    scores, confidence = (table_scores(name, test, temperatures).numpy() for name in (policy, "max_softmax"))
    return [
        results.ExitResult(
            name, accuracies[k], costs[k].num_parameters, costs[k].num_exit_parameters, costs[k].macs, temperatures[k],
            expected_calibration_error(confidence[k], correct[k]), auroc(scores[k], correct[k]),
        )
        for k, name in enumerate(names)
    ]  # fmt: skip


def _operating_point(policy: str, choice: Choice, outcome: Outcome, costs: Sequence[SegmentCost], sizes: list[int]) -> results.OperatingPoint:
    count, crossings = len(outcome), outcome.crossings
    reached = [count, *crossings]
    macs_up_to = np.cumsum([cost.macs for cost in costs])
    return results.OperatingPoint(
        policy=policy,
        thresholds=list(choice.thresholds),
        accuracy=outcome.accuracy,
        accuracy_interval=results.wilson_interval(int(outcome.correct.sum()), count),
        exit_counts=outcome.exit_counts,
        exit_fractions=[answered / count for answered in outcome.exit_counts],
        offload_rate=crossings[0] / count if crossings else 0.0,
        escalation_rates=[crossing / count for crossing in crossings],
        conditional_escalation_rates=[crossing / arrived if arrived else None for crossing, arrived in zip(crossings, reached, strict=False)],
        bytes_per_sample=mean_bytes(outcome.exits, sizes),
        macs_per_sample=float(macs_up_to[outcome.exits].mean()),
        device_macs_per_sample=float(costs[0].macs),
        latency_ms=None,
        device_energy_mj=None,
    )


def _sweep(table: ExitTable, policy: str, temperatures: list[float], sizes: list[int]) -> results.SweepResult:
    found = sweep(table, policy, temperatures, points=CURVE_POINTS)
    sent = np.concatenate([[0], np.cumsum(sizes)]) @ found.exit_counts / found.num_samples
    return results.SweepResult(table.role, found.thresholds.tolist(), found.accuracy.tolist(), found.offload_rate.tolist(), sent.tolist())


def _effect(test: TestTable, outcome: Outcome) -> results.EscalationEffect:
    left, device_right = outcome.exits > 0, test.correct()[0]
    return results.EscalationEffect(int(left.sum()), int((left & ~device_right & outcome.correct).sum()), int((left & device_right & ~outcome.correct).sum()))
