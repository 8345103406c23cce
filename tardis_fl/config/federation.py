"""The keys of `federation`: who trains what, how often, and what goes wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.codecs.names import CODECS, TRAINING_CODECS
from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import (
    ADDED,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Section,
)
from tardis_fl.config.views import (
    DeeperTrainingSettings,
    EvaluationSettings,
    FailureSettings,
    FeatureSettings,
    LateSettings,
    LocalTrainingSettings,
    PopulationSettings,
    SegmentRoles,
)
from tardis_fl.federation.server.rules import AGGREGATION_RULES

TRAINING_CODEC_SCHEMA = CODECS.json_schema(TRAINING_CODECS)

ALGORITHMS = ("fedavg",)


class OptimizerConfig(Section):
    """SGD with Nesterov momentum where momentum is above 0."""

    batch_size: PositiveInt = 50
    """Images a gradient step."""
    learning_rate: PositiveFloat = 0.05
    """Learning rate at the start, or after the warm-up."""
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "cosine"
    """How the learning rate goes down: linear and cosine reach 0 at the end of the planned rounds
    (server: rounds and final epochs); exponential: times decay a round."""
    decay: PositiveFraction = 0.99
    """Factor of a round (server: of a pass over its features) in the schedule exponential."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the planned training over which the learning rate rises linearly to its start."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum."""
    weight_decay: NonNegativeFloat = 5.0e-4
    """L2 penalty."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of a step's gradient, over all parameters together; larger ones are scaled down;
    null: no limit."""


class ServerOptimizerConfig(OptimizerConfig):
    """SGD on features; batches are larger than on a client."""

    batch_size: PositiveInt = 128
    """Feature maps a gradient step."""


class GroupConfig(Section):
    """Clients of one kind in an uneven fleet."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    """What the group is called in reports."""
    share: PositiveFraction
    """Share of the clients in this group; the shares of all groups add up to 1. Who is in it is
    drawn independently of the data."""
    depth: PositiveInt = 1
    """Segments, from the first, that these clients hold and train."""
    device: str | None = None
    """What they compute with, for the virtual clock; null: computing takes no time."""
    link: str | None = None
    """How they reach the server, for the virtual clock; null: sending takes no time."""
    availability: PositiveFraction = 1.0
    """Probability that one of these clients can be reached in a round; only those who can be are
    chosen. After the last round the server waits until all have been."""


class DistillationConfig(Section):
    """Exits that learn from other exits of the same segments, on clients and on the server."""

    teacher: Literal["none", "mutual", "last"] = "none"
    """none; mutual: every exit teaches every other (DepthFL); last: the deepest exit teaches the
    others."""
    weight: NonNegativeFloat = 1.0
    """Of the distillation beside the labels, at full strength."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student; 1 leaves them as they are."""
    ramp: Fraction = 0.3
    """Share of the planned rounds over which the weight rises to full strength; 0: at once."""


class AggregationConfig(Section):
    """From the clients' updates to the next weights."""

    rule: Annotated[str, Field(json_schema_extra=AGGREGATION_RULES.json_schema())] = "mean"
    """mean: weighted by samples; trimmed_mean and median: of each weight over clients, all alike,
    all updates of a round in memory; norm_clipping: the mean of updates no longer than
    clip_norm. Or MODULE:CLASS, a rule of your own."""
    trim_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the smallest and of the largest values left out at each end (rule trimmed_mean)."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of an update's change of the parameters (rule norm_clipping); rounds.jsonl has
    the norms of a run."""
    max_update_ratio: PositiveFloat | None = 10.0
    """An update whose change of the parameters is longer than this many times the parameters sent
    out is rejected as exploded; null: none is."""
    optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    """What the server makes of the average change: takes it (fedavg), with momentum (fedavgm, Hsu
    et al. 2019), or adaptively (fedadam, fedyogi, Reddi et al. 2021)."""
    learning_rate: PositiveFloat = 1.0
    """Of the server's optimiser; fedadam and fedyogi want about 0.01."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum (fedavgm), beta 1 (fedadam, fedyogi)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the squares (fedadam, fedyogi)."""
    tau: PositiveFloat = 1.0e-3
    """Degree of adaptivity, added to the root of the squares (fedadam, fedyogi)."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of a rule of your own, by the names of its parameters."""


class FaultConfig(Section):
    """Something that goes wrong on purpose, in training, drawn by the seed."""

    kind: Literal[
        "dropout",
        "straggler",
        "crash",
        "nan",
        "explode",
        "wrong_shape",
        "missing_segment",
        "repeat",
        "garbage",
    ]
    """dropout: no answer; straggler: computing takes factor times as long on the virtual clock;
    crash: an error in training; nan: weights that are no numbers; explode: the update times factor;
    wrong_shape; missing_segment; repeat: the same reply twice; garbage: noise, factor times as long
    as the update."""
    probability: PositiveFraction = 1.0
    """Probability for each client in each round."""
    clients: list[NonNegativeInt] | None = None
    """Whom it can happen to, by number; null: all."""
    rounds: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    """First and last round in which it can happen; null: all."""
    factor: PositiveFloat | None = None
    """Of straggler (10 where null), explode (1e6) and garbage (10)."""


class PrivacyConfig(Section):
    """Local differential privacy of the weights that a client sends: clipped, with Gaussian noise added on the client."""

    clip_norm: PositiveFloat
    """Largest L2 norm of an update's change."""
    epsilon: PositiveFloat
    """Privacy budget of one message; the report says what all of a client's messages cost
    together."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-5
    """Probability that the promise doesn't hold, of one message and of all."""


class FederationConfig(Section):
    """Who trains what, how often, and what goes wrong."""

    algorithm: Annotated[str, PluginName(lambda: ALGORITHMS, form="MODULE:CLASS"), ADDED] = "fedavg"
    """What clients do in a round and what the server makes of it: fedavg, with all that the other
    keys say; or MODULE:CLASS, your own."""
    algorithm_options: Annotated[Options, ADDED] = Field(default={})
    """Options of the algorithm: the parameters of the class."""
    rounds: PositiveInt = 10
    """Rounds of local training and aggregation."""
    num_clients: PositiveInt = 10
    """Clients in the fleet; each holds one shard."""
    client_fraction: PositiveFraction = 1.0
    """Share of the clients that is chosen for a round."""
    client_depth: PositiveInt = 1
    """Segments a client holds and trains; as many as there are tiers: plain FedAvg of the whole
    network."""
    fleet: Annotated[list[GroupConfig], Field(min_length=1)] | None = None
    """Groups of clients of different depth, device, link and availability; null: all clients alike,
    with client_depth."""
    client_exits: Literal["all", "last"] = "all"
    """Which of its exits a client trains: all, or only the deepest that it holds."""
    local_epochs: PositiveInt = 1
    """Passes over its shard that a chosen client makes in a round."""
    client: OptimizerConfig = OptimizerConfig()
    """Local training on the clients."""
    privacy: PrivacyConfig | None = None
    """Local differential privacy of the weights (extra `privacy`); null: none. Features aren't
    covered by it."""
    piece_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Most bytes of a shard's features in one message; more than that travel in pieces, each with a
    request of its own. The run's result doesn't depend on it."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the training features that travel, as a multiple of
    each sample's own; without a promise of privacy."""
    proximal_mu: NonNegativeFloat = 0.0
    """Weight of FedProx's pull towards the weights of the round's start (Li et al. 2020); 0:
    none."""
    distillation: DistillationConfig = DistillationConfig()
    """Exits that learn from other exits."""
    serving_score: Fraction = 0.8
    """Score at which an exit counts as answering, for model.exit_weighting serving_rate."""
    aggregation: AggregationConfig = AggregationConfig()
    """From the clients' updates to the next weights."""
    recalibrate_norm: bool = False
    """After the last round, compute the running statistics of the held segments' batch norm anew,
    over all clients' training samples."""
    server_training: Literal["features", "proxy", "none"] = "features"
    """What the server trains deeper segments on: features that clients send; its own proxy images;
    none: it trains nothing."""
    server_segments: Literal["unheld", "deeper"] = "unheld"
    """Which segments the server trains, after averaging: those nobody holds, or all below the
    shallowest group's, on features that every client then has."""
    server: ServerOptimizerConfig = ServerOptimizerConfig()
    """Training of the deeper segments on the server."""
    server_epochs: NonNegativeInt = 1
    """Passes over a round's features that the server makes after aggregating."""
    final_server_epochs: NonNegativeInt = 5
    """Passes on features of all clients, of the final client segments, after the last round."""
    final_feature_views: PositiveInt = 1
    """Differently augmented views of all training samples whose features travel for the final
    epochs; each serves an equal share of them."""
    split: bool = False
    """Clients and server train step by step together: features go up and the deeper exits' gradient
    for them comes back (SplitFed)."""
    feature_fraction: PositiveFraction = 1.0
    """Share of a chosen client's training samples whose features travel in a round; the final
    epochs use all of them."""
    feature_timing: Literal["fresh", "stale"] = "fresh"
    """fresh: features of the new average, for which its weights travel once more; stale: of the
    weights the round began with, computed before the local training (on the engine deployment after
    it, for which these weights travel once more)."""
    feature_buffer_rounds: PositiveInt = 1
    """Rounds whose features the server keeps and trains on; 1: only this round's."""
    feature_codec: Annotated[str, Field(json_schema_extra=TRAINING_CODEC_SCHEMA)] = "uint8"
    """How features travel from client to server: uint8, float16 or float32; uint8 and float16 are
    lossy, uint8 has a scale per sample. Or MODULE:CLASS, a codec of your own."""
    proxy_fraction: PositiveFloat | None = None
    """Share of the training images that the server keeps as its own and deals to no client
    (server_training proxy)."""
    evaluate_every: NonNegativeInt = 1
    """Rounds between evaluations on the clients' fit samples; 0: only after the last round."""
    calibration: Literal["tables", "sums"] = "tables"
    """How temperatures and thresholds come about after the last round. tables: from all clients'
    logits, labels and features of held-out samples. sums: clients get the whole network and send
    sums over their held-out samples: losses at some temperatures, and counts of scores by right and
    wrong; thresholds then lie at thousandths."""
    max_failed_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a round's clients that may fail before the run stops with exit code 4."""
    deadline_s: PositiveFloat | None = None
    """Seconds on the virtual clock after which an update is late; null: the server waits for
    all."""
    late_updates: Literal["discard", "discount"] = "discard"
    """A late update counts as failed, or its change joins the average of the round in which it
    arrives; the client is away until then."""
    late_discount: PositiveFraction = 0.5
    """Factor on a late update's change of the weights for each deadline that it missed
    (late_updates discount)."""
    faults: list[FaultConfig] = Field(default=[])
    """What goes wrong on purpose."""

    @property
    def population(self) -> PopulationSettings:
        """The clients there are, and how many of them take part in a round."""
        alike = GroupConfig(name="all", share=1.0, depth=self.client_depth)
        return PopulationSettings(
            num_clients=self.num_clients,
            client_fraction=self.client_fraction,
            groups=tuple(self.fleet or [alike]),
        )

    @property
    def local_training(self) -> LocalTrainingSettings:
        """What a client does with its shard in a round."""
        return LocalTrainingSettings(
            epochs=self.local_epochs,
            optimizer=self.client,
            exits=self.client_exits,
            proximal_mu=self.proximal_mu,
            distillation=self.distillation,
        )

    @property
    def deeper_training(self) -> DeeperTrainingSettings:
        """How the server trains the segments that clients don't."""
        return DeeperTrainingSettings(
            source=self.server_training,
            segments=self.server_segments,
            optimizer=self.server,
            round_epochs=self.server_epochs,
            final_epochs=self.final_server_epochs,
            final_views=self.final_feature_views,
            split=self.split,
            proxy_fraction=self.proxy_fraction,
        )

    @property
    def features(self) -> FeatureSettings:
        """Which features of training samples travel to the server, and how."""
        return FeatureSettings(
            fraction=self.feature_fraction,
            timing=self.feature_timing,
            buffer_rounds=self.feature_buffer_rounds,
            codec=self.feature_codec,
            noise=self.feature_noise,
            piece_bytes=self.piece_bytes,
        )

    @property
    def late(self) -> LateSettings:
        """What is late on the virtual clock, and what becomes of it."""
        return LateSettings(
            deadline_s=self.deadline_s,
            updates=self.late_updates,
            discount=self.late_discount,
        )

    @property
    def evaluation(self) -> EvaluationSettings:
        """How clients' held-out samples are used."""
        return EvaluationSettings(
            every_rounds=self.evaluate_every,
            serving_score=self.serving_score,
            recalibrate_norm=self.recalibrate_norm,
            calibration=self.calibration,
        )

    @property
    def failures(self) -> FailureSettings:
        """What goes wrong on purpose, and how much may fail."""
        return FailureSettings(
            max_failed_fraction=self.max_failed_fraction, faults=tuple(self.faults)
        )

    def segment_roles(self, num_segments: int) -> SegmentRoles:
        """Returns who holds and who trains each segment of a network."""
        population = self.population
        if self.server_training == "none":
            server_start = num_segments
        elif self.server_segments == "unheld":
            server_start = population.max_depth
        else:
            server_start = population.min_depth
        return SegmentRoles(
            count=num_segments, max_depth=population.max_depth, server_start=server_start
        )
