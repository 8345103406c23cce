"""Networks for small square images, one family a file; `build_network` cuts them into segments with exits."""

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.building import build_backbone, build_network
from tardis_fl.early_exit.backbones.registry import BUILDERS

__all__ = ["BUILDERS", "Backbone", "BackboneOptions", "build_backbone", "build_network"]
