"""Everything before the training: data, network, costs, and the checks that need them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from flwr.serverapp import Grid

from tardis_fl.config.checks.consistency import warnings_about
from tardis_fl.config.schema import Config
from tardis_fl.core.compute import resolve_device, resolve_precision, use_threads
from tardis_fl.data.images import Dataset
from tardis_fl.data.partition import Partition, label_counts, load_partition, undealt
from tardis_fl.data.roles import Shard
from tardis_fl.data.sources import load_dataset
from tardis_fl.deployment.feasibility import check_feasible
from tardis_fl.early_exit.counting import SegmentCost, oversized, segment_costs
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.federation.client.resources import new_network
from tardis_fl.federation.engines.parallelism import Parallelism, choose_parallelism
from tardis_fl.federation.server.app import meet_nodes
from tardis_fl.federation.server.codec_check import check_codecs
from tardis_fl.federation.transport.fleet import Fleet
from tardis_fl.report.terminal import Screen
from tardis_fl.runs.estimate import Plan, plan, train_macs

CHECKED_IMAGES = 64


@dataclass(frozen=True)
class Preparation:
    """What a training begins with.

    Attributes:
        dataset: The server's samples, and those of the clients where it has them.
        shards: Who holds what, and for what.
        label_counts: (clients, classes), over all roles.
        costs: Of each segment of the untrained network.
        fleet: Real nodes; None where clients are simulated.
        warnings: What the report must say.
        plan: What there is to do, and how long it takes.
        parallelism: How many clients train at a time.
        threads: Of this process.
        precision: Arithmetic of the training.
        device: Type of the device that trains, such as `cpu`.
    """

    dataset: Dataset
    shards: list[Shard]
    label_counts: npt.NDArray[np.int64]
    costs: list[SegmentCost]
    fleet: Fleet | None
    warnings: list[str]
    plan: Plan
    parallelism: Parallelism
    threads: int
    precision: str
    device: str


def prepare(config: Config, screen: Screen, grid: Grid | None) -> Preparation:
    """Loads the data, builds the network, and checks what only these can tell.

    Args:
        config: The experiment.
        screen: Says what takes a moment.
        grid: Real nodes; None where clients are simulated.

    Raises:
        ConfigError: The network, a codec or the deployment can't work with these samples.
        DataError: Data is missing or damaged.
        RunError: Real nodes are missing.
    """
    threads = use_threads(config.runtime)
    precision = resolve_precision(config.runtime)
    device = resolve_device(config.runtime)

    screen.doing("loading the data")
    dataset = load_dataset(config)
    fleet = None
    if grid is not None:
        screen.doing("waiting for the nodes")
        fleet = meet_nodes(grid, config, dataset, screen.on_notice)
        if config.nodes_keep_images:
            dataset = fleet.with_own_images(dataset)
    partition = load_partition(config, dataset)
    shards = partition.shards()
    counts = label_counts(shards, dataset.train.labels, dataset.num_classes)

    network = new_network(config, dataset.num_classes)
    _check_codecs(config, network, dataset)
    height, width, channels = dataset.train.images.shape[1:]
    costs = segment_costs(network, (channels, height, width))
    check_feasible(
        config,
        costs,
        num_calibrate=sum(len(shard.calibrate) for shard in shards),
        num_classes=dataset.num_classes,
    )

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
    return Preparation(
        dataset=dataset,
        shards=shards,
        label_counts=counts,
        costs=costs,
        fleet=fleet,
        warnings=_warnings(config, dataset, partition, counts, costs),
        plan=work,
        parallelism=parallelism,
        threads=threads,
        precision=precision,
        device=device.type,
    )


def _check_codecs(config: Config, network: EarlyExitNetwork, dataset: Dataset) -> None:
    """Sends a few samples through the codecs, of the split that this process has."""
    at_hand = dataset.test if config.nodes_keep_images else dataset.train
    images = dataset.normalisation(torch.from_numpy(at_hand.images[:CHECKED_IMAGES]))
    check_codecs(list(network), images, config)


def _warnings(
    config: Config,
    dataset: Dataset,
    partition: Partition,
    counts: npt.NDArray[np.int64],
    costs: list[SegmentCost],
) -> list[str]:
    tiers = [tier.name for tier in config.tiers]
    clients_labels = np.delete(dataset.train.labels, partition.proxy)
    left_out = undealt(counts, clients_labels, dataset.class_names)
    return [
        *dataset.warnings,
        *([left_out] if left_out else []),
        *warnings_about(config),
        *oversized(costs, tiers, dataset.train.image_bytes),
    ]
