"""From tables to a deployment and all its figures: what `simulate` ends with, and what `deploy` does again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tardis_fl.config.schema import Config
from tardis_fl.deployment.baselines import Baseline, baselines, largest_crossing
from tardis_fl.deployment.codec_table import CodecRow, measure_codecs
from tardis_fl.deployment.escalation import Outcome, Rule, replay
from tardis_fl.deployment.hardware.load import LoadResult, under_load
from tardis_fl.deployment.hardware.machines import Machines
from tardis_fl.deployment.run_tables import RunTables
from tardis_fl.deployment.scoring.policies import ScoringRule, extra_bytes, fit_scoring
from tardis_fl.deployment.scoring.temperatures import fit_temperatures
from tardis_fl.deployment.thresholds.certificates.certify import (
    Certificate,
    CertificateRequest,
    certify,
    grid_from_fit,
)
from tardis_fl.deployment.thresholds.certificates.evaluation import Evaluation, evaluate_certificate
from tardis_fl.deployment.thresholds.choice import Choice, choose_from_sweep, choose_thresholds
from tardis_fl.deployment.thresholds.mixing import mixed_draw
from tardis_fl.deployment.thresholds.sweep import Sweep, decide, sweep, sweep_from_histograms
from tardis_fl.deployment.thresholds.targets import Target
from tardis_fl.early_exit.counting import SegmentCost
from tardis_fl.early_exit.evaluation import ExitTable
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.scoring.calibration_sums import CalibrationSums
from tardis_fl.errors import ConfigError

CURVE_POINTS = 200


@dataclass(frozen=True)
class TestImages:
    """The pictures of the test role: normalised, a range of samples at a time, with their labels (N,)."""

    __test__ = False  # pytest takes the name for a test class

    inputs: Callable[[slice], Tensor]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Deployed:
    """A deployment, how it was chosen, and its figures on the test role.

    Attributes:
        rule: What each tier decides by.
        choice: How thresholds were chosen.
        certificate: What is promised, where that was asked for; with how it turned out.
        tables: What all this rests on; of ensembles, where the rule has them.
        outcome: What happened to each test sample.
        scores: Of the early exits on the test role, (exits - 1, N).
        crossing_bytes: (boundaries, N) that each test sample would send, all that travels included.
        boundary_bytes: Mean bytes over each boundary: on the test role over the samples that cross
            it, else over all.
        costs: For each axis and exit, the whole cost of a sample answered there, by means of the
            calibrate role.
        sweeps: Every shared threshold, by role.
        baselines: What to compare it with.
        codecs: Other codecs, measured.
        machines: Machines and links; None where not configured.
        load: Requests over time; None where not configured.
    """

    rule: Rule
    choice: Choice
    certificate: tuple[Certificate, Evaluation, Evaluation] | None
    tables: RunTables
    outcome: Outcome
    scores: npt.NDArray[np.float64]
    crossing_bytes: npt.NDArray[np.int64]
    boundary_bytes: list[float]
    costs: dict[str, list[float]]
    sweeps: dict[str, Sweep]
    baselines: dict[str, Baseline]
    codecs: list[CodecRow]
    machines: Machines | None
    load: LoadResult | None


def deploy_and_measure(
    config: Config,
    tables: RunTables,
    costs: Sequence[SegmentCost],
    *,
    image_bytes: int,
    network: EarlyExitNetwork | None = None,
    images: TestImages | None = None,
    sums: CalibrationSums | None = None,
) -> Deployed:
    """Chooses thresholds on held-out samples, deploys, and measures on the test role.

    Args:
        config: Its section `deployment` says how.
        tables: Plain tables, not of ensembles.
        costs: Of each segment.
        image_bytes: Bytes of a raw image.
        network: The segments; with `images`, every test sample really passes the deployed segments.
        images: Of the test role. Without them the tables decide, sample by sample the same.
        sums: What clients sent in place of tables.

    Raises:
        ConfigError: The tables doesn't hold what the deployment needs, or the hardware can't
            carry it.
        DataError: The calibrate role is too small for the certificate.
        RunError: A budget can't be met, or a queue would grow without end.
    """
    deployment, ready = config.deployment, prepare(config, tables, costs, sums=sums)
    tables, scoring, machines = ready.tables, ready.scoring, ready.machines
    choice, certificate, calibrate_sweep = _choose(config, ready, sums)
    mixed = (*choice.mixed, config.seed) if choice.mixed else None
    ensemble = deployment.ensemble == "geometric"
    rule = Rule(
        deployment.policy,
        scoring.temperatures,
        choice.thresholds,
        deployment.feature_codec,
        ensemble,
        scoring.coefficients,
        mixed,
    )
    scores = scoring.table_scores(tables.test)
    if network is not None and images is not None:
        ids = tables.test.sample_ids
        outcome = replay(
            network,
            rule,
            images.inputs,
            images.labels,
            sample_ids=ids,
            batch_size=deployment.batch_size,
        )
    else:
        outcome = table_outcome(rule, tables.test, scores)
    crossing_bytes = tables.test_bytes + ready.extra_bytes
    crosses = outcome.exits > np.arange(len(costs) - 1)[:, None]
    for link, largest in zip(
        machines.system.links if machines else (),
        largest_crossing(outcome.exits, crossing_bytes),
        strict=False,
    ):
        link.check_payload(int(largest))
    boundary_bytes = [
        float(sizes[rows].mean() if rows.any() else sizes.mean())
        for sizes, rows in zip(crossing_bytes, crosses, strict=True)
    ]
    rows = baselines(
        tables.test,
        outcome,
        crossing_bytes=crossing_bytes,
        image_bytes=image_bytes,
        png_bytes=float(tables.png_bytes.mean()),
        raw_image_accuracy=tables.raw_image.accuracies()[-1],
        machines=machines,
    )
    return Deployed(
        rule,
        choice,
        certificate,
        tables,
        outcome,
        scores,
        crossing_bytes,
        boundary_bytes,
        ready.axes,
        {"calibrate": calibrate_sweep, "test": sweep(tables.test, scores, points=CURVE_POINTS)},
        rows,
        _codecs(config, rule, network, images, tables.test.sample_ids)
        if network is not None and images is not None
        else [],
        machines,
        under_load(config, machines, outcome.exits, tables.test.correct(), crossing_bytes)
        if machines is not None and deployment.load
        else None,
    )


@dataclass(frozen=True)
class Prepared:
    """What thresholds are chosen among.

    Attributes:
        tables: Of ensembles, where the configuration asks for them.
        scoring: Fitted on the fit role.
        extra_bytes: What crosses a boundary beside the features, for one sample.
        machines: Machines and links; None where not configured.
        axes: For each axis and exit, the whole cost of a sample answered there.
    """

    tables: RunTables
    scoring: ScoringRule
    extra_bytes: int
    machines: Machines | None
    axes: dict[str, list[float]]


def prepare(
    config: Config,
    tables: RunTables,
    costs: Sequence[SegmentCost],
    *,
    sums: CalibrationSums | None = None,
) -> Prepared:
    """Fits temperatures and scores on the fit role, and counts what an answer at each exit costs; see `deploy_and_measure`.

    Raises:
        ConfigError: There is no table of the fit role, or the hardware can't carry the deployment.
    """
    deployment, ensemble = config.deployment, config.deployment.ensemble == "geometric"
    if ensemble:
        tables = tables.ensembled()
    extra = extra_bytes(deployment.policy, ensemble, tables.test.logits.shape[2])
    means = [float(value) + extra for value in tables.calibrate_bytes.mean(axis=1)]
    machines = (
        Machines.of(config, [cost.macs for cost in costs], means) if deployment.hardware else None
    )
    if sums is not None:
        scoring = ScoringRule(deployment.policy, sums.temperatures)
    else:
        check_tables(tables)
        assert tables.fit is not None
        scoring = fit_scoring(deployment.policy, tables.fit, fit_temperatures(tables.fit))
    return Prepared(tables, scoring, extra, machines, cost_axes(costs, means, machines))


def check_tables(tables: RunTables) -> None:
    """Refuses tables that no thresholds can be chosen on.

    Raises:
        ConfigError: Its clients sent sums.
    """
    if tables.fit is None or tables.calibrate is None:
        raise ConfigError(
            "deployment: thresholds can't be chosen anew, since this run's clients sent sums instead of tables (federation.calibration: sums); run simulate"
        )


def cost_axes(
    costs: Sequence[SegmentCost], boundary_bytes: Sequence[float], machines: Machines | None
) -> dict[str, list[float]]:
    """Returns for each axis and exit the whole cost of a sample that is answered there, over all tiers up to it."""
    axes = {
        "offload_rate": [0.0] + [1.0] * (len(costs) - 1),
        "bytes": [0.0, *np.cumsum(boundary_bytes).tolist()],
        "macs": np.cumsum([float(cost.macs) for cost in costs]).tolist(),
    }
    if machines is not None:
        axes["latency_ms"] = list(machines.latency_ms)
        if machines.energy_mj is not None:
            axes["energy_mj"] = list(machines.energy_mj)
    return axes


def table_outcome(rule: Rule, table: ExitTable, scores: npt.NDArray[np.float64]) -> Outcome:
    """Decides on a table's samples, as the deployed segments would."""
    exits = _decided(rule, scores, table.sample_ids)
    return Outcome(exits, table.correct()[exits, np.arange(len(table))], table.num_exits)


def _decided(
    rule: Rule, scores: npt.NDArray[np.float64], sample_ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    exits = decide(scores, rule.thresholds)
    if rule.mixed is None:
        return exits
    second, share, seed = rule.mixed
    return np.where(mixed_draw(sample_ids, seed, share), decide(scores, second), exits)


def _choose(
    config: Config, ready: Prepared, sums: CalibrationSums | None
) -> tuple[Choice, tuple[Certificate, Evaluation, Evaluation] | None, Sweep]:
    deployment, tables, scoring, axes = (
        config.deployment,
        ready.tables,
        ready.scoring,
        ready.axes,
    )
    if sums is not None:
        found = sweep_from_histograms(sums.histograms)
        return choose_from_sweep(found, Target.from_config(deployment), axes), None, _thinned(found)
    assert tables.fit is not None and tables.calibrate is not None
    scores = scoring.table_scores(tables.calibrate)
    curve = sweep(tables.calibrate, scores, points=CURVE_POINTS)
    if deployment.certificate is None:
        return (
            choose_thresholds(tables.calibrate, scores, Target.from_config(deployment), axes),
            None,
            curve,
        )
    request = CertificateRequest(**deployment.certificate.model_dump())
    grid = grid_from_fit(tables.fit, scoring.table_scores(tables.fit))
    certificate = certify(
        tables.calibrate, scores, request, grid=grid, temperatures=scoring.temperatures
    )
    turned_out = tuple(
        evaluate_certificate(
            certificate, table, scoring.table_scores(table), temperatures=scoring.temperatures
        )
        for table in (tables.test, tables.calibrate)
    )
    fixed = Target("fixed", thresholds=(certificate.threshold,) * (tables.test.num_exits - 1))
    choice = replace(
        choose_thresholds(tables.calibrate, scores, fixed, axes),
        target=f"certify a mean loss ({request.loss}) of at most {request.epsilon:g}",
    )
    return choice, (certificate, *turned_out), curve


def _thinned(found: Sweep) -> Sweep:
    index = np.unique(np.linspace(0, len(found.thresholds) - 1, CURVE_POINTS).round().astype(int))
    return Sweep(
        found.thresholds[index],
        found.num_correct[index],
        found.exit_counts[:, index],
        found.num_samples,
    )


def _codecs(
    config: Config,
    rule: Rule,
    network: EarlyExitNetwork,
    images: TestImages,
    sample_ids: npt.NDArray[np.int64],
) -> list[CodecRow]:
    """Measures the configured codecs at the operating point."""
    scoring = ScoringRule(rule.policy, rule.temperatures, rule.coefficients)
    return measure_codecs(
        network,
        images.inputs,
        images.labels,
        list(dict.fromkeys(config.deployment.measure_codecs)),
        ensemble=rule.ensemble,
        policy=rule.policy,
        decide=lambda logits: _decided(rule, scoring.scores(logits), sample_ids),
        batch_size=config.deployment.batch_size,
    )
