"""Generated images: ten classes, easy and hard samples, the same on every machine.

A class is one of five shapes, filled or striped. An easy sample also has its class's tint in the
background, which a shallow segment sees at once; a hard one is grey and noisier, so only its
shape and filling tell, and they are larger than a shallow segment's receptive field.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tardis_fl.core.randomness import Purpose, numpy_generator
from tardis_fl.data.cache import Arrays, cached_arrays, key_of
from tardis_fl.data.images import Dataset, ImageSet

SHAPES = ("disc", "square", "triangle", "cross", "ring")
FILLINGS = ("solid", "striped")
CLASS_NAMES = tuple(f"{filling} {shape}" for filling in FILLINGS for shape in SHAPES)
SIZE = 32
DATA_SEED = 20  # the data set is one: a run's seed deals it, and doesn't draw it
VERSION = 1
SPLIT_KEYS = {"train": 0, "test": 1}


def load_synthetic(cache: Path, *, num_train: int, num_test: int, hard_fraction: float) -> Dataset:
    """Loads the generated data set, drawing it where the cache doesn't hold it."""
    sizes = {"train": num_train, "test": num_test}
    key = key_of("synthetic", VERSION, sizes, hard_fraction)

    def make() -> Arrays:
        arrays: Arrays = {}
        for split, count in sizes.items():
            images, labels = draw(
                count,
                hard_fraction,
                numpy_generator(DATA_SEED, Purpose.SYNTHETIC_DATA, SPLIT_KEYS[split]),
            )
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
        return arrays

    arrays = cached_arrays(cache, key, make)
    train, test = (
        ImageSet(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in sizes
    )  # type: ignore[arg-type]
    return Dataset(
        "synthetic",
        f"generated, {hard_fraction:.0%} hard samples",
        CLASS_NAMES,
        train,
        test,
        synthetic=True,
        content_hash=key,
    )


def draw(
    count: int, hard_fraction: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draws `count` samples.

    Returns:
        Images (count, 32, 32, 3) uint8 and labels (count,) int64, classes in equal numbers up to
        one.
    """
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASS_NAMES))
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for start in range(0, count, 1000):
        chunk = slice(start, min(start + 1000, count))
        images[chunk] = _draw_chunk(labels[chunk], hard_fraction, rng)
    return images, labels


def _draw_chunk(
    labels: npt.NDArray[np.int64], hard_fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    n = len(labels)
    hard = rng.random(n) < hard_fraction
    radius = rng.uniform(8.0, 12.0, n)[:, None, None]
    centre = rng.uniform(12.0, 20.0, (2, n, 1, 1))
    angle = rng.uniform(-0.3, 0.3, n)[:, None, None]
    y, x = np.mgrid[0:SIZE, 0:SIZE][:, None] - centre  # (N, H, W) each, from the shape's centre
    u, v = (
        (x * np.cos(angle) - y * np.sin(angle)) / radius,
        (x * np.sin(angle) + y * np.cos(angle)) / radius,
    )
    r, low, high = np.hypot(u, v), np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    masks = np.stack(
        [
            r < 0.9,
            high < 0.8,
            (v > -0.8) & (v < 0.8) & (abs(u) < 0.6 * (v + 0.8)),
            (low < 0.3) & (high < 1.0),
            (r < 1.0) & (r > 0.6),
        ]
    )
    mask = masks[labels % len(SHAPES), np.arange(n)]  # (N, H, W)
    stripes = 0.5 + 0.5 * np.sign(
        np.sin(u * radius * (2 * np.pi / 4.5) + rng.uniform(0, 2 * np.pi, n)[:, None, None])
    )
    filling = np.where((labels // len(SHAPES))[:, None, None] == 1, stripes, 1.0)

    tints = np.array(
        [colorsys.hsv_to_rgb(k / len(CLASS_NAMES), 0.5, 0.5) for k in range(len(CLASS_NAMES))]
    )  # (classes, 3)
    grey = rng.uniform(0.3, 0.5, (n, 1)) * np.ones(3)
    background = np.where(hard[:, None], grey, tints[labels])[:, None, None, :]
    colour = rng.uniform(0.6, 1.0, (n, 1, 1, 3))
    alpha = (mask * filling)[..., None]
    noise = (
        rng.normal(0.0, 1.0, (n, SIZE, SIZE, 3)) * np.where(hard, 0.14, 0.08)[:, None, None, None]
    )
    return np.clip((background * (1 - alpha) + colour * alpha + noise) * 255, 0, 255).astype(
        np.uint8
    )
