"""What stays in a client process between messages: images, shards and one resident model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from tardis_fl.config.schema import Config
from tardis_fl.data.images import Dataset
from tardis_fl.data.partition import Partition, load_partition
from tardis_fl.data.sources import load_dataset
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.network import EarlyExitNetwork, Segment
from tardis_fl.early_exit.tracing import ConversionError
from tardis_fl.errors import ConfigError
from tardis_fl.federation.local_training import LocalData
from tardis_fl.federation.messages import State, segments_state
from tardis_fl.precision import resolve_precision, use_threads
from tardis_fl.randomness import Purpose, integer_seed


@dataclass(frozen=True)
class Workspace:
    """One process's resources, shared by all clients that it plays.

    Attributes:
        config: The configuration that came with the message.
        dataset: Both splits; clients use the training split only.
        partition: Every client's shard.
        data: The training split as clients see it.
        segments: The held segments; every message brings their weights.
        precision: Arithmetic of training.
    """

    config: Config
    dataset: Dataset
    partition: Partition
    data: LocalData
    segments: list[Segment]
    precision: str

    @cached_property
    def state(self) -> State:
        """The live tensors of the held segments."""
        return segments_state(self.segments)


@lru_cache(maxsize=1)
def open_workspace(config_json: str) -> Workspace:
    """Returns the workspace of a configuration; the last one stays open."""
    config = Config.model_validate_json(config_json)
    use_threads(config.runtime)
    dataset = load_dataset(config)
    return Workspace(
        config=config,
        dataset=dataset,
        partition=load_partition(config, dataset),
        data=LocalData.of(dataset.train, dataset.normalisation, config.data.augment),
        segments=list(new_network(config, dataset.num_classes))[: config.federation.client_depth],
        precision=resolve_precision(config.runtime),
    )


def new_network(config: Config, num_classes: int) -> EarlyExitNetwork:
    """Builds the configured network with the initial weights of the run's seed.

    Raises:
        ConfigError: The backbone has too few places with work between them for so many tiers.
    """
    model = config.model
    try:
        return build_network(
            model.backbone, num_classes=num_classes, width=model.width, norm=model.norm, image_size=config.data.image_size,
            exit_hidden=model.exit_hidden, cuts=model.cuts, num_segments=config.num_segments, seed=integer_seed(config.seed, Purpose.INITIAL_WEIGHTS),
        )  # fmt: skip
    except ConversionError as error:
        raise ConfigError(f"tiers: got {config.num_segments} tiers; the backbone {model.backbone!r} can't be cut so ({error})") from None
