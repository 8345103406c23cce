"""B-AlexNet (Teerapittayanon et al., BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks, ICPR 2016)."""

from __future__ import annotations

from torch import nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import named


def b_alexnet(options: BackboneOptions) -> Backbone:
    """Builds the form for CIFAR-10, with the paper's two branches as exits on `conv2` and `conv3`.

    Five convolutions and three linear layers; a branch of two convolutions and a linear layer, and
    after the next convolution one of one convolution and a linear layer. What the paper leaves open
    is taken from its authors'
    published experiment (`networks/alex_cifar10.py` of kunglab/branchynet): sizes of layers, local
        response norm, and branches after the second and third convolution, one later than in the
        paper's text. Two things are ours. What opens a branch as well as the next layer of the
        trunk (ReLU, and on `conv2` pooling and norm) belongs to the trunk: the logits are the same,
        and four times less crosses after `conv2`. And there is no dropout between the linear
        layers, which would draw from the global generator. Weights start as PyTorch has them.
    """
    side = options.image_size // 2  # of the maps after the first pooling
    children: dict[str, nn.Module] = {
        "conv1": nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), _pool(), _response_norm()
        ),
        "conv2": nn.Sequential(
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), _pool(), _response_norm()
        ),
        "conv3": nn.Sequential(nn.Conv2d(64, 96, 3, padding=1), nn.ReLU()),
        "conv4": nn.Sequential(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU()),
        "conv5": nn.Sequential(nn.Conv2d(96, 64, 3, padding=1), nn.ReLU(), _pool()),
        "fc6": nn.Sequential(nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 256), nn.ReLU()),
        "fc7": nn.Sequential(nn.Linear(256, 128), nn.ReLU()),
        "head": nn.Linear(128, options.num_classes),
    }
    exits = {
        "conv2": nn.Sequential(
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            *_classifier(32 * (side // 4) ** 2, options.num_classes),
        ),
        "conv3": nn.Sequential(
            _pool(),
            _response_norm(),
            nn.Conv2d(96, 32, 3, padding=1),
            nn.ReLU(),
            *_classifier(32 * (side // 8) ** 2, options.num_classes),
        ),
    }
    return Backbone(named(children), exits)


def _classifier(num_features: int, num_classes: int) -> list[nn.Module]:
    return [_pool(), nn.Flatten(), nn.Linear(num_features, num_classes)]


def _pool() -> nn.MaxPool2d:
    """Overlapping pooling that maps a side s to s // 2, the last window reaching over the edge as in Chainer."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _response_norm() -> nn.LocalResponseNorm:
    """Chainer's: its k is 2, and its alpha is for one channel where PyTorch's is for all of them."""
    size = 3
    return nn.LocalResponseNorm(size, alpha=5e-5 * size, beta=0.75, k=2.0)
