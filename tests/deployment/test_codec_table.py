"""What codecs cost and save, against a loop over samples; and what a picture takes."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from tardis_fl.codecs.codec import sample_bytes
from tardis_fl.codecs.names import BITS_PER_VALUE, CODEC_NAMES
from tardis_fl.deployment.codec_table import ImageRow, image_rows, measure_codecs
from tardis_fl.deployment.escalation import Rule, replay
from tardis_fl.deployment.png import png_bytes, raw_bytes
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.errors import ConfigError, RunError
from tests.reference import codecs as reference

CLASSES, THRESHOLDS = 3, (0.55, 0.6)


class Rescale(nn.Module):
    """A body whose features don't depend on the batch in the last bit, as those of a convolution do."""

    def __init__(self, shape, step):
        super().__init__()
        self.weight, self.step = nn.Parameter(torch.randn(shape)), step

    def forward(self, x):
        return (x * self.weight).relu()[..., :: self.step, :: self.step]


@pytest.fixture
def network():
    torch.manual_seed(0)
    bodies = [Rescale((4, 8, 8), 1), Rescale((4, 8, 8), 2), Rescale((4, 4, 4), 2)]
    network = EarlyExitNetwork(
        bodies, [nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES)) for size in (256, 64, 16)]
    )
    return network.train()


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(37, 4, 8, 8, generator=generator), torch.randint(
        0, CLASSES, (37,), generator=generator
    ).numpy()


def by_threshold(logits):
    sure = logits[:-1].softmax(2).amax(2) >= torch.tensor(THRESHOLDS)[:, None]
    return (
        torch.cat([sure, torch.ones(1, logits.shape[1], dtype=torch.bool)]).int().argmax(0).numpy()
    )


def measure(network, samples, codecs, decide=by_threshold, **options):
    images, labels = samples
    return measure_codecs(
        network,
        lambda rows: images[rows],
        labels,
        codecs,
        decide=decide,
        **{"batch_size": 8, **options},
    )


def test_the_table_is_what_a_loop_over_samples_counts(network, samples):
    for row in measure(network, samples, CODEC_NAMES):
        right, answered_right, exit_counts, crossing = reference.deployed_with(
            network, *samples, row.codec, THRESHOLDS
        )
        assert row.exit_accuracies == [count / 37 for count in right]
        assert (row.accuracy, row.exit_counts) == (answered_right / 37, exit_counts)
        assert row.offload_rate == sum(exit_counts[1:]) / 37
        assert row.bytes_per_boundary == [sum(sizes) / len(sizes) for sizes in crossing]
        assert row.bytes_per_sample == sum(map(sum, crossing)) / 37
        assert min(exit_counts) > 0


def test_rows_come_in_the_order_asked_for_and_share_passes(network, samples):
    images, labels = samples
    asked = []

    def inputs(rows):
        asked.append(rows.start)
        return images[rows]

    codecs = ["3bit+zstd", "float32", "3bit", "float32+zlib", "3bit+zlib"]
    rows = measure_codecs(network, inputs, labels, codecs, decide=by_threshold, batch_size=20)
    assert [row.codec for row in rows] == codecs
    assert asked == [0, 20, 0, 20]
    assert rows[0].exit_accuracies == rows[2].exit_accuracies == rows[4].exit_accuracies
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("codec", BITS_PER_VALUE)
def test_the_operating_point_is_that_of_the_deployed_segments(network, samples, codec, ensemble):
    images, labels = samples
    (row,) = measure(network, samples, [codec], ensemble=ensemble)
    rule = Rule("max_softmax", (1.0, 1.0, 1.0), THRESHOLDS, codec, ensemble)
    outcome = replay(network, rule, lambda rows: images[rows], labels, batch_size=8)
    assert (row.accuracy, row.exit_counts) == (outcome.accuracy, outcome.exit_counts)
    said = 4 * CLASSES if ensemble else 0
    sizes = [sample_bytes(shape, codec) + said for shape in ((4, 8, 8), (4, 4, 4))]
    assert row.bytes_per_boundary == sizes
    assert row.bytes_per_sample == pytest.approx(
        sum(size * number for size, number in zip(sizes, outcome.crossings, strict=True)) / 37
    )


def test_a_boundary_that_nobody_crosses_has_no_mean(network, samples):
    (row,) = measure(network, samples, ["uint8+zstd"], lambda logits: np.r_[np.zeros(36, int), 1])
    assert row.exit_counts == [36, 1, 0]
    assert row.bytes_per_boundary[0] == pytest.approx(37 * row.bytes_per_sample)
    assert row.bytes_per_boundary[1] is None


def test_a_network_of_one_segment_sends_nothing(samples):
    network = EarlyExitNetwork([nn.Flatten()], [nn.Linear(256, CLASSES)])
    (row,) = measure(network, samples, ["4bit+zlib"], lambda logits: np.zeros(37, int))
    assert (row.offload_rate, row.exit_counts, row.bytes_per_boundary, row.bytes_per_sample) == (
        0.0,
        [37],
        [],
        0.0,
    )


def test_what_cannot_be_measured_is_refused(network, samples):
    with pytest.raises(ValueError, match="codecs: got uint8, uint8; wanted each once"):
        measure(network, samples, ["uint8", "uint8"])
    with pytest.raises(ConfigError, match="did you mean 'uint8\\+zstd'"):
        measure(network, samples, ["uint8+zst"])
    with pytest.raises(
        ValueError,
        match=r"decide: got exits of shape \(37,\) from 0 to 3; wanted \(37,\) from 0 to 2",
    ):
        measure(network, samples, ["uint8"], lambda logits: np.arange(37) % 4)
    with pytest.raises(ValueError, match="labels: got none"):
        measure(network, (samples[0][:0], samples[1][:0]), ["uint8"])
    with pytest.raises(RunError, match="not finite"):
        measure(network, (samples[0] / 0, samples[1]), ["uint8"])


def test_png_sizes_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    images = np.stack(
        [np.zeros((32, 32, 3), np.uint8), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)]
    )
    sizes = []
    for image in images:
        Image.fromarray(image).save(tmp_path / "image.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), image)
        sizes.append((tmp_path / "image.png").stat().st_size)
    assert png_bytes(images).tolist() == sizes
    assert raw_bytes(images).tolist() == [3072, 3072]
    assert image_rows(images) == [ImageRow("raw", 3072.0), ImageRow("png", sum(sizes) / 2)]
    assert png_bytes(images[..., :1])[0] < sizes[0]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
    ],
)
def test_what_is_no_image_has_no_png(images):
    with pytest.raises(
        ValueError, match=r"images: got .*; wanted uint8 \(N, H, W, 1\) or \(N, H, W, 3\)"
    ):
        png_bytes(images)


def test_real_images_take_three_quarters_of_their_raw_size_as_png(real_data):
    rows = pq.read_table(real_data / "test-00000-of-00001.parquet", columns=["img"])["img"][
        :2000
    ].to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows])
    raw, png = image_rows(images)
    assert raw.bytes_per_sample == 3072
    assert png.bytes_per_sample == pytest.approx(
        2306, rel=0.05
    )  # copies of the data set and builds of zlib differ by a few percent
