"""What `describe` prints."""

from __future__ import annotations

from typer.testing import CliRunner

from tardis_fl.cli import app
from tests.conftest import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def described(*arguments):
    done = CliRunner().invoke(app, ["describe", QUICKSTART, *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_counts_bytes_and_places_to_cut_are_listed():
    text = described("--set", "model.backbone=resnet20", "--cuts")
    assert "cut after layer1_2, layer2_2" in text
    assert "bytes as float16" in text
    assert "32x16x16" in text
    assert "more than the raw image's 3,072" in text
    listed = [line.split()[0] for line in text.splitlines() if line.startswith(("stem", "layer"))]
    assert listed == [
        "stem",
        *(f"layer{stage}_{block}" for stage in (1, 2, 3) for block in range(3)),
    ]


def test_another_number_of_tiers_names_the_cuts_it_gets():
    assert "cut after layer1_1, layer2_0, layer3_0" in described(
        "--set",
        "model.backbone=resnet20",
        "--set",
        "tiers=[{name: a}, {name: b}, {name: c}, {name: d}]",
        "--set",
        "deployment.hardware=null",
    )


def test_too_many_tiers_are_one_message():
    tiers = "[" + ", ".join(f"{{name: t{number}}}" for number in range(15)) + "]"
    done = CliRunner().invoke(
        app,
        [
            "describe",
            QUICKSTART,
            "--set",
            "model.backbone=vgg11",
            "--set",
            f"tiers={tiers}",
            "--set",
            "deployment.hardware=null",
        ],
    )
    assert done.exit_code == 2
    assert "tiers: got 15 tiers; the backbone 'vgg11' can't be cut so" in done.output
