"""Images in memory: unsigned bytes, once, shared by all clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.data.augmentation import Normalisation


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one split.

    Attributes:
        images: (N, H, W, C) uint8, usually memory-mapped from the cache; (0, H, W, C) on a server
            whose nodes keep them.
        labels: (N,) int64 in [0, num_classes).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_bytes(self) -> int:
        """Bytes of one raw image."""
        return int(np.prod(self.images.shape[1:]))


@dataclass(frozen=True)
class Dataset:
    """A data set with its two splits.

    Attributes:
        name: `cifar10`, `synthetic` or the folder's name.
        source: Where the images came from, for the report.
        class_names: One name a class.
        train: Dealt to the clients.
        test: Only ever for the report.
        synthetic: Whether the images are generated.
        content_hash: Hex digest that identifies the content.
        client_sizes: Training images of each client, where each has its own: `train` holds them one
            client after the other.
        normalisation: Channel means and deviations; constants, since no client may see all images.
        warnings: What a reader of any result must know.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    synthetic: bool
    content_hash: str
    client_sizes: tuple[int, ...] | None = None
    normalisation: Normalisation = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    warnings: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)
