"""Deploys a finished run again, in seconds and without training.

On the command line: `python -m tardis_fl deploy RUN --set deployment...`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tardis_fl.config import Config, load_config
from tardis_fl.config.differences import differences
from tardis_fl.core.atomic import write_json, write_text
from tardis_fl.errors import ConfigError
from tardis_fl.report.results import Report

if TYPE_CHECKING:
    from tardis_fl.data.images import Dataset
    from tardis_fl.deployment.pipeline import TestImages
    from tardis_fl.deployment.run_tables import RunTables
    from tardis_fl.early_exit.counting import SegmentCost
    from tardis_fl.early_exit.network import EarlyExitNetwork
    from tardis_fl.report.terminal import Screen

CHANGEABLE = ("deployment.", "runtime.", "data.root", "profiles")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, with its deployment changed.

    Attributes:
        folder: The run's.
        config: Its configuration with the changes.
        report: Its own report.
        network: As trained.
        costs: Of each segment.
        tables: Tables through the configured codec.
        images: The test images; None where the tables say all that is asked.
        normalisation: Of the images, as the saved model has it.
    """

    folder: Path
    config: Config
    report: Report
    network: EarlyExitNetwork
    costs: Sequence[SegmentCost]
    tables: RunTables
    images: TestImages | None
    normalisation: dict[str, list[float]]


def redeploy(
    folder: Path, overrides: Sequence[str], screen: Screen, *, name: str | None = None
) -> tuple[Report, Path]:
    """Deploys a finished run with other settings, beside the first result and never over it.

    Args:
        folder: The run's folder.
        overrides: Texts of the form `deployment.key=value`.
        screen: Shows the outcome.
        name: Of the folder under deployments/; None: the next free number.

    Returns:
        The report and the folder it is in.

    Raises:
        ConfigError, DataError, RunError: See `tardis_fl.errors`.
    """
    from tardis_fl.config.checks.deployment import deployment_warnings
    from tardis_fl.deployment.bundles.artefacts import save_rule
    from tardis_fl.deployment.pipeline import deploy_and_measure
    from tardis_fl.report.assembly import deployment_parts, model_description
    from tardis_fl.report.render import render_html, render_markdown

    target = free_folder(folder / "deployments", name)
    run = read_finished_run(folder, overrides, screen)
    deployed = deploy_and_measure(
        run.config,
        run.tables,
        run.costs,
        image_bytes=run.report.dataset.raw_image_bytes,
        network=run.network if run.images else None,
        images=run.images,
    )
    there = set(deployment_warnings(load_config(folder / "config.yaml")))
    kept = [warning for warning in run.report.warnings if warning not in there]
    report = replace(
        run.report,
        warnings=[*kept, *deployment_warnings(run.config)],
        deployment_name=target.name,
        **deployment_parts(run.config, run.costs, deployed, run.report.dataset.class_names),
    )
    target.mkdir(parents=True)
    write_text(
        target / "config.yaml",
        yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    save_rule(
        target / "model",
        run.network,
        deployed.rule,
        description={**model_description(run.config, report), "normalisation": run.normalisation},
    )
    write_json(target / "report.json", report.to_json())
    write_text(target / "report.md", render_markdown(report))
    write_text(target / "report.html", render_html(report))
    screen.results(report, target)
    return report, target


def read_finished_run(
    folder: Path, overrides: Sequence[str], screen: Screen, *, measures: bool = True
) -> FinishedRun:
    """Reads a finished run.

    Where its tables went through another codec, or codecs are to be measured, its images pass the
    segments again.

    Args:
        folder: The run's.
        overrides: As of `redeploy`.
        screen: Says what takes a moment.
        measures: Measure the configured codecs.

    Raises:
        ConfigError: The folder holds no finished run, or an override changes what the training
            depended on.
        DataError: A file is missing or damaged, or images are needed and not there.
    """
    from tardis_fl.core.compute import use_threads
    from tardis_fl.data.sources import load_dataset
    from tardis_fl.deployment.bundles.artefacts import load_bundle
    from tardis_fl.deployment.pipeline import TestImages, check_tables
    from tardis_fl.deployment.run_tables import RunTables, inputs_of
    from tardis_fl.early_exit.counting import segment_costs

    if not (folder / "report.json").exists():
        raise ConfigError(
            f"{folder}: holds no finished run (report.json is missing); "
            "wanted the folder of a run, such as runs/quickstart"
        )
    there = load_config(folder / "config.yaml")
    config = load_config(folder / "config.yaml", overrides)
    different = differences(there, config)
    trained = [str(found) for found in different if not found.path.startswith(CHANGEABLE)]
    if trained:
        raise ConfigError(
            "deploying again changes the section deployment only, and these are of the training: "
            f"{'; '.join(trained)}; run simulate for them"
        )
    report = Report.read(folder / "report.json")
    use_threads(config.runtime)
    bundle = load_bundle(folder / "model", trust_functions=True)  # the user's own run
    costs = segment_costs(bundle.network, bundle.manifest["input_shape"])
    tables = RunTables.read(folder)
    images = None
    check_tables(tables)
    if tables.codec != config.deployment.feature_codec or (
        measures and config.deployment.measure_codecs
    ):
        screen.doing("passing the held-out and test images through the segments")
        dataset = load_dataset(config)
        codec = config.deployment.feature_codec
        _check_same(folder, dataset, tables)
        if tables.codec != codec:
            if config.nodes_keep_images:
                raise ConfigError(
                    f"deployment.feature_codec: got {codec!r}, through which the held-out images "
                    "would have to pass again, and these stayed on the nodes; "
                    f"wanted {tables.codec!r}, or a new run"
                )
            tables = tables.through(list(bundle.network), dataset, codec)
        images = TestImages(inputs_of(dataset, dataset.test.images), tables.test.labels)
    return FinishedRun(
        folder,
        config,
        report,
        bundle.network,
        costs,
        tables,
        images,
        bundle.manifest["normalisation"],
    )


def _check_same(folder: Path, dataset: Dataset, tables: RunTables) -> None:
    """Refuses other images than those of the run."""
    tables.check_same(dataset)
    began_with = json.loads((folder / "environment.json").read_text())["data_hash"]
    # A server whose nodes keep their images has the test split alone.
    if len(dataset.train.images) and dataset.content_hash != began_with:
        raise ConfigError(
            "data.root: these are other files than those of the run; wanted the same data set"
        )


def free_folder(parent: Path, name: str | None) -> Path:
    """Returns a folder that doesn't exist yet: `parent/name`, or the next number.

    Raises:
        ConfigError: The name is taken, or none for a folder.
    """
    if name is None:
        taken = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
        return parent / str(max(taken, default=0) + 1)
    if not NAME.match(name):
        raise ConfigError(
            f"--name: got {name!r}; wanted letters, digits, '.', '_' and '-', "
            "with a letter or digit first"
        )
    if (parent / name).exists():
        raise ConfigError(
            f"{parent / name}: is there already; choose another --name, "
            "or leave it out for the next number"
        )
    return parent / name
