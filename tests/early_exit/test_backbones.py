"""Backbones: one contract for all of them, and their sizes against papers and counts by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from tardis_fl.config import parse_config
from tardis_fl.config.checks.consistency import warnings_about
from tardis_fl.config.model import ModelConfig
from tardis_fl.config.plugin_names import PluginName
from tardis_fl.data.datasets.cifar10 import NORMALISATION
from tardis_fl.early_exit.backbones import BUILDERS, BackboneOptions, build_backbone, build_network
from tardis_fl.early_exit.backbones.layers import norm_layer
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.early_exit.counting import num_parameters, segment_costs
from tardis_fl.early_exit.network import EarlyExitNetwork, segments_loss
from tardis_fl.errors import ConfigError
from tests.config.test_config import problems
from tests.conftest import SMALL

WITH_NORM = [name for name, info in CATALOGUE.items() if info.has_norm]


@pytest.fixture(scope="module", params=CATALOGUE)
def pair(request):
    """The catalogue's entry, the plain network and the cut one, of one seed."""
    options = {"num_classes": 7, "width": 8, "exit_hidden": 16, "seed": 1}
    return (
        CATALOGUE[request.param],
        build_backbone(request.param, **options),
        build_network(request.param, **options),
    )


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_children_are_those_of_the_catalogue_and_end_in_a_head(pair):
    info, plain, _ = pair
    assert [name for name, _ in plain.named_children()] == [*info.children, "head"]
    assert not any(getattr(module, "inplace", False) for module in plain.modules())
    assert all(
        weights.is_contiguous(memory_format=torch.channels_last)
        for weights in plain.parameters()
        if weights.dim() == 4
    )


def test_the_last_exit_is_the_plain_network_and_one_sample_is_answered_alone_as_in_a_batch(pair):
    _, plain, network = pair
    x = images(3)
    with torch.no_grad():
        logits = network.eval()(x)
        assert logits.shape == (3, 3, 7)
        torch.testing.assert_close(logits[:, -1], plain.eval()(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(logits[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(pair):
    _, _, network = pair
    network.train()
    loss, _, _ = segments_loss(list(network), images(3), torch.tensor([0, 1, 2]), [1.0, 1.0, 1.0])
    loss.backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    network.zero_grad()
    assert without == []


def test_the_smallest_images_train_one_at_a_time_and_smaller_ones_are_refused(pair):
    info, _, _ = pair
    network = build_network(
        info.name, num_classes=3, width=8, image_size=info.min_input_size, seed=1
    )
    loss, logits, _ = segments_loss(
        list(network), images(1, info.min_input_size), torch.tensor([2]), [1.0, 1.0, 1.0]
    )
    loss.backward()
    assert logits[-1].shape == (1, 3)
    with pytest.raises(
        ValueError,
        match=f"image_size: got 4; the backbone '{info.name}' wants images of at least {info.min_input_size} pixels",
    ):
        build_backbone(info.name, num_classes=3, image_size=4, seed=1)


def test_a_state_comes_back_into_a_network_of_another_seed(pair):
    info, _, network = pair
    other = build_network(info.name, num_classes=7, width=8, exit_hidden=16, seed=2).eval()
    with torch.no_grad():
        expected = network.eval()(images(2))
        assert not torch.equal(other(images(2)), expected)
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(images(2)), expected)


def test_its_recipe_builds_it_again(pair):
    info, _, network = pair
    again = build_network(**json.loads(json.dumps(network.recipe.options)), seed=1)
    assert network.cuts == again.cuts == info.cuts
    assert all(
        torch.equal(weights, same)
        for weights, same in zip(network.parameters(), again.parameters(), strict=True)
    )


def test_children_can_be_traced_with_one_tensor_between_them(pair):
    _, plain, _ = pair
    x = images(2)
    with torch.no_grad():
        for child in plain.eval():
            traced = torch.fx.symbolic_trace(child)
            torch.testing.assert_close(traced(x), child(x))
            x = child(x)
            assert isinstance(x, torch.Tensor)


def test_every_cut_gives_the_same_network(pair):
    info, plain, _ = pair
    middle = info.children[len(info.children) // 2]
    single = build_network(
        info.name, num_classes=7, width=8, exit_hidden=16, cuts=[middle], seed=1
    ).eval()
    none = build_network(info.name, num_classes=7, width=8, exit_hidden=16, cuts=[], seed=1).eval()
    x = images(2)
    with torch.no_grad():
        expected = plain.eval()(x)
        for network, num_exits in ((single, 2), (none, 1)):
            logits = network(x)
            assert logits.shape == (2, num_exits, 7)
            torch.testing.assert_close(logits[:, -1], expected, rtol=0, atol=1e-6)


def test_each_of_resnet8s_children_can_end_a_segment():
    cuts = CATALOGUE["resnet8"].children
    network = build_network("resnet8", num_classes=4, cuts=cuts, exit_hidden=0, seed=1)
    assert len(network) == len(cuts) + 1
    assert network.eval()(images(2)).shape == (2, len(cuts) + 1, 4)


@pytest.mark.parametrize("name", WITH_NORM)
def test_group_norm_leaves_no_running_statistics(name):
    grouped = build_network(name, num_classes=3, width=8, norm="group", seed=1)
    assert list(build_network(name, num_classes=3, width=8, seed=1).buffers()) != []
    assert list(grouped.buffers()) == []
    grouped.train()
    x = images(2)
    torch.testing.assert_close(
        grouped(x)[:1], grouped(x[:1]), rtol=1e-4, atol=1e-4
    )  # no sample looks at another, even in training


@pytest.mark.parametrize(
    ("channels", "num_groups"),
    [(2, 1), (9, 1), (16, 2), (24, 3), (64, 8), (144, 18), (320, 32), (512, 32), (960, 32)],
)
def test_groups_divide_the_channels(channels, num_groups):
    assert norm_layer("group", channels).num_groups == num_groups


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (
            ["layer1_3"],
            r"cuts: got 'layer1_3'; 'resnet20' has no such child; the nearest are 'layer1_2', 'layer1_1', 'layer1_0'",
        ),
        (
            ["layer2_2", "layer1_2"],
            r"cuts: got layer2_2, layer1_2; wanted layer1_2, layer2_2: each child once",
        ),
        (["stem", "stem"], r"cuts: got stem, stem; wanted stem: each child once"),
        (["stem", "head"], r"cuts: got 'head'; it is the last exit"),
    ],
)
def test_cuts_that_cannot_be_are_named(cuts, message):
    with pytest.raises(ValueError, match=message):
        build_network("resnet20", num_classes=10, cuts=cuts, seed=1)


def test_an_unknown_name_gets_the_nearest_and_all_known_ones():
    with pytest.raises(
        ValueError, match=r"no backbone 'resnet21'; did you mean 'resnet20'\? known: small_resnet, "
    ):
        build_backbone("resnet21", num_classes=10, seed=1)


def test_images_that_are_no_whole_number_of_patches_are_refused():
    with pytest.raises(
        ValueError, match="image_size: got 30; the backbone 'vit_tiny' wants a multiple of 4 pixels"
    ):
        build_network("vit_tiny", num_classes=10, image_size=30, seed=1)


def test_weights_do_not_depend_on_cuts_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = (
        build_network("resnet8", num_classes=10, cuts=cuts, seed=3) for cuts in (None, ["stem"])
    )
    assert torch.equal(torch.rand(1), expected)
    by_rank = [
        [weights for name, weights in network.named_parameters() if weights.dim() == 4]
        for network in (one, two)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*by_rank, strict=True))


def test_the_small_resnet_keeps_the_weights_and_names_of_models_saved_before():
    network = build_network(
        "small_resnet", num_classes=10, width=8, exit_hidden=16, seed=4
    ).double()
    state = network.state_dict()
    assert {
        "segments.0.body.0.0.weight",
        "segments.0.exit.2.4.bias",
        "segments.1.body.0.conv1.weight",
        "segments.2.exit.2.weight",
    } <= state.keys()
    golden = {
        "segments.0.body.0.0.weight": 40.74739847,
        "segments.0.exit.2.4.weight": 19.94717297,
        "segments.2.exit.2.weight": 29.77963888,
    }
    for name, expected in golden.items():
        assert float(state[name].abs().sum()) == pytest.approx(expected, rel=1e-6)


def test_vgg19_is_cut_where_tardis_early_exit_cuts_torchvisions():
    from tardis_fl.core.torchvision_guard import import_torchvision

    features = import_torchvision("torchvision.models").vgg19(weights=None, num_classes=1).features
    network = build_network("vgg19", num_classes=10, seed=1)
    for segment, reference in zip(
        network, (features[:7], features[7:17], features[17:]), strict=True
    ):
        assert [type(module) for module in segment.body] == [type(module) for module in reference]
        assert [weights.shape for weights in segment.body.parameters()] == [
            weights.shape for weights in reference.parameters()
        ]


def test_the_branches_of_b_alexnet_are_its_exits():
    backbone = BUILDERS["b_alexnet"](BackboneOptions(num_classes=10))
    assert tuple(backbone.exits) == CATALOGUE["b_alexnet"].fixed_exits
    # the authors' layers: 3x3 convolutions 64-32-32 and 512 features; 3x3 convolution 96-32 and 128
    # features
    assert [num_parameters(branch) for branch in backbone.exits.values()] == [
        64 * 32 * 9 + 32 + 32 * 32 * 9 + 32 + 5130,
        96 * 32 * 9 + 32 + 1290,
    ]


def test_chainers_response_norm_is_meant():
    x = images(1)[:, :, :2, :2].repeat(1, 2, 1, 1)
    network = BUILDERS["b_alexnet"](BackboneOptions(num_classes=10)).network
    normalise = next(
        module for module in network.modules() if isinstance(module, nn.LocalResponseNorm)
    )
    padded = nn.functional.pad(x**2, (0, 0, 0, 0, 1, 1))
    expected = x / (2 + 5e-5 * (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:])) ** 0.75
    torch.testing.assert_close(normalise(x), expected)


# Parameters and MACs by hand, for 10 classes and 32x32 pixels. MACs are those of convolutions,
# linear layers and attention.


def small_resnet_by_hand(width: int) -> tuple[int, int]:
    trunk, crossing, deep = 3 * width // 2, width // 2, 2 * width
    device = 3 * trunk * 16 + 2 * trunk**2 * 9 + trunk * crossing
    edge = (
        crossing * deep * 10 + 3 * deep**2 * 9
    )  # 3x3 and the 1x1 of the shortcut, then three of 3x3
    cloud = deep * 2 * deep * 10 + 3 * (2 * deep) ** 2 * 9
    norms = 2 * (3 * trunk + crossing + 5 * deep + 5 * 2 * deep)
    head = 2 * deep * 10
    return device + edge + cloud + norms + head + 10, device * 256 + edge * 64 + cloud * 16 + head


def resnet_by_hand(n: int) -> tuple[int, int]:
    weights = {
        1024: 3 * 16 * 9 + 2 * n * 16**2 * 9,
        256: (16 * 32 + (2 * n - 1) * 32**2) * 9,
        64: (32 * 64 + (2 * n - 1) * 64**2) * 9,
    }
    norms = 2 * (16 * (2 * n + 1) + 32 * 2 * n + 64 * 2 * n)
    return sum(weights.values()) + norms + 650, sum(
        positions * count for positions, count in weights.items()
    ) + 640


def vgg_by_hand(*channels: tuple[int, ...], norm: bool) -> tuple[int, int]:
    parameters, macs, before = 5130, 5120, 3
    for stage, row in enumerate(channels):
        for after in row:
            parameters += before * after * 9 + after + (2 * after if norm else 0)
            macs += before * after * 9 * (32 >> stage) ** 2
            before = after
    return parameters, macs


VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def mobilenet_by_hand() -> tuple[int, int]:
    # channels in, inner, out; side in, side out, of each bottleneck
    rows = [
        (32, 32, 16, 32, 32),
        (16, 96, 24, 32, 32),
        (24, 144, 24, 32, 32),
        (24, 144, 32, 32, 16),
    ]
    rows += [(32, 192, 32, 16, 16)] * 2 + [(32, 192, 64, 16, 8)]
    rows += [(64, 384, 64, 8, 8)] * 3 + [(64, 384, 96, 8, 8)]
    rows += [(96, 576, 96, 8, 8)] * 2 + [(96, 576, 160, 8, 4)]
    rows += [(160, 960, 160, 4, 4)] * 2 + [(160, 960, 320, 4, 4)]
    parameters, macs = (
        3 * 32 * 9 + 64 + 320 * 1280 + 2560 + 12810,
        3 * 32 * 9 * 1024 + 320 * 1280 * 16 + 12800,
    )
    for number, (before, inner, after, side_in, side_out) in enumerate(rows):
        expansion = before * inner if number else 0  # the first bottleneck doesn't expand
        parameters += (
            expansion
            + (2 * inner if number else 0)
            + inner * 9
            + 2 * inner
            + inner * after
            + 2 * after
        )
        macs += expansion * side_in**2 + (inner * 9 + inner * after) * side_out**2
    return parameters, macs


def vit_by_hand() -> tuple[int, int]:
    tokens, dim, inner, patch = 64, 192, 768, 48
    linear = 4 * dim**2 + 2 * dim * inner
    block = (
        linear + 4 * dim + inner + dim + 4 * dim
    )  # with biases of attention and MLP, and two norms
    parameters = patch * dim + dim + tokens * dim + 6 * block + 2 * dim + dim * 10 + 10
    return parameters, tokens * patch * dim + 6 * (tokens * linear + 2 * tokens**2 * dim) + dim * 10


def b_alexnet_by_hand() -> tuple[int, int]:
    weights = {
        1024: 3 * 32 * 25,
        256: 32 * 64 * 25,
        64: (64 * 96 + 96 * 96 + 96 * 64) * 9,
        1: 1024 * 256 + 256 * 128 + 128 * 10,
    }
    biases = 32 + 64 + 96 + 96 + 64 + 256 + 128 + 10
    return sum(weights.values()) + biases, sum(
        positions * count for positions, count in weights.items()
    )


def simple_cnn_by_hand() -> tuple[int, int]:
    weights = {30**2: 3 * 32 * 9, 28**2: 32 * 64 * 9, 1: 14**2 * 64 * 128 + 128 * 10}
    return sum(weights.values()) + 32 + 64 + 128 + 10, sum(
        positions * count for positions, count in weights.items()
    )


BY_HAND = {
    "small_resnet": small_resnet_by_hand(32),
    "resnet8": resnet_by_hand(1),
    "resnet20": resnet_by_hand(3),
    "resnet56": resnet_by_hand(9),
    "vgg11": vgg_by_hand(*VGG11, norm=False),
    "vgg11_bn": vgg_by_hand(*VGG11, norm=True),
    "vgg16": vgg_by_hand(*VGG16, norm=False),
    "vgg16_bn": vgg_by_hand(*VGG16, norm=True),
    "vgg19": vgg_by_hand(*VGG19, norm=False),
    "vgg19_bn": vgg_by_hand(*VGG19, norm=True),
    "mobilenet_v2": mobilenet_by_hand(),
    "vit_tiny": vit_by_hand(),
    "b_alexnet": b_alexnet_by_hand(),
    "simple_cnn": simple_cnn_by_hand(),
}

PUBLISHED = {  # millions of parameters, millions of MACs
    "resnet20": (
        0.27,
        41,
    ),  # parameters: He et al. 2016, table 6; MACs as usually quoted for this form
    "resnet56": (0.85, 126),  # the same
    "vgg16_bn": (14.73, 313),  # as usually quoted for the form with one linear layer
    "vgg19": (20.0, 398),  # the same, without norm
    "mobilenet_v2": (2.24, None),  # torchvision's 3,504,872 for 1000 classes, less 990 rows of 1281
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_parameters_and_macs_are_those_of_papers_and_of_a_count_by_hand(name):
    (cost,) = segment_costs(
        EarlyExitNetwork([build_backbone(name, num_classes=10, seed=0)], []), (3, 32, 32)
    )
    assert (cost.num_parameters, cost.macs) == BY_HAND[name]
    for measured, published in zip(
        (cost.num_parameters, cost.macs), PUBLISHED.get(name, (None, None)), strict=True
    ):
        assert published is None or measured / 1e6 == pytest.approx(published, rel=0.015)


def test_what_is_known_without_torch_agrees_with_what_is_built():
    assert list(CATALOGUE) == list(BUILDERS)
    [form] = [
        rule
        for rule in ModelConfig.model_fields["backbone"].metadata
        if isinstance(rule, PluginName)
    ]
    assert list(form.known()) == list(CATALOGUE)
    for name in CATALOGUE:
        assert ModelConfig(backbone=name).backbone == name
    with pytest.raises(ConfigError, match="did you mean 'resnet20'"):
        ModelConfig(backbone="resnet21")
    for info in CATALOGUE.values():
        assert info.num_segments == 3
        assert info.problem_with_cuts(info.cuts) is None
        assert (info.mean, info.std) == (NORMALISATION.mean, NORMALISATION.deviation)
    code = "import sys; import tardis_fl.early_exit.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.cuts=[edge]"],
            "tiers: got 3 tiers; model.cuts makes 2 segments and wants one tier for each",
        ),
        (
            ["model.cuts=[edge, device]"],
            "model.cuts: got edge, device; wanted device, edge: each child once, in the network's order",
        ),
        (
            ["model.cuts=[devise, edge]"],
            "model.cuts: got 'devise'; 'small_resnet' has no such child; the nearest are 'device'",
        ),
        (["model.cuts=[]", "tiers=[{name: a}]"], "tiers: got 1 tiers; wanted two or more"),
        (
            ["tiers=[{name: a}, {name: b}, {name: c}, {name: d}, {name: e}]"],
            "tiers: got 5 tiers; the backbone 'small_resnet' has 3 places to cut it",
        ),
        (
            ["model.backbone=vit_tiny", "data.dataset=image_folder", "data.image_size=30"],
            "data.image_size: got 30; the backbone 'vit_tiny' wants a multiple of 4",
        ),
    ],
)
def test_keys_of_a_model_that_cannot_go_together_are_refused(overrides, expected):
    assert any(line.strip().startswith(expected) for line in problems(SMALL, *overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.backbone=vgg16", "model.norm=group"],
            [
                "model.width had no effect with the backbone 'vgg16'",
                "model.norm had no effect with the backbone 'vgg16'",
            ],
        ),
        (
            ["model.backbone=b_alexnet"],
            [
                "model.width had no effect with the backbone 'b_alexnet'",
                "model.exit_hidden had no effect with the backbone 'b_alexnet'",
            ],
        ),
        (["model.norm=group"], []),
    ],
)
def test_keys_of_a_model_without_effect_are_said(overrides, expected):
    assert [
        line
        for line in warnings_about(parse_config(SMALL, overrides=overrides))
        if line.startswith("model")
    ] == expected


def test_another_number_of_tiers_cuts_at_equal_shares_of_the_work():
    network = build_network("resnet20", num_classes=10, num_segments=4, seed=0)
    assert network.cuts == ("layer1_1", "layer2_0", "layer3_0")
    assert (
        build_network("resnet20", num_classes=10, num_segments=3, seed=0).cuts
        == CATALOGUE["resnet20"].cuts
    )


def test_other_cuts_go_with_other_tiers():
    config = parse_config(
        SMALL, overrides=["model.cuts=[edge]", "tiers=[{name: a}, {name: b}]", "model.norm=group"]
    )
    assert config.num_segments == 2


@pytest.mark.parametrize("name", CATALOGUE)
def test_no_pointwise_convolution_has_a_stride(name):
    """In PyTorch 2.13 such a convolution of few channels corrupts memory on CPUs with AVX-512; see `ProjectedBlock`."""
    convolutions = [
        module
        for module in build_network(name, num_classes=2, width=4, seed=0).modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    assert convolutions
    assert all(module.stride == (1, 1) for module in convolutions if module.kernel_size == (1, 1))
