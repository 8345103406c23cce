"""What devices compute and links carry: figures with their sources, for clocks that aren't this machine's.

Devices: effective rates, 2 x MACs over the measured time of one inference with 4 threads, from the table of the ncnn
benchmark (Tencent/ncnn, benchmark/README.md, commit a4d2ea1): ResNet-18 (1.82 GMAC) for dense convolutions,
MobileNet-v2 (0.30 GMAC) for depthwise ones, which run 2 to 4 times slower. The microcontroller: MLPerf Tiny v0.5,
ResNet-8 on CIFAR-10. Links: throttling profiles of Firefox's developer tools (1024-based), the slow-4g of Lighthouse
and the 2024 report of Ookla.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceName = Literal["mcu-stm32l4r5", "rpi-zero-2w", "rpi-3b+", "rpi-4b", "rpi-5", "jetson-nano", "jetson-orin-nano", "phone-855+", "phone-8-gen-2", "xeon-8"]
LinkName = Literal["gprs", "2g", "3g", "good-3g", "4g", "slow-4g", "5g-us-2024", "dsl", "wifi"]

KBIT = 1024.0
MBIT = 1024.0 * KBIT


@dataclass(frozen=True)
class DeviceProfile:
    """What a device computes.

    Attributes:
        dense_flop_per_s: Floating-point operations a second in dense convolutions, 2 a multiply-accumulate.
        depthwise_flop_per_s: The same in depthwise separable ones.
    """

    dense_flop_per_s: float
    depthwise_flop_per_s: float


@dataclass(frozen=True)
class LinkProfile:
    """What a link carries.

    Attributes:
        up_bit_per_s: From the device.
        down_bit_per_s: To the device.
        delay_s: One way.
    """

    up_bit_per_s: float
    down_bit_per_s: float
    delay_s: float


DEVICES: dict[DeviceName, DeviceProfile] = {
    "mcu-stm32l4r5": DeviceProfile(0.0355e9, 0.0355e9),
    "rpi-zero-2w": DeviceProfile(10.3e9, 4.1e9),
    "rpi-3b+": DeviceProfile(13.4e9, 5.4e9),
    "rpi-4b": DeviceProfile(29.6e9, 9.7e9),
    "rpi-5": DeviceProfile(182e9, 57e9),
    "jetson-nano": DeviceProfile(43.6e9, 17.8e9),
    "jetson-orin-nano": DeviceProfile(241e9, 92e9),
    "phone-855+": DeviceProfile(352e9, 129e9),
    "phone-8-gen-2": DeviceProfile(549e9, 186e9),
    "xeon-8": DeviceProfile(543e9, 139e9),
}

LINKS: dict[LinkName, LinkProfile] = {
    "gprs": LinkProfile(20 * KBIT, 50 * KBIT, 0.5),
    "2g": LinkProfile(50 * KBIT, 250 * KBIT, 0.3),
    "3g": LinkProfile(250 * KBIT, 750 * KBIT, 0.1),
    "good-3g": LinkProfile(750 * KBIT, 1.5 * MBIT, 0.04),
    "4g": LinkProfile(3 * MBIT, 4 * MBIT, 0.02),
    "slow-4g": LinkProfile(750e3, 1.6e6, 0.075),
    "5g-us-2024": LinkProfile(14.56e6, 208e6, 0.0235),
    "dsl": LinkProfile(1 * MBIT, 2 * MBIT, 0.005),
    "wifi": LinkProfile(15 * MBIT, 30 * MBIT, 0.002),
}
