"""Any model converted: the same numbers, shared weights, and clear refusals."""

from __future__ import annotations

import re
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tardis_fl.core.torchvision_guard import import_torchvision
from tardis_fl.early_exit import candidate_cuts, convert
from tardis_fl.early_exit.conversion.cuts import Cut, choose_cuts
from tardis_fl.early_exit.conversion.tracing import ConversionError
from tardis_fl.early_exit.exits import adaptive_exit, guess_layout
from tests.conftest import ROOT

models = import_torchvision("torchvision.models")
TORCHVISION = models.list_models(module=models)
SMALL_VARIANTS = {
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
}
SMALLEST_INPUT = {
    "alexnet": 63,
    "inception_v3": 75,
    "maxvit_t": 224,
    "vit_h_14": 28,
}  # 32 for all others


def torchvision_model(name, device):
    """Builds a model without weights, for the smallest input it takes."""
    size = SMALLEST_INPUT.get(name, 32)
    options = (
        {"image_size": size}
        if name.startswith("vit")
        else {"init_weights": False}
        if name in ("googlenet", "inception_v3")
        else {}
    )
    if (
        device == "meta"
    ):  # regnets compute their widths with tensors, which must hold data; layers make their weights with `empty`
        empty = torch.empty
        with mock.patch(
            "torch.empty", lambda *size, **kwargs: empty(*size, **{**kwargs, "device": "meta"})
        ):
            model = models.get_model(name, weights=None, num_classes=10, **options).to("meta")
    else:
        model = models.get_model(name, weights=None, num_classes=10, **options)
    return model, torch.zeros(2, 3, size, size, device=device)


@pytest.mark.filterwarnings("ignore:.*itself reads self.training")
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_classification_model_of_torchvision_converts(name):
    """On tensors without data for shapes and counts; the small variants with numbers, and a training step."""
    device = "cpu" if name in SMALL_VARIANTS else "meta"
    model, images = torchvision_model(name, device)
    names = {parameter: key for key, parameter in model.named_parameters()}
    network = convert(model, images, 3, check=False)
    assert len(network) == 3
    assert network.eval()(images).shape == (2, 3, 10)
    taken = [parameter for segment in network for parameter in segment.body.parameters()]
    left_out = {
        key.split(".")[0]
        for parameter, key in names.items()
        if all(parameter is not other for other in taken)
    }
    assert all(any(parameter is original for original in names) for parameter in taken), (
        "weights are shared"
    )
    assert left_out <= {"aux1", "aux2", "AuxLogits"}, (
        "the auxiliary classifiers of GoogLeNet and Inception answer in training only"
    )
    if device == "cpu":
        images = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(
                network(images, exit_chosen=2), model.eval()(images), rtol=0, atol=1e-5
            )
        network.train()(images).sum().backward()
        assert all(parameter.grad is not None for parameter in taken)


def test_the_readme_says_how_many_of_torchvisions_models_convert():
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    assert f"all {len(TORCHVISION)} classification models of torchvision" in readme


class Residual(nn.Module):
    """Two blocks with shortcuts, and dropout by function."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block1 = Block(8)
        self.block2 = Block(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x, scale=None):
        x = self.block2(self.block1(self.relu(self.stem(x))))
        if scale is not None:
            x = x * scale
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop = Drop()

    def forward(self, x):
        return F.relu(x + self.drop(self.conv2(F.relu(self.conv1(x)))))


class Drop(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=self.training)


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_cuts_by_module_name_share_weights_and_keep_the_model_working():
    model = Residual().eval()
    expected = model(IMAGES)
    network = convert(model, IMAGES[:1], cuts=["stem", "block1"], seed=1).eval()
    assert network.cuts == ("stem", "block1")
    torch.testing.assert_close(network(IMAGES, exit_chosen=2), expected, rtol=0, atol=0)
    with torch.no_grad():
        model.block1.conv1.weight.zero_()
        torch.testing.assert_close(network(IMAGES, exit_chosen=2), model(IMAGES), rtol=0, atol=0)
    assert "segments.1.body.block1.conv1.weight" in network.state_dict()


def test_an_operation_in_place_after_a_cut_leaves_the_features_alone():
    """The first exit reads what the ReLU after `stem` would write over; its gradient needs the values."""
    model = Residual().eval()
    features = model.stem(IMAGES).detach()
    network = convert(
        model, IMAGES, cuts=["stem"], exits=[nn.Sequential(nn.Flatten(), nn.Linear(512, 5))]
    ).eval()
    got, _ = network.segments[0](IMAGES)
    network.segments[1](got)
    assert torch.equal(got, features)
    network.train()(IMAGES).sum().backward()


def test_training_mode_survives_conversion():
    network = convert(Residual(), IMAGES, cuts=["block1"])
    network.train()
    assert not torch.equal(network(IMAGES)[:, 1], network(IMAGES)[:, 1]), (
        "dropout by function draws anew in training"
    )
    network.eval()
    assert torch.equal(network(IMAGES), network(IMAGES))


def test_the_models_own_mode_is_left_alone():
    model = Residual().train()
    model.block1.eval()
    before = [module.training for module in model.modules()]
    convert(model, IMAGES, 2)
    assert [module.training for module in model.modules()] == before


def test_segments_take_any_batch_size():
    network = convert(Residual(), IMAGES[:1], 3).eval()
    for count in (1, 2, 4):
        assert network(IMAGES[:count]).shape == (count, 3, 5)


def test_candidates_name_shape_bytes_and_work_before_and_after():
    cuts = candidate_cuts(Residual(), IMAGES)
    by_name = {cut.name: cut for cut in cuts}
    stem = by_name["stem"]
    assert (stem.shape, stem.num_values, stem.num_bytes) == ((8, 8, 8), 512, 2048)
    assert stem.ratio_to_input == pytest.approx(512 / 192)
    convolution = 8 * 8 * 9 * 64
    assert stem.macs_before == 3 * 8 * 9 * 64
    assert stem.macs_after == 4 * convolution + 8 * 5
    assert by_name["block1"].macs_before == stem.macs_before + 2 * convolution
    assert stem.num_parameters_before == 3 * 8 * 9 + 8
    assert stem.num_parameters_before + stem.num_parameters_after == sum(
        p.numel() for p in Residual().parameters()
    )
    assert "block1.conv1" not in by_name, "the shortcut crosses there too"
    assert [cut.macs_before for cut in cuts] == sorted(cut.macs_before for cut in cuts)
    header, first, *_ = str(cuts).splitlines()
    assert header.split()[:3] == ["cut", "shape", "bytes"]
    assert first.split()[:3] == ["stem", "8x8x8", "2,048"]


def test_every_candidate_can_be_cut_at():
    model = Residual().eval()
    expected = model(IMAGES)
    for cut in candidate_cuts(model, IMAGES):
        network = convert(model, IMAGES, cuts=[cut.name]).eval()
        torch.testing.assert_close(network(IMAGES, exit_chosen=1), expected, rtol=0, atol=0)
        assert network.segments[0](IMAGES)[0].shape[1:] == cut.shape


def test_a_plain_sequential_and_a_sequence_of_tokens():
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5)
    )
    assert convert(plain, IMAGES).cuts == ("2", "4")
    tokens = nn.Sequential(
        nn.Embedding(30, 8),
        *(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)),
        nn.Flatten(),
        nn.Linear(48, 4),
    )
    network = convert(tokens, torch.zeros(2, 6, dtype=torch.int64), cuts=["1", "2"]).eval()
    assert network(torch.ones(3, 6, dtype=torch.int64)).shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("feature_shape", "input_shape", "layout"),
    [
        ((64,), (3, 32, 32), "flat"),
        ((16, 8, 8), (3, 32, 32), "maps"),
        ((8, 8, 96), (3, 32, 32), "positions"),
        ((65, 192), (3, 32, 32), "positions"),
        ((16, 8, 16), (3, 32, 64), "maps"),
        ((8, 16, 16), (3, 32, 64), "positions"),
        ((16, 50), (2, 100), "maps"),
        ((8, 8, 8), (3, 32, 32), "maps"),
    ],
)
def test_exits_adapt_to_maps_and_tokens(feature_shape, input_shape, layout):
    assert guess_layout(feature_shape, input_shape) == layout
    for hidden in (0, 7):
        head = adaptive_exit(feature_shape, 5, hidden=hidden, layout=layout)
        assert head(torch.randn(3, *feature_shape)).shape == (3, 5)
    channels = feature_shape[-1] if layout == "positions" else feature_shape[0]
    first = next(module for module in head if isinstance(module, nn.Linear))
    assert first.in_features == channels


class InheritedDropout(nn.Dropout):
    """A class of one's own whose behaviour in training is inherited."""


def test_inherited_behaviour_in_training_survives_too():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        InheritedDropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    network = convert(model, IMAGES, cuts=["1"]).train()
    assert not torch.equal(network(IMAGES)[:, 1], network(IMAGES)[:, 1])


class Untraceable(nn.Module):
    """Branches on data after a convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        return x if x.shape[0] == 0 or x.abs().sum() >= 0 else -x


class TwicePooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.conv, self.fc = nn.MaxPool2d(2), nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.pool(self.conv(self.pool(x))).mean((2, 3)))


class LosesItsResult(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 1), nn.Linear(5, 5)

    def forward(self, x):
        x = self.conv(x)
        x.clamp_(0)
        return self.fc(x.mean((2, 3)))


def test_a_module_that_cannot_be_traced_stays_whole():
    model = nn.Sequential(
        Untraceable(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)
    ).eval()
    network = convert(model, IMAGES, cuts=["0"]).eval()
    with torch.no_grad():
        assert torch.equal(network(IMAGES, exit_chosen=1), model(IMAGES))
    assert "cuts: '0.conv' lies inside '0', which stays whole" in refusal(model, cuts=["0.conv"])


def test_a_module_called_twice_has_no_cut_of_its_name():
    assert "cuts: 'pool' is called 2 times" in refusal(TwicePooled(), cuts=["pool"])


def test_an_operation_in_place_whose_result_is_lost_is_refused():
    assert "clamp_ writes over conv in place and its result isn't used" in refusal(LosesItsResult())


def refusal(model, example=IMAGES, **options):
    with pytest.raises(ConversionError) as caught:
        convert(model, example, **options)
    return str(caught.value)


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.fc = nn.Linear(192, 5)
        self.make = make

    def forward(self, x):
        return self.make(self.fc(x.flatten(1)))


class Branching(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x.flatten(1) + y


class Chance(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x):
        x = self.conv(x)
        return (x + torch.rand_like(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            Returns(lambda y: {"out": y, "aux": y}),
            "Returns returns a dict with the keys 'out', 'aux'; wanted one tensor (B, classes): wrap it",
        ),
        (Returns(lambda y: (y, y)), "Returns returns a tuple of 2; wanted one tensor"),
        (
            Returns(lambda y: y[:, :, None]),
            "returns a tensor of shape (3, 5, 1) for 3 samples; wanted (3, classes)",
        ),
        (TwoInputs(), "its forward takes x, y; wanted one input tensor, so wrap it"),
        (Branching(), "Branching: its forward can't be traced"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(7, 5)),
            "failed on 3 samples of shape (3, 8, 8): mat1 and mat2 shapes",
        ),
    ],
)
def test_models_that_cannot_be_converted_say_why(model, text):
    assert text in refusal(model)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cuts": ["blok1"]}, "cuts: there is no 'blok1'; near: block1"),
        (
            {"cuts": ["block1.conv1"]},
            "cuts: 2 values cross after 'block1.conv1': relu (8x8x8), block1.conv1 (8x8x8); wanted a place where one tensor does, such as 'block1'",
        ),
        ({"cuts": ["fc"]}, "cuts: 'fc' gives the model's logits"),
        ({"cuts": ["block1", "block1"]}, "each place can be cut once"),
        ({"cuts": ["block1"], "shares": [1, 1]}, "got cuts and shares"),
        ({"num_segments": 40}, "num_segments: got 40; there are 3 places with work on both sides"),
        ({"num_segments": 0}, "num_segments: got 0"),
        ({"num_segments": 2, "shares": [1, 2, 3]}, "shares: got [1, 2, 3] for 2 segments"),
        ({"num_segments": 3, "exits": [nn.Linear(3, 5)]}, "exits: got 1 for 2 cuts"),
    ],
)
def test_cuts_that_do_not_exist_say_what_does(options, text):
    assert text in refusal(Residual(), **options)


def test_a_model_that_depends_on_chance_fails_the_comparison():
    assert "last exit differs from the model" in refusal(Chance(), cuts=["conv"])


def test_an_example_without_samples_is_refused():
    assert "example_input: got (0, 3, 8, 8)" in refusal(Residual(), IMAGES[:0])


def test_what_only_training_does_is_said():
    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(F.dropout(x, training=self.training))

    with pytest.warns(UserWarning, match="Own itself reads self.training"):
        convert(
            Own(
                nn.Conv2d(3, 4, 3),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 2),
            ),
            IMAGES,
            2,
        )


def _cut(macs_before, total, num_bytes=1):
    return Cut(str(macs_before), (num_bytes,), num_bytes, 1, macs_before, total - macs_before, 0, 0)


@given(
    st.lists(st.integers(1, 999), min_size=3, max_size=9, unique=True),
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
)
def test_chosen_cuts_are_the_best_of_all_combinations(places, shares):
    from itertools import combinations

    cuts = [_cut(place, 1000) for place in sorted(places)]
    targets = [sum(shares[: number + 1]) / sum(shares) for number in range(len(shares) - 1)]

    def distance(chosen):
        return sum(
            (cut.macs_share - target) ** 2 for cut, target in zip(chosen, targets, strict=True)
        )

    chosen = choose_cuts(cuts, len(shares), shares)
    assert [cut.macs_before for cut in chosen] == sorted({cut.macs_before for cut in chosen})
    assert distance(chosen) == pytest.approx(
        min(distance(option) for option in combinations(cuts, len(shares) - 1))
    )


def test_between_two_multiplications_the_cut_with_fewest_bytes_is_taken():
    cuts = [
        _cut(0, 100, 9),
        _cut(50, 100, 8),
        _cut(50, 100, 4),
        _cut(50, 100, 4),
        _cut(100, 100, 1),
    ]
    assert choose_cuts(cuts, 2) == [cuts[3]]
