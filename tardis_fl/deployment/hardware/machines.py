"""The configured machines and links as a system of queues, and what an answer at each exit costs on them without load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.config.deployment import DeploymentConfig, DeploymentFaultConfig
from tardis_fl.config.schema import Config
from tardis_fl.deployment.queueing.results import Latency
from tardis_fl.deployment.queueing.system import (
    Crash,
    Fault,
    Link,
    Loss,
    Outage,
    Power,
    Radio,
    Slow,
    System,
    Tier,
)
from tardis_fl.deployment.queueing.without_load import no_load_energy, no_load_latency
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.profiles import Profiles, load_profiles

MS = 1000.0


@dataclass(frozen=True)
class Machines:
    """Machines and links, and what one request costs that waits for nobody.

    Attributes:
        system: Without faults.
        latency_ms: By the exit that answers, with mean bytes.
        energy_mj: Of the device, likewise; None where its power isn't known.
        picture_system: The same links, where the last tier computes the whole network.
        service_ms: Time of each tier for one sample.
        servers: Machines side by side on each tier but the first.
        sources: Of the profiles, by name.
    """

    system: System
    latency_ms: tuple[float, ...]
    energy_mj: tuple[float, ...] | None
    picture_system: System
    service_ms: tuple[float, ...]
    servers: tuple[int, ...]
    sources: dict[str, str]

    @classmethod
    def of(cls, config: Config, macs: Sequence[int], boundary_bytes: Sequence[float]) -> Machines:
        """Builds the system of a configuration with hardware.

        Args:
            config: With `deployment.hardware`.
            macs: Multiply-accumulates of each segment with its exit, for one sample.
            boundary_bytes: Mean bytes of a message over each boundary.
        """
        hardware = config.deployment.hardware
        assert hardware is not None
        profiles = load_profiles(config.profiles)
        depthwise = CATALOGUE[config.model.backbone].depthwise
        overheads = [value / MS for value in hardware.overhead_ms or [0.0] * len(macs)]
        devices = [profiles.device(name) for name in hardware.devices]
        seconds = [
            device.seconds(count, depthwise=depthwise) + over
            for device, count, over in zip(devices, macs, overheads, strict=True)
        ]
        whole = devices[-1].seconds(sum(macs), depthwise=depthwise) + overheads[-1]
        system = _system(config, profiles, seconds)
        picture_system = _system(config, profiles, [*seconds[:-1], whole])
        tiers = range(len(macs))
        energies = [no_load_energy(system, tier, boundary_bytes) for tier in tiers]
        sources = {name: profiles.devices[name].source for name in hardware.devices} | {
            name: profiles.links[name].source for name in hardware.links
        }
        if hardware.radio is not None:
            sources[
                hardware.radio if hardware.radio not in sources else f"{hardware.radio} (radio)"
            ] = profiles.radios[hardware.radio].source
        return cls(
            system,
            tuple(MS * no_load_latency(system, tier, boundary_bytes) for tier in tiers),
            tuple(MS * joules for joules in energies if joules is not None)
            if energies[0] is not None
            else None,
            picture_system,
            tuple(MS * value for value in seconds),
            tuple(hardware.servers or [1] * (len(macs) - 1)),
            sources,
        )

    def carry(self, largest_bytes: npt.NDArray[np.int64]) -> bool:
        """Whether the links carry messages of up to so many bytes (boundaries,)."""
        return all(
            link.carries(float(size))
            for link, size in zip(self.system.links, largest_bytes, strict=True)
        )

    def mean_latency_ms(self, shares: npt.NDArray[np.float64]) -> float:
        """Returns the mean latency where each exit answers a share of the samples (exits,)."""
        return float(shares @ np.asarray(self.latency_ms))

    def mean_energy_mj(self, shares: npt.NDArray[np.float64]) -> float | None:
        """Returns the device's mean energy likewise; None where its power isn't known."""
        return float(shares @ np.asarray(self.energy_mj)) if self.energy_mj is not None else None

    def latency_quantiles_ms(self, exits: npt.NDArray[np.int64]) -> dict[str, float | None]:
        """Returns mean, p50, p95 and p99 where nobody waits; None where there are too few samples to say."""
        found = Latency.of(np.asarray(self.latency_ms)[exits])
        return {"mean": found.mean, "p50": found.p50, "p95": found.p95, "p99": found.p99}

    def picture_latency_ms(self, size: float) -> float | None:
        """Returns the latency where the device sends a picture of so many bytes, tiers between pass it on, and the last one computes everything.

        None where it doesn't fit into a link's frame.
        """
        last = len(self.system.tiers) - 1
        if not all(link.carries(size) for link in self.system.links):
            return None
        return MS * no_load_latency(self.picture_system, last, [size] * last, first=last)

    def picture_energy_mj(self, size: float) -> float | None:
        """Returns the device's energy for that; None where its power isn't known, or the picture doesn't fit."""
        last = len(self.system.tiers) - 1
        if not all(link.carries(size) for link in self.system.links):
            return None
        joules = no_load_energy(self.picture_system, last, [size] * last, first=last)
        return None if joules is None else MS * joules


def _system(config: Config, profiles: Profiles, seconds: Sequence[float]) -> System:
    deployment, names = config.deployment, [tier.name for tier in config.tiers]
    hardware, load = deployment.hardware, deployment.load
    assert hardware is not None
    servers, batch_sizes = (
        hardware.servers or [1] * (len(names) - 1),
        (load.batch_sizes if load else None) or [1] * (len(names) - 1),
    )
    wait_s, cost = (load.batch_wait_ms / MS, load.batch_cost) if load else (0.0, 1.0)
    tiers = [Tier(names[0], seconds[0])] + [
        Tier(name, service, count, batch_size=size, batch_wait_s=wait_s, batch_cost=cost)
        for name, service, count, size in zip(
            names[1:], seconds[1:], servers, batch_sizes, strict=True
        )
    ]
    links = [
        Link(
            f"{sender} to {receiver} ({name})",
            link.up_bit_per_s,
            link.down_bit_per_s,
            link.delay_s,
            0.0,
            link.max_payload_bytes,
            hardware.fragments,
        )
        for sender, receiver, name in zip(names, names[1:], hardware.links, strict=False)
        for link in (profiles.link(name),)
    ]
    device = profiles.device(hardware.devices[0])
    power = (
        Power(device.idle_w, device.active_w)
        if device.idle_w is not None and device.active_w is not None
        else None
    )
    radio = profiles.radio(hardware.radio) if hardware.radio else None
    return System(
        tuple(tiers),
        tuple(links),
        power,
        Radio(radio.transmit_w, radio.receive_w, radio.idle_w, radio.tails) if radio else None,
        answer_bytes=hardware.answer_bytes,
        on_failure=deployment.on_failure,
        max_attempts=deployment.max_attempts,
    )


def faults_of(deployment: DeploymentConfig, tiers: Sequence[str]) -> tuple[Fault, ...]:
    """Returns the configured faults."""
    return tuple(_fault(fault, tiers.index(fault.tier)) for fault in deployment.faults)


def _fault(fault: DeploymentFaultConfig, number: int) -> Fault:
    if fault.kind == "loss":
        return Loss(number, fault.probability, fault.burst, fault.timeout_ms / MS)
    if fault.kind == "slow":
        return Slow(number, tuple(fault.times_s or ()), tuple(fault.factors or ()))
    assert fault.end_s is not None
    return (Outage if fault.kind == "outage" else Crash)(number, fault.start_s, fault.end_s)
