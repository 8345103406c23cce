"""Batches of bytes to network input, with random crops and flips drawn by a generator of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = 4  # pixels on each side, He et al. 2016, section 4.2


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, in [0, 1]."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Maps bytes (B, H, W, C) to normalised floats (B, C, H, W) in channels-last memory order."""
        mean, deviation = (
            (torch.tensor(values) * 255).to(images.device) for values in (self.mean, self.deviation)
        )
        return images.float().sub_(mean).div_(deviation).permute(0, 3, 1, 2)


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to 4 pixels, black beyond its border, and mirrors half of them.

    Args:
        images: (B, H, W, C) uint8, on any device.
        generator: Source of the draws, on the CPU, so that every device sees the same views.

    Returns:
        (B, H, W, C) uint8.
    """
    count, height, width, channels = images.shape
    down, right, mirrored = _draw(count, generator)
    padded = images.new_zeros(count, height + 2 * PADDING, width + 2 * PADDING, channels)
    padded[:, PADDING : PADDING + height, PADDING : PADDING + width] = images
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns, samples = (
        positions.to(images.device) for positions in (rows, columns, torch.arange(count))
    )
    return padded[samples[:, None, None], rows[:, :, None], columns[:, None, :]]


def skip_draws(count: int, generator: torch.Generator) -> None:
    """Draws what `crop_and_flip` would for so many images, so that those after them get their own views."""
    _draw(count, generator)


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns how far each image is shifted down and right, from 0, and whether it is mirrored, all (B, 1)."""
    down, right = (
        torch.randint(0, 2 * PADDING + 1, (count, 1), generator=generator) for _ in range(2)
    )
    return down, right, torch.rand(count, 1, generator=generator) < 0.5
