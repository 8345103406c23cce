"""What a picture itself costs on the wire: the alternative to sending features."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def raw_bytes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Returns the bytes of each image (N, H, W, C) as it is: (N,)."""
    return np.full(len(images), int(np.prod(images.shape[1:])), np.int64)


def png_bytes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Returns the bytes of each image as a PNG file of its own, as Pillow writes it by default: (N,).

    Args:
        images: (N, H, W, C) with C 1 (grey) or 3 (colour).

    Raises:
        ValueError: The images aren't unsigned bytes of this shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"images: got {images.dtype} of shape {images.shape}; wanted uint8 (N, H, W, 1) or (N, H, W, 3)"
        )
    return np.fromiter((_png_size(image) for image in images), np.int64, len(images))


def _png_size(image: npt.NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(
        file, "PNG", optimize=False
    )
    return file.tell()
