"""Crops and flips on whole batches agree with the obvious loop."""

from __future__ import annotations

import torch

from tardis_fl.data.augmentation import PADDING, Normalisation, crop_and_flip


def slow_crop_and_flip(images, generator):
    count, height, width, channels = images.shape
    top = torch.randint(0, 2 * PADDING + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * PADDING + 1, (count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    out = torch.zeros_like(images)
    for n in range(count):
        for y in range(height):
            for x in range(width):
                source_y = y + int(top[n]) - PADDING
                source_x = (width - 1 - x if mirrored[n] else x) + int(left[n]) - PADDING
                if 0 <= source_y < height and 0 <= source_x < width:
                    out[n, y, x] = images[n, source_y, source_x]
    return out


def test_batched_crops_and_flips_equal_the_loop():
    images = torch.randint(1, 256, (6, 9, 7, 3), dtype=torch.uint8)
    fast, slow = (
        function(images, torch.Generator().manual_seed(5))
        for function in (crop_and_flip, slow_crop_and_flip)
    )
    assert torch.equal(fast, slow)


def test_the_generator_alone_decides():
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    first, again, other = (
        crop_and_flip(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_normalisation_gives_channels_last_maps_with_the_stated_moments():
    images = torch.full((2, 4, 4, 3), 128, dtype=torch.uint8)
    x = Normalisation((128 / 255, 0.0, 1.0), (1.0, 0.5, 1.0))(images)
    assert x.shape == (2, 3, 4, 4)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0.0, 2 * 128 / 255, 128 / 255 - 1]))
