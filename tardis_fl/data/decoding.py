"""Compressed images to arrays, with the place named where one can't be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from tardis_fl.errors import DataError


def decode_images(
    blobs: Sequence[bytes | str], *, size: int, resize: bool, places: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """Decodes images to RGB.

    Args:
        blobs: Encoded bytes, or paths, one an image.
        size: Side of the result in pixels.
        resize: Scale images of another size; otherwise they are refused.
        places: What to call each image in an error.

    Returns:
        (N, size, size, 3) uint8.

    Raises:
        DataError: Names the first image that can't be decoded, and how many there are.
    """
    images = np.empty((len(blobs), size, size, 3), dtype=np.uint8)

    def decode(index: int) -> str | None:
        blob = blobs[index]
        try:
            with Image.open(io.BytesIO(blob) if isinstance(blob, bytes) else blob) as image:
                rgb = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
            return f"{places[index]}: not a readable image ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        if rgb.size != (size, size):
            if not resize:
                return f"{places[index]}: got {rgb.width}x{rgb.height} pixels, wanted {size}x{size}"
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
        images[index] = np.asarray(rgb)
        return None

    with ThreadPoolExecutor() as pool:
        failures = [
            failure for failure in pool.map(decode, range(len(blobs)), chunksize=256) if failure
        ]
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise DataError(f"{failures[0]}{more}; replace the file")
    return images
