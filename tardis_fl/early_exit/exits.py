"""Exit heads: small classifiers on a segment's features."""

from __future__ import annotations

from torch import nn


def pooled_exit(channels: int, num_classes: int, hidden: int = 0) -> nn.Sequential:
    """Builds global average pooling and a linear classifier, with a hidden layer where `hidden` is above 0.

    Takes features (B, channels, H, W) and gives logits (B, num_classes). Pooling keeps the head small at any
    resolution: a head that flattens can outgrow its segment a hundredfold (Flatten and Linear 512 on VGG19's
    `features[:7]` has 16.8 M parameters against 112,576 in the segment).
    """
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if hidden:
        layers += [nn.Linear(channels, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden or channels, num_classes))
