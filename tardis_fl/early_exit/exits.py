"""Exit heads: small classifiers that adapt to a segment's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Layout = Literal["flat", "maps", "positions"]
"""Where the channels are: (D,), (C, ...) first, as convolutions have them, or (..., C) last, as
tokens have them."""


def pooled_exit(channels: int, num_classes: int, hidden: int = 0) -> nn.Sequential:
    """Builds global average pooling and a linear classifier, with a hidden layer where `hidden` is above 0.

    Takes features (B, channels, H, W) and gives logits (B, num_classes). Pooling keeps the head
    small at any
    resolution: a head that flattens can outgrow its segment a hundredfold (Flatten and Linear 512
        on VGG19's `features[:7]` has 16.8 M parameters against 112,576 in the segment).
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_classifier(channels, num_classes, hidden)
    )


def adaptive_exit(
    feature_shape: Sequence[int], num_classes: int, *, hidden: int = 0, layout: Layout | None = None
) -> nn.Sequential:
    """Builds an exit for features of any of the usual forms.

    Args:
        feature_shape: Of one sample: (D,), (C, L), (C, H, W), tokens (N, D) or maps with channels
            last (H, W, C).
        num_classes: Logits.
        hidden: Units of a hidden layer, 0 for none.
        layout: Where the channels are; None: `guess_layout`.

    Returns:
        Averaging over positions, with a layer norm first where channels come last (as in
        transformers), and a classifier.

    Raises:
        ValueError: Features without any dimension have no channels to classify by.
    """
    if not feature_shape:
        raise ValueError(
            "features of one sample have no dimension; an exit wants (D,), (C, H, W), (N, D) or (H, W, C)"
        )
    layout = layout or guess_layout(feature_shape)
    if layout == "flat":
        return nn.Sequential(*_classifier(feature_shape[0], num_classes, hidden))
    if layout == "positions":
        return nn.Sequential(
            nn.LayerNorm(feature_shape[-1]),
            MeanOverPositions(),
            *_classifier(feature_shape[-1], num_classes, hidden),
        )
    if len(feature_shape) == 3:
        return pooled_exit(feature_shape[0], num_classes, hidden)
    return nn.Sequential(
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        *_classifier(feature_shape[0], num_classes, hidden),
    )


def guess_layout(feature_shape: Sequence[int], input_shape: Sequence[int] = ()) -> Layout:
    """Tells where the channels of one sample's features are, from shapes alone.

    (C, H, W) and (H, W, C) differ in which two sides have the proportions of the image; where that
    doesn't tell, channels come first. Two dimensions are tokens (N, D) in a network for images, and
    (C, L) in one whose input `input_shape` is itself (C, L).
    """
    if len(feature_shape) == 1:
        return "flat"
    if len(feature_shape) == 2:
        return "maps" if len(input_shape) == 2 else "positions"
    height, width = input_shape[-2:] if len(input_shape) >= 2 else (1, 1)
    first, second, third = feature_shape[-3:]
    channels_first, channels_last = (
        second * width == third * height,
        first * width == second * height,
    )
    return "positions" if channels_last and not channels_first else "maps"


class MeanOverPositions(nn.Module):
    """Averages features (B, ..., C) over all positions to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, ..., C) to (B, C)."""
        return x.flatten(1, -2).mean(1)


def _classifier(channels: int, num_classes: int, hidden: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Linear(channels, hidden), nn.ReLU()] if hidden else []
    return [*layers, nn.Linear(hidden or channels, num_classes)]
