"""Faults on purpose: drawn from the seed and done to real messages.

The code that handles them is the code that handles real failures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tardis_fl.config.federation import FaultConfig
from tardis_fl.core.randomness import Purpose, numpy_generator, torch_generator
from tardis_fl.federation.transport.weights import Flat

DAMAGE = {"explode", "garbage", "nan", "wrong_shape", "missing_segment"}
DEFAULT_FACTORS = {"straggler": 10.0, "explode": 1e6, "garbage": 10.0}


class InjectedCrashError(RuntimeError):
    """The error of the fault `crash`."""


@dataclass(frozen=True)
class Faults:
    """The faults of a run.

    Attributes:
        entries: As configured.
        seed: The run's seed.
    """

    entries: tuple[FaultConfig, ...]
    seed: int

    def strike(self, round_number: int, client: int) -> dict[str, float]:
        """Returns the kinds of fault that hit a client in a round, with their factors.

        A kind without a factor has 1.
        """
        found: dict[str, float] = {}
        for number, fault in enumerate(self.entries):
            if fault.clients is not None and client not in fault.clients:
                continue
            if fault.rounds is not None and not fault.rounds[0] <= round_number <= fault.rounds[1]:
                continue
            if fault.probability < 1:
                generator = numpy_generator(self.seed, Purpose.FAULTS, round_number, client, number)
                if generator.random() >= fault.probability:
                    continue
            found[fault.kind] = fault.factor or DEFAULT_FACTORS.get(fault.kind, 1.0)
        return found

    def damage(
        self,
        update: Flat,
        start: Callable[[], Flat],
        parameters: Mapping[str, Tensor],
        *,
        round_number: int,
        client: int,
    ) -> Flat:
        """Does to an update what was drawn for this client and round.

        Args:
            update: New weights, flat.
            start: Returns the weights that the client began with.
            parameters: Masks of parameters, by key (`HeldWeights.parameters`).
            round_number: The round.
            client: The client.

        Raises:
            InjectedCrashError: The fault is a crash.
        """
        kinds = self.strike(round_number, client)
        if "crash" in kinds:
            raise InjectedCrashError("the client crashed (federation.faults)")
        if not kinds.keys() & DAMAGE:
            return update
        damaged = dict(update)
        reference = start()
        changed = [key for key in update if key in parameters]
        if "explode" in kinds:
            damaged |= {
                key: reference[key]
                + kinds["explode"] * (update[key] - reference[key]) * parameters[key]
                for key in changed
            }
        if "garbage" in kinds:
            generator = torch_generator(
                self.seed, Purpose.FAULTS, round_number, client, len(self.entries)
            )
            noise = {
                key: torch.randn(update[key].shape, generator=generator) * parameters[key]
                for key in changed
            }
            length = _norm((update[key] - reference[key]) * parameters[key] for key in changed)
            scale = kinds["garbage"] * length / _norm(noise.values())
            damaged |= {key: reference[key] + scale * noise[key] for key in changed}
        if "nan" in kinds:
            damaged[changed[0]] = torch.full_like(update[changed[0]], float("nan"))
        if "wrong_shape" in kinds:
            damaged[changed[0]] = update[changed[0]][:-1]
        if "missing_segment" in kinds:
            last = max(int(key.split(".")[0]) for key in damaged)
            damaged = {
                key: values for key, values in damaged.items() if int(key.split(".")[0]) < last
            }
        return damaged


def _norm(tensors: Iterable[Tensor]) -> float:
    """Returns the Euclidean norm of all numbers together, in float64."""
    return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())
