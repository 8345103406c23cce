"""Reports: intervals by hand, names that would break a page, and corners where plots have little to show."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tardis_fl.report.render import render_html, render_markdown
from tardis_fl.report.results import wilson_interval
from tardis_fl.report.terminal import Screen
from tardis_fl.report.text import bytes_text, duration_text, percent
from tardis_fl.workflows.experiment import simulate
from tests.conftest import small_config

pytestmark = pytest.mark.draws


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report whose tier names want escaping, and the screen of a terminal."""
    config = small_config(
        'tiers=[{name: "de|vice <b>"}, {name: "[/x]"}, {name: cloud}]', "federation.rounds=1"
    )
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    folder = tmp_path_factory.mktemp("runs") / "[x]"
    return simulate(config, folder, Screen(console)), console.file.getvalue()


def test_wilson_intervals_by_hand():
    assert wilson_interval(81, 263) == pytest.approx(
        [0.2553, 0.3662], abs=1e-4
    )  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert wilson_interval(5, 5)[1] == 1.0


def test_names_are_shown_as_they_are_and_never_read_as_markup(report):
    result, screen = report
    html, markdown = render_html(result), render_markdown(result)
    assert "<b>" not in html.replace('<div class="tile"><b>', "").replace(
        '<div class="warning"><b>', ""
    )
    assert "de|vice &lt;b&gt;" in html
    assert "de\\|vice \\<b\\>" in markdown
    assert "[/x]" in screen


def test_a_terminal_gets_a_progress_bar_with_the_time_left(report):
    _, screen = report
    assert "left" in screen
    assert "━" in screen
    assert "held-out" in screen


def test_tables_of_the_markdown_have_as_many_cells_as_their_heads(report):
    lines = render_markdown(report[0]).replace("\\|", "").splitlines()
    for above, line in zip(lines, lines[1:], strict=False):
        if above.startswith("|") and line.startswith("|"):
            assert above.rstrip().count("|") == line.rstrip().count("|"), line


def test_a_report_without_evaluations_and_with_thresholds_above_one_still_renders(report):
    bare = replace(
        report[0],
        history=[],
        final_epochs=[],
        last_round=None,
        best_round=None,
        operating_point=replace(report[0].operating_point, thresholds=[1.01, 0.0]),
    )
    assert "nan" not in render_html(bare).lower().replace("finance", "")
    assert "1.01, 0.0" in render_markdown(bare)


def test_numbers_as_a_person_reads_them():
    assert [
        percent(0.1234),
        percent(None),
        bytes_text(999),
        bytes_text(138_200_000),
        duration_text(61),
        duration_text(650),
    ] == [
        "12.3 %",
        "-",
        "999 B",
        "138.2 MB",
        "61 s",
        "11 min",
    ]
