"""Every key of a configuration, with its type, range, unit and meaning.

The models are frozen and strict: unknown keys and values of another type are refused.
What involves more than one key is checked in `consistency.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.config.deployment import DeploymentConfig
from tardis_fl.config.federation import FederationConfig, GroupConfig
from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import (
    ADDED,
    Fraction,
    NonNegativeFloat,
    Options,
    PositiveFloat,
    PositiveInt,
    Section,
)
from tardis_fl.config.views import SegmentRoles
from tardis_fl.data.partitioners import PARTITIONERS
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.early_exit.training.registry import LOSSES

# the last exit's weight beside the first's: BranchyNet (Teerapittayanon et al. 2016) took 1.0 and
# 0.3
EARLY_HEAVY = 0.3

DATASETS = ("cifar10", "synthetic", "image_folder")


class PartitionConfig(Section):
    """How the training images are dealt to the clients."""

    scheme: Annotated[str, Field(json_schema_extra=PARTITIONERS.json_schema())] = "dirichlet"
    """iid: equal, random; dirichlet: label skew by alpha; pathological: few classes a client;
    shard: sorted by label, cut, dealt; natural: each client has a folder of its own (image_folder),
    on the engine deployment on its node's disk. Or MODULE:FUNCTION, a partitioner of your own."""
    alpha: PositiveFloat = 1.0
    """Concentration of the Dirichlet distribution; smaller is more skewed (scheme dirichlet)."""
    classes_per_client: PositiveInt = 2
    """Number of classes each client sees (scheme pathological)."""
    shards_per_client: PositiveInt = 2
    """Number of label-sorted pieces each client gets (scheme shard)."""
    min_samples: PositiveInt = 20
    """Smallest shard to accept, in images, held-out samples included."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of a partitioner of your own, by the names of its parameters."""


class SyntheticConfig(Section):
    """Size and difficulty of the generated images."""

    num_train: PositiveInt = 4000
    """Training images."""
    num_test: PositiveInt = 1000
    """Test images."""
    hard_fraction: Fraction = 0.5
    """Share of samples that lack the easy cue and need the deeper segments."""


class DataConfig(Section):
    """The images, and who holds which."""

    dataset: Annotated[str, PluginName(lambda: DATASETS)] = "cifar10"
    """cifar10: files under root; synthetic: generated, needs no file; image_folder:
    root/test/CLASS/*, and root/train/CLASS/* or, with the scheme natural,
    root/clients/NAME/CLASS/*; or MODULE:FUNCTION, your own."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of your own data set: the function's parameters."""
    root: str = "data/cifar10"
    """Folder with the data set; the environment variable TARDIS_FL_DATA wins over it."""
    on_missing: Literal["error", "synthetic"] = "error"
    """What to do when the data is neither there nor can be downloaded: stop with exit code 3, or
    use synthetic data and say so."""
    image_size: Annotated[int, Field(ge=8, le=512)] = 32
    """Side of the square images in pixels that image_folder resizes to."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of all classes, in order (scheme natural, where no client need have all of them); null:
    the folders in root/test."""
    max_train_samples: PositiveInt | None = None
    """Use only this many training images, drawn by the seed; null: all."""
    max_test_samples: PositiveInt | None = None
    """Use only this many test images, drawn by the seed; null: all."""
    partition: PartitionConfig = PartitionConfig()
    """How the training images are dealt to the clients."""
    fit_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of each shard held out to follow the training and to fit temperatures."""
    calibration_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of each shard held out to choose thresholds."""
    augment: bool = True
    """Random crops (4 pixels of padding) and horizontal flips of training images."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Size and difficulty of the generated images."""


class ModelConfig(Section):
    """The network: one segment a tier, one exit a segment."""

    backbone: Annotated[str, PluginName(lambda: tuple(CATALOGUE))] = "small_resnet"
    """Network for small images: small_resnet is made for three tiers; the others are the forms for
    32x32 images of those in papers; or MODULE:FUNCTION, your own."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of your own backbone: the function's parameters."""
    width: Annotated[int, Field(ge=4, le=256)] = 32
    """Scales all channels (small_resnet only): width / 2 cross from device to edge, 2 * width from
    edge to cloud."""
    norm: Literal["batch", "batch_local", "group"] = "batch"
    """Norm layer (small_resnet, resnet*, *_bn, mobilenet_v2). batch: averaged like all weights;
    batch_local: each client trains with norm layers of its own (FedBN, Li et al. 2021), deployed is
    their average; group: has no running statistics that clients with skewed data could disagree
    on."""
    cuts: list[str] | None = None
    """Names of the children after which the network is cut, one fewer than tiers (`describe --cuts`
    lists them); null: the backbone's own for three tiers, else those nearest to equal shares of its
    multiply-accumulates."""
    exit_hidden: Annotated[int, Field(ge=0, le=4096)] = 64
    """Hidden units in the head of the early exits, 0 for a single linear layer."""
    exit_weights: list[NonNegativeFloat] | None = None
    """Weight of each exit's loss, from shallow to deep; null: as exit_weighting says."""
    exit_weighting: Literal["uniform", "early_heavy", "serving_rate"] = "uniform"
    """uniform: 1 for all; early_heavy: from 1 down to 0.3, each a fixed share of the one before;
    serving_rate: by the share of held-out samples that each exit answered at the last evaluation
    (federation.serving_score), on average 1."""
    loss: Annotated[str, PluginName(LOSSES.names), ADDED] = "cross_entropy"
    """Loss of an exit's answers: cross_entropy; or MODULE:FUNCTION, your own."""
    loss_options: Annotated[Options, ADDED] = Field(default={})
    """Options of your own loss: the function's parameters."""

    @property
    def norm_layer(self) -> Literal["batch", "group"]:
        """The kind of norm layer, whoever holds it."""
        return "group" if self.norm == "group" else "batch"

    def initial_exit_weights(self, num_exits: int) -> list[float]:
        """Returns the weight of each exit's loss at the start, from shallow to deep."""
        if self.exit_weights is not None:
            return list(self.exit_weights)
        if self.exit_weighting == "early_heavy":
            return [EARLY_HEAVY ** (number / (num_exits - 1)) for number in range(num_exits)]
        return [1.0] * num_exits


class TierConfig(Section):
    """A place where one segment runs."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    """What the tier is called in reports."""


class RuntimeConfig(Section):
    """How to use this machine."""

    engine: Literal["inline", "ray", "deployment"] = "inline"
    """inline: ServerApp and ClientApps in this process and its workers; ray: on Flower's simulation
    engine (extra `ray`); deployment: as processes on this or other machines (command `federate`, or
    `flwr run`)."""
    reply_timeout_s: PositiveFloat = 600.0
    """Seconds after which a node that hasn't answered a request is left out of it (engine
    deployment)."""
    nodes_timeout_s: PositiveFloat = 120.0
    """Seconds to wait for all nodes before the first round (engine deployment)."""
    min_nodes: PositiveInt | None = None
    """Nodes to begin with after nodes_timeout_s; others may join later, and count as dropouts until
    they do; null: as many as there are clients."""
    workers: PositiveInt | None = None
    """Clients that train at a time, each in a process of one thread; 1 on the engine inline: in
    this process, with `threads`; null: as cores, batch size and memory suggest. Weights don't
    depend on how many there are above 1."""
    ray_address: str | None = None
    """Address of a Ray cluster that is already there, such as ray://head:10001 or auto (engine
    ray); null: Ray is started on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training and evaluation compute; auto: on a GPU where there is one, with the images
    resident on it."""
    threads: PositiveInt | None = None
    """Threads this process computes with; null: as many as there are cores to use. Worker processes
    have one each."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training; auto: bfloat16 where the processor has instructions for it.
    Evaluation is always float32."""
    cache_dir: str | None = None
    """Folder for decoded images; null: the user's cache folder (TARDIS_FL_CACHE wins)."""


class CallbackConfig(Section):
    """Something that is called as the run goes on."""

    use: Annotated[str, PluginName(tuple, form="MODULE:CLASS")]
    """Name of a callback, or MODULE:CLASS, your own."""
    options: Options = Field(default={})
    """The callback's options: the parameters of the class."""


class Config(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    """Name of the run, and of its folder under runs/."""
    plugins: Annotated[list[str], ADDED] = Field(default=[])
    """Modules that register plug-ins, such as my_package.my_plugins; every process imports them,
    from the current folder too."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Everything random follows from it."""
    callbacks: Annotated[list[CallbackConfig], ADDED] = Field(default=[])
    """What is called as the run goes on: progress, early stopping, records of your own."""
    data: DataConfig = DataConfig()
    """The images, and who holds which."""
    model: ModelConfig = ModelConfig()
    """The network."""
    tiers: list[TierConfig] = Field(
        default=[TierConfig(name="device"), TierConfig(name="edge"), TierConfig(name="cloud")]
    )
    """Where the segments run, from the device to the cloud: one tier a segment."""
    federation: FederationConfig = FederationConfig()
    """Who trains what, and how often."""
    deployment: DeploymentConfig = DeploymentConfig()
    """When a sample leaves its tier."""
    profiles: str | None = None
    """YAML file with profiles of your own (keys devices, links, radios), beside the shipped
    ones."""
    runtime: RuntimeConfig = RuntimeConfig()
    """How to use this machine."""

    @property
    def num_segments(self) -> int:
        """Segments of the network, which is also the number of tiers."""
        return len(self.tiers)

    @property
    def segments(self) -> SegmentRoles:
        """Who holds and who trains each segment."""
        return self.federation.segment_roles(self.num_segments)

    @property
    def exit_weights(self) -> list[float]:
        """Weight of each exit's loss at the start, from shallow to deep."""
        return self.model.initial_exit_weights(self.num_segments)

    @property
    def norm_layer(self) -> str:
        """The kind of norm layer, whoever holds it."""
        return self.model.norm_layer

    @property
    def groups(self) -> list[GroupConfig]:
        """The fleet's groups; one of all clients where they are alike."""
        return list(self.federation.population.groups)

    @property
    def max_depth(self) -> int:
        """Segments that at least one group holds; the others are the server's."""
        return self.segments.max_depth

    @property
    def server_start(self) -> int:
        """Number, from 0, of the first segment that the server trains; their count if none."""
        return self.segments.server_start

    @property
    def nodes_keep_images(self) -> bool:
        """Whether each client's images lie on its own node's disk, and nowhere else."""
        return self.data.partition.scheme == "natural" and self.runtime.engine == "deployment"

    @property
    def keeps_features(self) -> bool:
        """Whether clients keep features from before their training, for a request that follows it.

        Real nodes would keep them in memory, all of them, so they don't.
        """
        federation = self.federation
        asked = (
            federation.server_training == "features"
            and federation.server_epochs > 0
            and not federation.split
        )
        simulated = self.runtime.engine != "deployment"
        stale = federation.feature_timing == "stale"
        return stale and asked and simulated and self.segments.server_trains

    @property
    def calibrates_by_sums(self) -> bool:
        """Whether clients send sums over their held-out samples instead of tables."""
        return self.federation.evaluation.by_sums

    @property
    def group_sizes(self) -> list[int]:
        """Clients in each group: by their shares, where the largest remainders get one more."""
        return self.federation.population.group_sizes

    @property
    def clients_per_round(self) -> int:
        """Clients chosen for a round: the fraction, rounded to the nearest count, at least one."""
        return self.federation.population.clients_per_round
