"""The main job on one page: train what a configuration describes, deploy it, report.

One arrow of the design is one call here, in order: data, network, federation, exit tables,
thresholds, replay, report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tardis_fl.config.schema import Config

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from tardis_fl.report.results import Report
    from tardis_fl.report.terminal import Screen


CHECKED_IMAGES = 64


def simulate(
    config: Config, folder: Path, screen: Screen, *, resume: bool = False, grid: Grid | None = None
) -> Report:
    """Trains and deploys what `config` describes, and leaves everything in `folder`.

    Args:
        config: The experiment.
        folder: The run's folder; must not hold another run.
        screen: Shows what is going on.
        resume: Go on with the unfinished run in the folder, where there is one, after its last
            complete round.
        grid: Flower's grid of real nodes, where this is called by a ServerApp; None: the configured
            engine runs here.

    Raises:
        ConfigError, DataError, RunError: See `tardis_fl.errors`; the message is for the user.
    """
    # imported here, so that `--help` and errors in a configuration don't wait for PyTorch
    import numpy as np
    import torch

    from tardis_fl.config.checks.consistency import warnings_about
    from tardis_fl.core.compute import resolve_device, resolve_precision, use_threads
    from tardis_fl.data.partition import label_counts, load_partition, undealt
    from tardis_fl.data.sources import load_dataset
    from tardis_fl.deployment.bundles.artefacts import save_rule
    from tardis_fl.deployment.feasibility import check_feasible
    from tardis_fl.deployment.pipeline import TestImages, deploy_and_measure
    from tardis_fl.deployment.run_tables import RunTables, inputs_of
    from tardis_fl.early_exit.counting import oversized, segment_costs
    from tardis_fl.federation.client.resources import new_network
    from tardis_fl.federation.conditions.privacy import check_accountant
    from tardis_fl.federation.engines import check_engine, run_apps
    from tardis_fl.federation.engines.parallelism import choose_parallelism
    from tardis_fl.federation.rounds import Trained, train_federated
    from tardis_fl.federation.server.app import build_server_app, meet_nodes
    from tardis_fl.federation.server.codec_check import check_codecs
    from tardis_fl.report.assembly import assemble, model_description
    from tardis_fl.report.render import render_html, render_markdown
    from tardis_fl.runs.estimate import plan, train_macs
    from tardis_fl.runs.finished import complete_report
    from tardis_fl.runs.folder import RunFolder

    RunFolder.check_free(folder, resume=resume)
    check_engine(config, resume=resume, has_nodes=grid is not None)
    if config.federation.privacy is not None:
        check_accountant()
    if resume and (report := complete_report(folder, config)):
        screen.results(report, folder)
        return report
    threads, precision, device = (
        use_threads(config.runtime),
        resolve_precision(config.runtime),
        resolve_device(config.runtime),
    )

    screen.doing("loading the data")
    dataset = load_dataset(config)
    fleet = None
    if grid is not None:
        screen.doing("waiting for the nodes")
        fleet = meet_nodes(grid, config, dataset, screen.noticed)
        dataset = fleet.with_own_images(dataset) if config.nodes_keep_images else dataset
    partition = load_partition(config, dataset)
    shards = partition.shards()
    counts = label_counts(shards, dataset.train.labels, dataset.num_classes)

    network = new_network(config, dataset.num_classes)
    at_hand = dataset.test if config.nodes_keep_images else dataset.train
    check_codecs(
        list(network),
        dataset.normalisation(torch.from_numpy(at_hand.images[:CHECKED_IMAGES])),
        config,
    )
    height, width, channels = dataset.train.images.shape[1:]
    costs = segment_costs(network, (channels, height, width))
    check_feasible(
        config,
        costs,
        num_calibrate=sum(len(shard.calibrate) for shard in shards),
        num_classes=dataset.num_classes,
    )
    tiers = [tier.name for tier in config.tiers]
    left_out = undealt(
        counts, np.delete(dataset.train.labels, partition.proxy), dataset.class_names
    )
    warnings = [
        *dataset.warnings,
        *([left_out] if left_out else []),
        *warnings_about(config),
        *oversized(costs, tiers, dataset.train.image_bytes),
    ]

    num_train = sum(len(shard.train) for shard in shards)
    parallelism = choose_parallelism(config, train_macs(config, costs, num_train), threads=threads)
    work = plan(
        config,
        network,
        (channels, height, width),
        precision=precision,
        parallelism=parallelism,
        num_train=num_train,
        num_fit=sum(len(shard.fit) for shard in shards),
        num_proxy=len(partition.proxy),
    )
    screen.summary(
        config,
        dataset,
        counts,
        costs,
        work,
        parallelism=parallelism,
        threads=threads,
        precision=precision,
        warnings=warnings,
    )

    with RunFolder(folder, config, resume=resume) as run:
        environment = run.describe_environment(
            threads=threads,
            parallelism=parallelism,
            precision=precision,
            device=device.type,
            data_hash=dataset.content_hash,
        )
        if run.past is not None:
            warnings += run.compare_environment(environment)
            screen.resuming(run.past)
        run.begin(environment)
        run.write_partition(shards)
        received: list[Trained] = []
        with screen.training(config, work, run) as listener:
            if fleet is None:
                run_apps(
                    build_server_app(config, listener, received.append, run.past),
                    config,
                    workers=parallelism.workers,
                )
            else:
                received.append(train_federated(fleet, config, listener, run.past))
        trained = received.pop()

        screen.doing("calibrating and deploying")
        network = (
            trained.network.cpu()
        )  # a deployment's tiers are other machines: decided and replayed on the processor
        tables = RunTables.gather(
            list(network),
            dataset,
            config.deployment.feature_codec,
            fit=trained.fit,
            calibrate=trained.calibrate,
        )
        images = TestImages(inputs_of(dataset, dataset.test.images), tables.test.labels)
        deployed = deploy_and_measure(
            config,
            tables,
            costs,
            image_bytes=dataset.train.image_bytes,
            network=network,
            images=images,
            sums=trained.sums,
        )

        report = assemble(
            config,
            dataset,
            trained,
            costs,
            deployed,
            num_fit=trained.num_fit,
            label_counts=counts,
            warnings=warnings,
            begun_rounds=run.begun_rounds,
        )
        run.write_exit_table(tables.exit_tables)
        tables.save_crossings(folder)
        normalisation = {
            "mean": list(dataset.normalisation.mean),
            "std": list(dataset.normalisation.deviation),
        }
        save_rule(
            folder / "model",
            network,
            deployed.rule,
            description={**model_description(config, report), "normalisation": normalisation},
        )
        run.write_reports(report.to_json(), render_markdown(report), render_html(report))
        screen.results(report, folder)
        return report
