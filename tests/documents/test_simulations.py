"""Studies: their configurations are valid, their arms differ in what they say, and their verdicts follow from the figures."""

from __future__ import annotations

import re

import pytest

from simulations.depthfl.run import (
    ARMS,
    HERE,
    QUESTIONS,
    differences_by_exit,
    lower_end,
    verdict_of,
)
from tardis_fl.config import load_config
from tests.conftest import ROOT


def test_the_arms_of_depthfl_differ_in_what_they_are_about_alone():
    configs = {arm: load_config(HERE / "config.yaml", settings) for arm, settings in ARMS.items()}
    assert [group.depth for group in configs["depth_scaled"].groups] == [1, 2, 3]
    assert {
        arm: (config.federation.client_exits, config.federation.distillation.teacher)
        for arm, config in configs.items()
    } == {
        "last_exit_only": ("last", "none"),
        "depth_scaled": ("all", "none"),
        "mutual_distillation": ("all", "mutual"),
    }
    assert {better for _, better, _ in QUESTIONS} | {worse for _, _, worse in QUESTIONS} == set(
        ARMS
    )


def test_differences_are_paired_by_seed():
    better = {1: [0.5, 0.7], 2: [0.6, 0.8], 3: [0.1, 0.1]}
    worse = {1: [0.4, 0.7], 2: [0.4, 0.9]}  # seed 3 failed
    first, second = differences_by_exit(better, worse)
    assert first.mean == pytest.approx(0.15)
    assert second.mean == pytest.approx(-0.05)
    assert first.half_width == pytest.approx(12.706 * 0.0707107 / 2**0.5, rel=1e-4)
    assert lower_end(first) == pytest.approx(first.mean - first.half_width)
    assert lower_end(differences_by_exit({1: [0.5]}, {1: [0.4]})[0]) == float("-inf")


def test_verdicts_by_hand():
    def of(*columns):
        seeds = range(len(columns[0]))
        return verdict_of(
            differences_by_exit(
                {seed: [column[seed] for column in columns] for seed in seeds},
                {seed: [0.0] * len(columns) for seed in seeds},
            )
        )

    assert of([0.10, 0.11, 0.12], [0.05, 0.05, 0.06]) == "yes, at every exit"
    assert of([0.10, 0.11, 0.12], [0.05, -0.05, 0.06]) == "yes, but some intervals hold 0"
    assert of([0.10, 0.11, 0.12], [-0.05, -0.05, 0.06]) == "no"
    assert verdict_of(differences_by_exit({}, {1: [0.5]})) == "no runs to compare"


def test_the_readme_of_a_study_names_its_own_command():
    for path in (ROOT / "simulations").glob("*/README.md"):
        assert re.search(rf"python -m simulations\.{path.parent.name}\.run", path.read_text())
