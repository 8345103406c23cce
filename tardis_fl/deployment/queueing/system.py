"""What is simulated: tiers, links, the device's power, and what breaks.

Units: seconds, bits, bytes, watts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tardis_fl.errors import ConfigError


@dataclass(frozen=True)
class Tier:
    """Machines that compute one segment.

    The first tier is the devices, each with one machine and a queue of its own.

    Attributes:
        name: For messages and results.
        service_s: Time for one sample.
        servers: Machines side by side, which share one queue (1 on the first tier).
        service: deterministic, or exponential with the mean service_s.
        batch_size: Most samples that a machine computes at a time (1 on the first tier).
        batch_wait_s: Longest time that the oldest sample waits for a batch to fill, while a machine
            is free.
        batch_cost: A batch of b takes service_s * (1 + batch_cost * (b - 1)).
    """

    name: str
    service_s: float
    servers: int = 1
    service: Literal["deterministic", "exponential"] = "deterministic"
    batch_size: int = 1
    batch_wait_s: float = 0.0
    batch_cost: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.service_s < float("inf"):
            raise ConfigError(
                f"{self.name}: got a service time of {self.service_s} s; wanted a finite time above 0, and so a rate above 0"
            )
        if self.servers < 1 or self.batch_size < 1:
            raise ConfigError(
                f"{self.name}: got {self.servers} servers and batches of {self.batch_size}; wanted at least 1 of each"
            )

    @property
    def best_seconds_a_sample(self) -> float:
        """Time for a sample in the largest batch."""
        return self.service_s * (1 + self.batch_cost * (self.batch_size - 1)) / self.batch_size


@dataclass(frozen=True)
class Link:
    """A way from one tier to the next: a queue in which a message's bits are sent, then a delay that occupies nothing.

    Each device has a first link of its own; further links are shared by all requests. Answers go
    back without a queue, and whatever breaks: outages, losses and slower rates hold up what goes
    away from the device alone.

    Attributes:
        name: For messages and results.
        up_bit_per_s: Away from the device.
        down_bit_per_s: To the device.
        delay_s: One way.
        jitter_s: Up to so much more delay on the way up, uniformly.
        max_payload_bytes: The largest message that one frame carries; None: no limit.
        fragments: Send larger messages as several frames; else they are refused.
    """

    name: str
    up_bit_per_s: float
    down_bit_per_s: float
    delay_s: float
    jitter_s: float = 0.0
    max_payload_bytes: int | None = None
    fragments: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.up_bit_per_s < float("inf") and 0 < self.down_bit_per_s < float("inf")):
            raise ConfigError(
                f"{self.name}: got {self.up_bit_per_s} bit/s up and {self.down_bit_per_s} down; wanted finite rates above 0"
            )
        if not (0 <= self.delay_s < float("inf") and 0 <= self.jitter_s < float("inf")):
            raise ConfigError(
                f"{self.name}: got a delay of {self.delay_s} s and a jitter of {self.jitter_s} s; wanted finite times of at least 0"
            )

    def carries(self, num_bytes: float) -> bool:
        """Whether a message fits into a frame, or may be sent as several."""
        return (
            self.max_payload_bytes is None or self.fragments or num_bytes <= self.max_payload_bytes
        )

    def check_payload(self, num_bytes: float) -> None:
        """Refuses a message that no frame carries.

        Raises:
            ConfigError: Says what came and what fits.
        """
        if not self.carries(num_bytes):
            raise ConfigError(
                f"{self.name}: a message of {num_bytes:,.0f} bytes doesn't fit into a frame of {self.max_payload_bytes}; "
                "wanted a codec or a cut with smaller features, or fragments: true"
            )

    def back_s(self, num_bytes: int) -> float:
        """Returns how long an answer takes down this link."""
        return self.delay_s + 8 * num_bytes / self.down_bit_per_s


@dataclass(frozen=True)
class Power:
    """What the device's processor takes, idle and computing, in W."""

    idle_w: float
    active_w: float


@dataclass(frozen=True)
class Radio:
    """What the device's radio takes: sending, receiving, idle (W), and in the states after each activity (W, s)."""

    transmit_w: float
    receive_w: float
    idle_w: float
    tails: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Loss:
    """Messages over a boundary get lost.

    Lost ones are sent again after `timeout_s`, and hold their place in the queue meanwhile.

    In bursts, good and bad runs of transmissions alternate, both of geometric length; a bad one
    hits the message that comes next, again and again.

    Attributes:
        boundary: From the device's on, 0 first.
        probability: Of each transmission.
        burst: Mean number of transmissions lost in a row (Gilbert 1960: all are lost in the bad
            state); None: independent.
        timeout_s: From the end of a lost transmission to the next.
    """

    boundary: int
    probability: float
    burst: float | None = None
    timeout_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1 or (self.burst is not None and self.burst < 1):
            raise ConfigError(
                f"loss: got the probability {self.probability} in bursts of {self.burst}; wanted one in [0, 1), and bursts of at least 1"
            )

    @property
    def hit(self) -> float:
        """Probability that a message's first transmission is lost."""
        if self.burst is None or self.probability == 0:
            return self.probability
        good = self.burst * (1 - self.probability) / self.probability
        return 1 / good if good >= 1 else 1 / (1 + good)

    @property
    def escape(self) -> float:
        """Probability that a transmission gets through after one of the same message was lost; how often it is lost is then geometric."""
        if self.burst is None or self.probability == 0:
            return 1 - self.probability
        good = self.burst * (1 - self.probability) / self.probability
        return 1 / self.burst if good >= 1 else (1 - self.hit) / self.burst

    def failed(self, attempts: int) -> float:
        """Returns the probability that so many transmissions of a message are all lost."""
        return self.hit * (1 - self.escape) ** (attempts - 1)

    def repetitions(self, attempts: int | None = None) -> float:
        """Returns the mean number of further transmissions of a message, of which at most `attempts` are made; None: as many as it takes."""
        ever = self.hit / self.escape
        return ever if attempts is None else ever * (1 - (1 - self.escape) ** (attempts - 1))


@dataclass(frozen=True)
class Slow:
    """A link's rate is `factors[i]` of its own from `times_s[i]` on; an outage is a factor of 0 and then of 1."""

    boundary: int
    times_s: tuple[float, ...]
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Outage:
    """A link is down from `start_s` to `end_s`; what is under way goes on afterwards."""

    boundary: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Crash:
    """All machines of a tier but the first are down from `start_s` to `end_s`; what they computed goes on afterwards."""

    tier: int
    start_s: float
    end_s: float


Fault = Loss | Slow | Outage | Crash


@dataclass(frozen=True)
class System:
    """Tiers, the links between them, the device's power, and faults.

    Attributes:
        tiers: At least two.
        links: One fewer.
        power: Of the device; None: energy isn't counted.
        radio: Of the device; None: it isn't counted.
        faults: What breaks.
        on_failure: What a request does that reaches a link in an outage or a crashed tier, or whose
            message was lost `max_attempts` times. retry: wait, or send again; degrade: be answered
            by the exit of the last tier that computed; drop: be given up.
        max_attempts: See there.
        answer_bytes: Of the answer on its way back.
    """

    tiers: tuple[Tier, ...]
    links: tuple[Link, ...]
    power: Power | None = None
    radio: Radio | None = None
    faults: tuple[Fault, ...] = ()
    on_failure: Literal["retry", "degrade", "drop"] = "retry"
    max_attempts: int = 5
    answer_bytes: int = 8

    def __post_init__(self) -> None:
        if len(self.tiers) < 2 or len(self.links) != len(self.tiers) - 1:
            raise ConfigError(
                f"a system of {len(self.tiers)} tiers and {len(self.links)} links; wanted at least two tiers, and one link fewer"
            )
        first = self.tiers[0]
        if first.servers != 1 or first.batch_size != 1:
            raise ConfigError(
                f"{first.name}: got {first.servers} servers and batches of {first.batch_size}; a device has one machine and computes one sample at a time"
            )

    def back_s(self, tier: int) -> float:
        """Returns how long an answer takes from a tier to the device."""
        return sum(link.back_s(self.answer_bytes) for link in self.links[:tier])
