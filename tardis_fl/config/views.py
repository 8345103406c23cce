"""Groups of keys that go together, for functions that need no more than one of them.

`federation` has its keys side by side in the YAML. `FederationConfig` gives them as the views here:
a function takes the view that it works by, such as `FeatureSettings`, instead of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tardis_fl.config.federation import (
        DistillationConfig,
        FaultConfig,
        GroupConfig,
        OptimizerConfig,
        ServerOptimizerConfig,
    )

# a share such as 0.3 times 10 clients may come out a little below 3
ROUNDING = 1e-9


@dataclass(frozen=True)
class PopulationSettings:
    """The clients there are, and how many of them take part in a round.

    Attributes:
        num_clients: Clients, each with one shard.
        client_fraction: Share of them that is chosen for a round.
        groups: Their kinds; one group of all where they are alike.
    """

    num_clients: int
    client_fraction: float
    groups: tuple[GroupConfig, ...]

    @property
    def group_sizes(self) -> list[int]:
        """Clients in each group: by their shares, where the largest remainders get one more."""
        exact = [group.share * self.num_clients for group in self.groups]
        sizes = [int(count + ROUNDING) for count in exact]
        by_remainder = sorted(range(len(exact)), key=lambda number: sizes[number] - exact[number])
        for number in by_remainder[: self.num_clients - sum(sizes)]:
            sizes[number] += 1
        return sizes

    @property
    def clients_per_round(self) -> int:
        """Clients chosen for a round: the fraction, rounded to the nearest count, at least one."""
        return max(1, round(self.client_fraction * self.num_clients))

    @property
    def max_depth(self) -> int:
        """Segments that the deepest group holds."""
        return max(group.depth for group in self.groups)

    @property
    def min_depth(self) -> int:
        """Segments that every group holds."""
        return min(group.depth for group in self.groups)

    @property
    def has_virtual_time(self) -> bool:
        """Whether computing or sending takes time on the virtual clock."""
        return any(group.device or group.link for group in self.groups)


@dataclass(frozen=True)
class LocalTrainingSettings:
    """What a client does with its shard in a round.

    Attributes:
        epochs: Passes over the shard.
        optimizer: Of the client.
        exits: Which of its exits it trains: all, or only the deepest.
        proximal_mu: Weight of FedProx's pull towards the weights of the round's start.
        distillation: What exits learn from other exits.
    """

    epochs: int
    optimizer: OptimizerConfig
    exits: Literal["all", "last"]
    proximal_mu: float
    distillation: DistillationConfig


@dataclass(frozen=True)
class DeeperTrainingSettings:
    """How the server trains the segments that clients don't.

    Attributes:
        source: What it trains them on: features of clients, its own proxy images, or nothing.
        segments: Those that no client holds, or all below the shallowest group's.
        optimizer: Of the server.
        round_epochs: Passes over a round's features after aggregating.
        final_epochs: Passes over features of all clients after the last round.
        final_views: Augmented views of all samples that the final epochs share.
        split: Whether client and server train step by step together instead.
        proxy_fraction: Share of the training images that the server keeps as its own.
    """

    source: Literal["features", "proxy", "none"]
    segments: Literal["unheld", "deeper"]
    optimizer: ServerOptimizerConfig
    round_epochs: int
    final_epochs: int
    final_views: int
    split: bool
    proxy_fraction: float | None


@dataclass(frozen=True)
class FeatureSettings:
    """Which features of training samples travel to the server, and how.

    Attributes:
        fraction: Share of a chosen client's training samples in a round.
        timing: Of the new average (fresh), or of the weights the round began with (stale).
        buffer_rounds: Rounds whose features the server keeps.
        codec: How they are encoded.
        noise: Standard deviation of Gaussian noise, as a multiple of each sample's own.
        piece_bytes: Most bytes in one message.
    """

    fraction: float
    timing: Literal["fresh", "stale"]
    buffer_rounds: int
    codec: str
    noise: float
    piece_bytes: int


@dataclass(frozen=True)
class LateSettings:
    """What is late on the virtual clock, and what becomes of it.

    Attributes:
        deadline_s: Seconds after which an update is late; None: nothing is.
        updates: Whether a late update is discarded, or joins a later round with a discount.
        discount: Factor on its change of the weights for each deadline that it missed.
    """

    deadline_s: float | None
    updates: Literal["discard", "discount"]
    discount: float

    @property
    def counts(self) -> bool:
        """Whether a late update joins the round in which it arrives."""
        return self.updates == "discount"


@dataclass(frozen=True)
class EvaluationSettings:
    """How clients' held-out samples are used.

    Attributes:
        every_rounds: Rounds between evaluations; 0: only after the last.
        serving_score: Score at which an exit counts as answering.
        recalibrate_norm: Whether running statistics are computed again after the last round.
        calibration: Whether thresholds come from tables of logits, or from sums.
    """

    every_rounds: int
    serving_score: float
    recalibrate_norm: bool
    calibration: Literal["tables", "sums"]

    @property
    def by_sums(self) -> bool:
        """Whether clients send sums instead of tables, for which they get the whole network."""
        return self.calibration == "sums"


@dataclass(frozen=True)
class FailureSettings:
    """What goes wrong on purpose, and how much may fail.

    Attributes:
        max_failed_fraction: Share of a round's clients that may fail before the run stops.
        faults: What goes wrong on purpose.
    """

    max_failed_fraction: float
    faults: tuple[FaultConfig, ...]


@dataclass(frozen=True)
class SegmentRoles:
    """Who holds and who trains each segment of the network.

    Attributes:
        count: Segments of the network, which is also the number of tiers.
        max_depth: Segments that at least one client holds; the others are the server's.
        server_start: Number, from 0, of the first segment that the server trains; `count` where it
            trains none.
    """

    count: int
    max_depth: int
    server_start: int

    @property
    def server_trains(self) -> bool:
        """Whether the server trains any segment."""
        return self.server_start < self.count
