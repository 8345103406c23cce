"""The three kinds of profiles.

Units are in the names: bits, bytes, seconds, watts; FLOP are 2 a multiply-accumulate.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOP_PER_MAC = 2


@dataclass(frozen=True)
class DeviceProfile:
    """What a machine computes, and what power it takes.

    Attributes:
        dense_flop_per_s: Floating-point operations a second in dense convolutions.
        depthwise_flop_per_s: The same in depthwise separable ones.
        idle_w: Power when nothing runs; None: not known.
        active_w: Power when all cores compute; None: not known.
        source: Where the figures are from.
    """

    dense_flop_per_s: float
    depthwise_flop_per_s: float
    idle_w: float | None = None
    active_w: float | None = None
    source: str = ""

    def seconds(self, macs: float, *, depthwise: bool = False) -> float:
        """Returns how long so many multiply-accumulates take."""
        return (
            FLOP_PER_MAC
            * macs
            / (self.depthwise_flop_per_s if depthwise else self.dense_flop_per_s)
        )


@dataclass(frozen=True)
class LinkProfile:
    """What a link carries.

    Attributes:
        up_bit_per_s: Away from the device.
        down_bit_per_s: To the device.
        delay_s: One way.
        max_payload_bytes: The largest message of one frame; None: no limit.
        source: Where the figures are from.
    """

    up_bit_per_s: float
    down_bit_per_s: float
    delay_s: float
    max_payload_bytes: int | None = None
    source: str = ""


@dataclass(frozen=True)
class RadioProfile:
    """What power a device's radio takes.

    Attributes:
        transmit_w: While it sends.
        receive_w: While it receives.
        idle_w: Otherwise.
        tails: Power (W) and length (s) of the states after each activity, in their order.
        source: Where the figures are from.
    """

    transmit_w: float
    receive_w: float
    idle_w: float
    tails: tuple[tuple[float, float], ...] = ()
    source: str = ""
