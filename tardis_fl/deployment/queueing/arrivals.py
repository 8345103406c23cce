"""When requests come: open loop, whatever the system makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tardis_fl.errors import ConfigError

Floats = npt.NDArray[np.float64]
Devices = npt.NDArray[np.int32]


class Arrivals(Protocol):
    """A way in which the requests of a number of devices come."""

    def mean_rate(self, num_devices: int) -> float:
        """Returns the mean requests a second and device."""

    def draw(
        self, num_requests: int, num_devices: int, rng: np.random.Generator
    ) -> tuple[Floats, Devices]:
        """Returns intended send times (N,), ascending, and the device of each."""


def _checked(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"arrivals: got {name} {value}; wanted a finite number above 0")


@dataclass(frozen=True)
class Poisson:
    """Independent requests: exponential times between those of a device."""

    rate: float

    def __post_init__(self) -> None:
        _checked("the rate", self.rate)

    def mean_rate(self, num_devices: int) -> float:
        """Returns the rate."""
        return self.rate

    def draw(
        self, num_requests: int, num_devices: int, rng: np.random.Generator
    ) -> tuple[Floats, Devices]:
        """Draws the superposition of all devices, which is Poisson too, with the device of each request drawn evenly."""
        times = rng.standard_exponential(num_requests)
        times /= self.rate * num_devices
        np.cumsum(times, out=times)
        return times, rng.integers(0, num_devices, num_requests, dtype=np.int32)


@dataclass(frozen=True)
class Bursty:
    """Poisson in bursts and silent between, both of exponential length (an interrupted Poisson process, Kuczura 1973).

    Attributes:
        burst_rate: Requests a second and device within a burst.
        on_s: Mean length of a burst.
        off_s: Mean silence.
    """

    burst_rate: float
    on_s: float
    off_s: float

    def __post_init__(self) -> None:
        for name, value in (
            ("the rate", self.burst_rate),
            ("a mean burst of", self.on_s),
            ("a mean silence of", self.off_s),
        ):
            _checked(name, value)

    def mean_rate(self, num_devices: int) -> float:
        """Returns the mean requests a second and device, silences included."""
        return self.burst_rate * self.on_s / (self.on_s + self.off_s)

    def draw(
        self, num_requests: int, num_devices: int, rng: np.random.Generator
    ) -> tuple[Floats, Devices]:
        horizon = 1.1 * num_requests / (self.mean_rate(num_devices) * num_devices) + 5 * (
            self.on_s + self.off_s
        )
        while True:
            parts = [self._one(horizon, rng) for _ in range(num_devices)]
            times, devices = (
                np.concatenate(parts),
                np.repeat(np.arange(num_devices, dtype=np.int32), [len(part) for part in parts]),
            )
            if len(times) >= num_requests:
                order = np.argsort(times, kind="stable")[:num_requests]
                return times[order], devices[order]
            horizon *= 2

    def _one(self, horizon: float, rng: np.random.Generator) -> Floats:
        """Draws one device's requests up to the horizon: Poisson in the time that counts its bursts only, then silences put between."""
        silent_first = rng.random() < self.off_s / (self.on_s + self.off_s)
        count = max(8, math.ceil(1.5 * horizon / (self.on_s + self.off_s)) + 10)
        bursts, silences = rng.exponential(self.on_s, count), rng.exponential(self.off_s, count)
        if not silent_first:
            silences[0] = 0.0
        while bursts.sum() + silences.sum() < horizon:
            bursts, silences = (
                np.append(bursts, rng.exponential(self.on_s, count)),
                np.append(silences, rng.exponential(self.off_s, count)),
            )
        ends = np.cumsum(bursts)
        gaps = (
            rng.standard_exponential(
                math.ceil(
                    self.burst_rate * ends[-1] + 6 * math.sqrt(self.burst_rate * ends[-1]) + 20
                )
            )
            / self.burst_rate
        )
        inside = np.cumsum(gaps)
        inside = inside[inside < ends[-1]]
        times = inside + np.cumsum(silences)[np.searchsorted(ends, inside, side="right")]
        return times[times < horizon]


@dataclass(frozen=True)
class Periodic:
    """Requests at equal times, each device with a phase of its own, drawn by the seed."""

    rate: float

    def __post_init__(self) -> None:
        _checked("the rate", self.rate)

    def mean_rate(self, num_devices: int) -> float:
        """Returns the rate."""
        return self.rate

    def draw(
        self, num_requests: int, num_devices: int, rng: np.random.Generator
    ) -> tuple[Floats, Devices]:
        phases = rng.random(num_devices) / self.rate
        order = np.argsort(phases, kind="stable")
        cycles = -(-num_requests // num_devices)
        times = (np.arange(cycles)[:, None] / self.rate + phases[order]).ravel()[:num_requests]
        return times, np.tile(order.astype(np.int32), cycles)[:num_requests]


@dataclass(frozen=True)
class Trace:
    """Requests as they were recorded.

    Attributes:
        times: (N,) ascending, in seconds.
        devices: (N,) the device of each; None: in turn.
    """

    times: Floats
    devices: Devices | None = None

    def mean_rate(self, num_devices: int) -> float:
        """Returns the requests a second and device over the time that was recorded; 0 where all came at once."""
        span = float(self.times[-1] - self.times[0])
        return (len(self.times) - 1) / span / num_devices if span > 0 else 0.0

    def draw(
        self, num_requests: int, num_devices: int, rng: np.random.Generator
    ) -> tuple[Floats, Devices]:
        """Returns the recorded requests, as many as there are and at most so many; `rng` isn't used."""
        times = self.times[:num_requests]
        if self.devices is None:
            return times, (np.arange(len(times)) % num_devices).astype(np.int32)
        devices = self.devices[:num_requests]
        if int(devices.max()) >= num_devices:
            raise ConfigError(
                f"trace: names the device {int(devices.max())}; there are {num_devices}, from 0 on"
            )
        return times, devices

    @classmethod
    def read(cls, path: Path, most: int | None = None) -> Trace:
        """Reads a file with one request a line: seconds, or seconds,device.

        Args:
            path: The file.
            most: Requests to read; None: all.

        Raises:
            ConfigError: The file can't be read, a line is no request, or time goes back; with the
                line's number.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: can't be read ({error})") from None
        times: list[float] = []
        devices: list[int] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            first, _, second = line.partition(",")
            try:
                time, device = float(first), int(second) if second.strip() else -1
            except ValueError:
                raise ConfigError(
                    f"{path}: line {number}: got {line.strip()!r}; wanted seconds, or seconds,device"
                ) from None
            if not 0 <= time < math.inf:
                raise ConfigError(
                    f"{path}: line {number}: got the time {first.strip()}; wanted a finite number of seconds, at least 0"
                )
            if times and time < times[-1]:
                raise ConfigError(
                    f"{path}: line {number}: time goes back, from {times[-1]:g} to {time:g} s; wanted ascending times"
                )
            if times and (device < 0) != (devices[-1] < 0):
                raise ConfigError(
                    f"{path}: line {number}: wanted a device in every line, or in none"
                )
            times.append(time)
            devices.append(device)
            if len(times) == most:
                break
        if not times:
            raise ConfigError(f"{path}: holds no requests; wanted one a line")
        return cls(
            np.asarray(times), np.asarray(devices, dtype=np.int32) if devices[0] >= 0 else None
        )
