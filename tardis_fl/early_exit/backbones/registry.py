"""Which builder makes which registered backbone; `catalogue.py` says what is known of each without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tardis_fl.early_exit.backbones.alexnet import b_alexnet
from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.mobilenet import mobilenet_v2
from tardis_fl.early_exit.backbones.resnet import resnet
from tardis_fl.early_exit.backbones.simple_cnn import simple_cnn
from tardis_fl.early_exit.backbones.small_resnet import small_resnet
from tardis_fl.early_exit.backbones.vgg import vgg
from tardis_fl.early_exit.backbones.vit import vit_tiny

VGG11, VGG16, VGG19 = (1, 1, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # configurations A, D and E

BUILDERS: dict[str, Callable[[BackboneOptions], Backbone]] = {
    "small_resnet": small_resnet,
    "resnet8": partial(resnet, blocks_per_stage=1),
    "resnet20": partial(resnet, blocks_per_stage=3),
    "resnet56": partial(resnet, blocks_per_stage=9),
    "vgg11": partial(vgg, convolutions=VGG11, with_norm=False),
    "vgg11_bn": partial(vgg, convolutions=VGG11, with_norm=True),
    "vgg16": partial(vgg, convolutions=VGG16, with_norm=False),
    "vgg16_bn": partial(vgg, convolutions=VGG16, with_norm=True),
    "vgg19": partial(vgg, convolutions=VGG19, with_norm=False),
    "vgg19_bn": partial(vgg, convolutions=VGG19, with_norm=True),
    "mobilenet_v2": mobilenet_v2,
    "vit_tiny": vit_tiny,
    "b_alexnet": b_alexnet,
    "simple_cnn": simple_cnn,
}
