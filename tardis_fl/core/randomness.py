"""Where every random number comes from: `(seed, purpose, round, client)`.

No result depends on a global generator, so a result depends neither on
the order of clients nor on the engine or the number of workers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What a stream of random numbers is for. Values are part of a seed's meaning: append only."""

    PARTITION = 1
    HOLD_OUT = 2
    INITIAL_WEIGHTS = 3
    SELECTION = 4
    LOCAL_TRAINING = 5
    FEATURE_VIEW = 6
    SERVER_SHUFFLE = 7
    SYNTHETIC_DATA = 9
    SUBSET = 10
    REFERENCE = 11
    GROUPS = 12
    AVAILABILITY = 13
    FAULTS = 14
    PROXY = 15
    STATISTICS = 16
    SPLIT_VIEW = 17
    MIXING = 24
    LOAD = 25
    PRIVACY = 26
    FEATURE_NOISE = 27


def seed_sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """Returns the seed sequence of one purpose; `key` is usually (round, client)."""
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))


def numpy_generator(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Returns a NumPy generator of its own for `(seed, purpose, *key)`."""
    return np.random.default_rng(seed_sequence(seed, purpose, *key))


def integer_seed(seed: int, purpose: Purpose, *key: int) -> int:
    """Returns 63 bits for a library that wants one integer as its seed."""
    return _integer(seed_sequence(seed, purpose, *key))


def integer_seed_of(generator: np.random.Generator) -> int:
    """Returns 63 bits that depend on what a generator was seeded with, not on what it has drawn.

    For a library that wants an integer, inside a function that is given a generator: of
    `numpy_generator(...)` it is the `integer_seed(...)` of the same arguments.
    """
    sequence = generator.bit_generator.seed_seq
    assert isinstance(sequence, np.random.SeedSequence)
    return _integer(sequence)


def _integer(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(seed: int, purpose: Purpose, *key: int) -> torch.Generator:
    """Returns a CPU `torch.Generator` of its own for `(seed, purpose, *key)`."""
    import torch

    return torch.Generator().manual_seed(integer_seed(seed, purpose, *key))
