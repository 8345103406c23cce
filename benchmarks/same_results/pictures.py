"""Generated pictures in folders, for cases that read a data set from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 3
SIDE = 32
TRAIN_A_CLASS = 32
TEST_A_CLASS = 12
CLIENTS = 3


def write_pictures(folder: Path, layout: str) -> None:
    """Writes pictures whose class is the place of a bright square in noise.

    Args:
        folder: Gets test/CLASS/*, and train/CLASS/* or clients/NAME/CLASS/*.
        layout: `classes` or `clients`.
    """
    rng = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        for number in range(TEST_A_CLASS):
            _write(folder / "test" / f"class_{label}" / f"{number:03d}.png", label, rng)
        for number in range(TRAIN_A_CLASS):
            # With a client each for as many, and some more of its own class for each.
            client = number % CLIENTS if number < TRAIN_A_CLASS // 2 else label
            top = "train" if layout == "classes" else f"clients/client_{client}"
            _write(folder / top / f"class_{label}" / f"{number:03d}.png", label, rng)


def _write(path: Path, label: int, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 120, size=(SIDE, SIDE, 3), dtype=np.uint8)
    left = 4 + 8 * label
    pixels[10:20, left : left + 8] += 110
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
