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
from tardis_fl.federation.server.aggregation.rules import AGGREGATION_RULES

TRAINING_CODEC_SCHEMA = CODECS.json_schema(TRAINING_CODECS)

ALGORITHMS = ("fedavg",)


class OptimizerConfig(Section):
    """SGD, with Nesterov momentum where momentum is above 0."""

    batch_size: PositiveInt = 50
    """Samples in a gradient step."""
    learning_rate: PositiveFloat = 0.05
    """Learning rate at the start, or after the warm-up."""
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "cosine"
    """constant; linear and cosine: fall to 0 at the end of the planned rounds (server: rounds and
    final epochs); exponential: times decay after each round."""
    decay: PositiveFraction = 0.99
    """Factor of the schedule exponential for each round (server: for each pass over its
    features)."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the planned training over which the learning rate rises linearly to
    learning_rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Nesterov momentum; 0: plain SGD."""
    weight_decay: NonNegativeFloat = 5.0e-4
    """Weight of the L2 penalty."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of a step's gradient over all parameters together; longer gradients are scaled
    down; null: no limit."""


class ServerOptimizerConfig(OptimizerConfig):
    """SGD on features; batches are larger than on a client."""

    batch_size: PositiveInt = 128
    """Feature maps in a gradient step."""


class GroupConfig(Section):
    """Clients of one kind in an uneven fleet."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    """Name of the group in reports."""
    share: PositiveFraction
    """Share of the clients in this group; the shares of all groups add up to 1. Who is in it is
    drawn independently of the data."""
    depth: PositiveInt = 1
    """Segments, from the first, that these clients hold and train."""
    device: str | None = None
    """Profile of the device that they compute with, for the virtual clock; null: computing takes no
    time."""
    link: str | None = None
    """Profile of the link to the server, for the virtual clock; null: sending takes no time."""
    availability: PositiveFraction = 1.0
    """Probability that such a client can be reached in a round; only clients that can be reached
    are chosen. After the last round the server waits until it has reached all."""


class DistillationConfig(Section):
    """Exits that learn from other exits of the same segments, on clients and on the server."""

    teacher: Literal["none", "mutual", "last"] = "none"
    """none; mutual: every exit teaches every other (DepthFL); last: the deepest exit teaches the
    others."""
    weight: NonNegativeFloat = 1.0
    """Weight of the distillation loss beside that of the labels, at full strength."""
    temperature: PositiveFloat = 1.0
    """Softens the probabilities of teacher and student; 1 leaves them as they are."""
    ramp: Fraction = 0.3
    """Share of the planned rounds over which the weight rises to full strength; 0: at once."""


class AggregationConfig(Section):
    """From the clients' updates to the next weights."""

    rule: Annotated[str, Field(json_schema_extra=AGGREGATION_RULES.json_schema())] = "mean"
    """mean: weighted by samples; trimmed_mean and median: of each weight over clients with equal
    weights, all updates of a round in memory; norm_clipping: the mean of updates no longer than
    clip_norm; or MODULE:CLASS, a rule of your own."""
    trim_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the smallest and of the largest values left out at each end (rule trimmed_mean)."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of an update's change of the parameters (rule norm_clipping); rounds.jsonl has
    the norms of a run."""
    max_update_ratio: PositiveFloat | None = 10.0
    """An update whose change of the parameters is longer than this many times the parameters sent
    out is rejected as exploded; null: none is."""
    optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    """How the server applies the average change: as it is (fedavg), with momentum (fedavgm, Hsu et
    al. 2019), or adaptively (fedadam and fedyogi, Reddi et al. 2021)."""
    learning_rate: PositiveFloat = 1.0
    """Learning rate of the server's optimiser; about 0.01 suits fedadam and fedyogi."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum (fedavgm) or beta 1 (fedadam, fedyogi)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the mean squares (fedadam, fedyogi)."""
    tau: PositiveFloat = 1.0e-3
    """Degree of adaptivity, added to the root of the mean squares (fedadam, fedyogi)."""
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
    """dropout: no reply; straggler: computing takes factor times as long on the virtual clock;
    crash: an error in training; nan: weights that are no numbers; explode: the update times factor;
    wrong_shape: a weight of another shape; missing_segment: weights of a segment left out; repeat:
    the same reply twice; garbage: noise, factor times as long as the update."""
    probability: PositiveFraction = 1.0
    """Probability for each client in each round."""
    clients: list[NonNegativeInt] | None = None
    """Numbers of the clients that it can happen to; null: all."""
    rounds: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    """First and last round in which it can happen; null: all."""
    factor: PositiveFloat | None = None
    """Factor of straggler (null: 10), explode (null: 1e6) and garbage (null: 10)."""


class PrivacyConfig(Section):
    """Local differential privacy: clients clip the change of the weights and add Gaussian noise."""

    clip_norm: PositiveFloat
    """Largest L2 norm of an update's change."""
    epsilon: PositiveFloat
    """Privacy budget of one message; the report says what all messages of a client cost
    together."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-5
    """Probability that the promise doesn't hold, of one message and of all."""


class FederationConfig(Section):
    """Who trains what, how often, and what goes wrong."""

    algorithm: Annotated[str, PluginName(lambda: ALGORITHMS, form="MODULE:CLASS"), ADDED] = "fedavg"
    """What clients do in a round and what the server makes of it: fedavg, in the form that the
    other keys give it; or MODULE:CLASS, an algorithm of your own."""
    algorithm_options: Annotated[Options, ADDED] = Field(default={})
    """Options of the algorithm, by the names of its parameters."""
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
    """Which of its exits a client trains. all; last: only the deepest that it holds."""
    local_epochs: PositiveInt = 1
    """Passes over its shard that a chosen client makes in a round."""
    client: OptimizerConfig = OptimizerConfig()
    """Optimiser of the local training."""
    privacy: PrivacyConfig | None = None
    """Local differential privacy of the weights that clients send (extra `privacy`); features
    aren't covered by it; null: none."""
    piece_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Most bytes of a shard's features in one message; longer ones travel in pieces, each with a
    request of its own. The result doesn't depend on it."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the training features that travel, as a multiple of
    each sample's own; it comes without a promise of privacy."""
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
    """After the last round, compute the running statistics of the held segments' batch norm again,
    over all clients' training samples."""
    server_training: Literal["features", "proxy", "none"] = "features"
    """What the server trains deeper segments on. features: those that clients send; proxy: images
    of its own; none: it trains nothing."""
    server_segments: Literal["unheld", "deeper"] = "unheld"
    """Which segments the server trains, after averaging. unheld: those that no client holds;
    deeper: all below the shallowest group's, on features that every client then has."""
    server: ServerOptimizerConfig = ServerOptimizerConfig()
    """Optimiser of the deeper segments on the server."""
    server_epochs: NonNegativeInt = 1
    """Passes over a round's features that the server makes after aggregating."""
    final_server_epochs: NonNegativeInt = 5
    """Passes over features of all clients after the last round, from the final client segments."""
    final_feature_views: PositiveInt = 1
    """Differently augmented views of all training samples whose features travel for the final
    epochs; each serves an equal share of them."""
    split: bool = False
    """Clients and server train step by step together: features go up, and the deeper exits'
    gradient for them comes back (SplitFed)."""
    feature_fraction: PositiveFraction = 1.0
    """Share of a chosen client's training samples whose features travel in a round; the final
    epochs use all of them."""
    feature_timing: Literal["fresh", "stale"] = "fresh"
    """fresh: features of the new average, for which its weights travel once more; stale: of the
    weights the round began with, computed before the local training (with the engine deployment
    after it, for which these weights travel once more)."""
    feature_buffer_rounds: PositiveInt = 1
    """Rounds whose features the server keeps and trains on; 1: only this round's."""
    feature_codec: Annotated[str, Field(json_schema_extra=TRAINING_CODEC_SCHEMA)] = "uint8"
    """How features travel from client to server: uint8 (lossy, with a scale for each sample),
    float16 (lossy) or float32; or MODULE:CLASS, a codec of your own."""
    proxy_fraction: PositiveFloat | None = None
    """Share of the training images that the server keeps as its own and no client gets
    (server_training proxy)."""
    evaluate_every: NonNegativeInt = 1
    """Rounds between evaluations on the clients' fit samples; 0: only after the last round."""
    calibration: Literal["tables", "sums"] = "tables"
    """How temperatures and thresholds come about after the last round. tables: from all clients'
    logits, labels and features of held-out samples; sums: clients get the whole network and send
    sums over their held-out samples, which are losses at some temperatures and counts of scores by
    right and wrong; thresholds are then multiples of 0.001."""
    max_failed_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a round's clients that may fail before the run stops with exit code 4."""
    deadline_s: PositiveFloat | None = None
    """Seconds on the virtual clock after which an update is late; null: the server waits for
    all."""
    late_updates: Literal["discard", "discount"] = "discard"
    """discard: a late update counts as failed; discount: its change joins the average of the round
    in which it arrives, and the client is away until then."""
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
