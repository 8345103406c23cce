"""The main job on one page: train what a configuration describes, deploy it, report.

One arrow of the design is one call here, in order: data, network, federation, exit tables,
thresholds, replay, report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tardis_fl.config.schema import Config
from tardis_fl.deployment.bundles.artefacts import save_rule
from tardis_fl.deployment.pipeline import TestImages, deploy_and_measure
from tardis_fl.deployment.run_tables import RunTables, inputs_of
from tardis_fl.federation.callbacks.base import Callback
from tardis_fl.federation.callbacks.group import (
    CallbackGroup,
    configured_callbacks,
    guarded_callbacks,
)
from tardis_fl.federation.conditions.privacy import check_accountant
from tardis_fl.federation.engines import check_engine, run_apps
from tardis_fl.federation.rounds import Trained, train_federated
from tardis_fl.federation.server.app import build_server_app
from tardis_fl.report.assembly import assemble, model_description
from tardis_fl.report.render import render_html, render_markdown
from tardis_fl.runs.finished import complete_report
from tardis_fl.runs.folder import RunFolder
from tardis_fl.workflows.preparation import Preparation, prepare

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from tardis_fl.report.results import Report
    from tardis_fl.report.terminal import Screen


def simulate(
    config: Config,
    folder: Path,
    screen: Screen,
    *,
    resume: bool = False,
    grid: Grid | None = None,
    callbacks: Sequence[object] = (),
) -> Report:
    """Trains and deploys what `config` describes, and leaves everything in `folder`.

    Args:
        config: The experiment.
        folder: The run's folder; must not hold another run.
        screen: Shows what is going on.
        resume: Continue the unfinished run in the folder, where there is one, after its last
            complete round.
        grid: Flower's grid of real nodes, where this is called by a ServerApp; None: the configured
            engine runs here.
        callbacks: A user's objects that are called beside those of the configuration.

    Raises:
        ConfigError, DataError, RunError: See `tardis_fl.errors`; the message is for the user.
    """
    # What can be refused is refused before anything slow begins.
    RunFolder.check_free(folder, resume=resume)
    check_engine(config, resume=resume, has_nodes=grid is not None)
    watching = [*configured_callbacks(config.callbacks), *guarded_callbacks(callbacks)]
    if config.federation.privacy is not None:
        check_accountant()
    if resume and (report := complete_report(folder, config)):
        screen.results(report, folder)
        return report

    # 1. Data, network and costs.
    ready = prepare(config, screen, grid)
    screen.summary(
        config,
        ready.dataset,
        ready.label_counts,
        ready.costs,
        ready.plan,
        parallelism=ready.parallelism,
        threads=ready.threads,
        precision=ready.precision,
        warnings=ready.warnings,
    )
    with RunFolder(folder, config, resume=resume) as run:
        warnings = [*ready.warnings, *_begin(run, ready, screen)]

        # 2. The federation.
        with screen.training(config, ready.plan, run) as display:
            trained = _train(config, ready, run, CallbackGroup([display, *watching]))

        # 3. Exit tables, thresholds, replay, report.
        screen.doing("calibrating and deploying")
        report = _deploy(config, ready, trained, run, warnings)
        screen.results(report, folder)
        return report


def _begin(run: RunFolder, ready: Preparation, screen: Screen) -> list[str]:
    """Writes what the run starts from; returns warnings where it continues on another machine."""
    environment = run.describe_environment(
        threads=ready.threads,
        parallelism=ready.parallelism,
        precision=ready.precision,
        device=ready.device,
        data_hash=ready.dataset.content_hash,
    )
    changes: list[str] = []
    if run.past is not None:
        changes = run.compare_environment(environment)
        screen.resuming(run.past)
    run.begin(environment)
    run.write_partition(ready.shards)
    return changes


def _train(config: Config, ready: Preparation, run: RunFolder, callbacks: Callback) -> Trained:
    """Trains on the configured engine, or on the real nodes that were met."""
    if ready.fleet is not None:
        return train_federated(ready.fleet, config, callbacks, run.past)
    received: list[Trained] = []  # a ServerApp returns nothing, so it hands its result over
    server_app = build_server_app(config, callbacks, received.append, run.past)
    run_apps(server_app, config, workers=ready.parallelism.workers)
    return received.pop()


def _deploy(
    config: Config, ready: Preparation, trained: Trained, run: RunFolder, warnings: list[str]
) -> Report:
    """Deploys the trained network, and writes exit tables, the model and the report."""
    dataset = ready.dataset
    # A deployment's tiers are other machines: it is decided and replayed on the processor.
    network = trained.network.cpu()
    tables = RunTables.gather(
        list(network),
        dataset,
        config.deployment.feature_codec,
        fit=trained.fit,
        calibrate=trained.calibrate,
    )
    deployed = deploy_and_measure(
        config,
        tables,
        ready.costs,
        image_bytes=dataset.train.image_bytes,
        network=network,
        images=TestImages(inputs_of(dataset, dataset.test.images), tables.test.labels),
        sums=trained.sums,
    )
    report = assemble(
        config,
        dataset,
        trained,
        ready.costs,
        deployed,
        num_fit=trained.num_fit,
        label_counts=ready.label_counts,
        warnings=warnings,
        begun_rounds=run.begun_rounds,
    )
    run.write_exit_table(tables.exit_tables)
    tables.save_crossings(run.path)
    normalisation = {
        "mean": list(dataset.normalisation.mean),
        "std": list(dataset.normalisation.deviation),
    }
    description = {**model_description(config, report), "normalisation": normalisation}
    save_rule(run.path / "model", network, deployed.rule, description=description)
    run.write_reports(report.to_json(), render_markdown(report), render_html(report))
    return report
