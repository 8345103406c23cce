"""What stays in a client process between messages: images, shards and one resident model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from flwr.app import ConfigRecord, Context, Message

from tardis_fl import __version__
from tardis_fl.config.checks.plugins import problems_on_node
from tardis_fl.config.schema import Config
from tardis_fl.config.wire import read_wire
from tardis_fl.core.compute import resolve_device, resolve_precision, use_threads
from tardis_fl.core.plugins import KEY, load_plugins, missing_plugins
from tardis_fl.core.randomness import Purpose, integer_seed
from tardis_fl.data.images import Dataset
from tardis_fl.data.partition import Partition, load_partition
from tardis_fl.data.sources import load_dataset
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.conversion.tracing import ConversionError
from tardis_fl.early_exit.network import EarlyExitNetwork, Segment
from tardis_fl.early_exit.training.losses import Criterion, build_loss
from tardis_fl.errors import ConfigError
from tardis_fl.federation.client.local_training import LocalData
from tardis_fl.federation.conditions.faults import Faults
from tardis_fl.federation.transport.handshake import Unable
from tardis_fl.federation.transport.messages import INSTRUCTION
from tardis_fl.federation.transport.weights import HeldWeights


@dataclass(frozen=True)
class ClientResources:
    """One process's resources, shared by all clients that it plays.

    Attributes:
        config: The configuration that came with the message.
        dataset: Both splits; clients use the training split only.
        partition: Every client's shard; on a node that keeps its own images, its client's.
        data: The training split as clients see it.
        segments: As many as the deepest client works with; every message brings their weights.
        precision: Arithmetic of training.
        device: Where it computes.
    """

    config: Config
    dataset: Dataset
    partition: Partition
    data: LocalData
    segments: list[Segment]
    precision: str
    device: torch.device

    @cached_property
    def weights(self) -> HeldWeights:
        """The weights of the held segments."""
        return HeldWeights(self.segments, own_storage=True)

    @cached_property
    def criterion(self) -> Criterion:
        """The loss of one exit's logits."""
        model = self.config.model
        return build_loss(model.loss, model.loss_options, num_classes=self.dataset.num_classes)

    @cached_property
    def faults(self) -> Faults:
        """What goes wrong on purpose."""
        return Faults(tuple(self.config.federation.faults), self.config.seed)


def resources_of(message: Message, context: Context) -> ClientResources:
    """Returns the resources of the configuration that came with a message, on this node.

    Raises:
        RuntimeError: The server is of another version, or the node's partition-id is none of its
            clients.
    """
    instruction = _instruction(message)
    version = str(instruction["version"])
    if version != __version__:
        raise RuntimeError(
            f"the server runs tardis_fl {version}, this node {__version__}; install the same on all hosts"
        )
    data_root, config_json = context.node_config.get("data-root"), str(instruction["config"])
    config, client = _parse(config_json), context.node_config.get("partition-id")
    if not isinstance(client, int) or not 0 <= client < config.federation.num_clients:
        raise RuntimeError(
            f"this node's partition-id is {client!r}; wanted 0 to {config.federation.num_clients - 1} (federation.num_clients), in --node-config"
        )
    return open_resources(
        config_json,
        None if data_root is None else str(data_root),
        client if config.nodes_keep_images else None,
    )


def problems_here(message: Message, context: Context) -> Unable | None:
    """Returns which plug-ins of the configuration that came with a message this node lacks.

    None where it lacks none, or where `resources_of` refuses the message for another reason.
    """
    instruction = _instruction(message)
    client = context.node_config.get("partition-id")
    if instruction["version"] != __version__ or not isinstance(client, int):
        return None
    config_json = str(instruction["config"])
    # before the configuration is read: its names may be those that these modules register
    problems = missing_plugins(json.loads(config_json).get(KEY, []))
    if not problems:
        problems = problems_on_node(_parse(config_json))
    return Unable(client, tuple(problems)) if problems else None


def _instruction(message: Message) -> ConfigRecord:
    return message.content.config_records[INSTRUCTION]


@lru_cache(maxsize=1)
def _parse(config_json: str) -> Config:
    config = read_wire(config_json)
    load_plugins(config.plugins)
    return config


@lru_cache(maxsize=1)
def open_resources(
    config_json: str, data_root: str | None = None, client: int | None = None
) -> ClientResources:
    """Returns the resources of a configuration; the last one stays open.

    Args:
        config_json: The configuration.
        data_root: Where this node has its images, which wins over the configuration and
            TARDIS_FL_DATA; None: there.
        client: The client whose own images this node keeps; None: it has those of all.
    """
    config = _parse(config_json)
    use_threads(config.runtime)
    device = resolve_device(config.runtime)
    dataset = load_dataset(config, data_root, client=client)
    return ClientResources(
        config=config,
        dataset=dataset,
        partition=load_partition(config, dataset, client=client),
        data=LocalData.of(dataset.train, dataset.normalisation, config.data.augment, device),
        segments=list(new_network(config, dataset.num_classes).to(device))[
            : config.num_segments if config.calibrates_by_sums else config.max_depth
        ],
        precision=resolve_precision(config.runtime),
        device=device,
    )


def new_network(config: Config, num_classes: int) -> EarlyExitNetwork:
    """Builds the configured network with the initial weights of the run's seed.

    Raises:
        ConfigError: The backbone has too few places with work between them for so many tiers.
    """
    model = config.model
    try:
        return build_network(
            model.backbone,
            num_classes=num_classes,
            width=model.width,
            norm=config.norm_layer,
            image_size=config.data.image_size,
            exit_hidden=model.exit_hidden,
            cuts=model.cuts,
            num_segments=config.num_segments,
            seed=integer_seed(config.seed, Purpose.INITIAL_WEIGHTS),
        )
    except ConversionError as error:
        raise ConfigError(
            f"tiers: got {config.num_segments} tiers; the backbone {model.backbone!r} can't be cut so ({error})"
        ) from None
