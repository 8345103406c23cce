"""What a builder takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from tardis_fl.early_exit.backbones.layers import Norm


@dataclass(frozen=True)
class BackboneOptions:
    """What a builder may take into account; the catalogue says which backbones heed `width` and `norm`.

    Attributes:
        num_classes: Logits.
        width: Scales all channels.
        norm: Norm layer after convolutions.
        image_size: Side of the square RGB images in pixels.
        exit_hidden: Hidden units of the backbone's own exits.
    """

    num_classes: int
    width: int = 32
    norm: Norm = "batch"
    image_size: int = 32
    exit_hidden: int = 0


@dataclass(frozen=True)
class Backbone:
    """A plain classifier and the exits that its paper, or its design, puts on it.

    Attributes:
        network: Named children in order, each a possible cut; the last one, `head`, gives logits
            (B, num_classes).
        exits: Exits by the name of the child whose features they read; other cuts get an adaptive
            exit.
    """

    network: nn.Sequential
    exits: Mapping[str, nn.Module] = field(default_factory=dict)
