"""A request that waits for nobody: its latency and the device's energy for it, by the tier that answers."""

from __future__ import annotations

from collections.abc import Sequence

from tardis_fl.deployment.queueing.system import System


def no_load_latency(
    system: System, tier: int, bytes_up: Sequence[float], *, first: int = 0
) -> float:
    """Returns the seconds from sending a request to its answer's arrival, where nothing else is under way and nothing is lost.

    Args:
        system: Jitter counts with its mean.
        tier: That answers.
        bytes_up: Of the message over each boundary.
        first: The first tier that computes; those before it pass on what comes.
    """
    forward = sum(
        link.delay_s + link.jitter_s / 2 + 8 * size / link.up_bit_per_s
        for link, size in zip(system.links[:tier], bytes_up, strict=False)
    )
    return (
        sum(part.service_s for part in system.tiers[first : tier + 1])
        + forward
        + system.back_s(tier)
    )


def no_load_energy(
    system: System, tier: int, bytes_up: Sequence[float], *, first: int = 0
) -> float | None:
    """Returns the joules that the device uses from a request to its answer: computing, waiting, sending, receiving, and the radio's tails after each activity.

    The tails count as far as they fit between sending and receiving, and whole after that. None
    where the device's power isn't known.
    """
    if system.power is None:
        return None
    wall, compute = (
        no_load_latency(system, tier, bytes_up, first=first),
        0.0 if first else system.tiers[0].service_s,
    )
    joules = system.power.idle_w * wall + (system.power.active_w - system.power.idle_w) * compute
    radio = system.radio
    if radio is None:
        return joules
    joules += radio.idle_w * wall
    if tier == 0:
        return joules
    send, receive = (
        8 * bytes_up[0] / system.links[0].up_bit_per_s,
        8 * system.answer_bytes / system.links[0].down_bit_per_s,
    )
    joules += send * (radio.transmit_w - radio.idle_w) + receive * (radio.receive_w - radio.idle_w)
    between = wall - compute - send - receive
    for power, length in radio.tails:
        joules += min(length, max(between, 0.0)) * (power - radio.idle_w) + length * power
        between -= length
    return joules
