"""What the comparison of two versions calls the same, and what it reports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.same_results import __main__ as command
from benchmarks.same_results import commands, sides
from benchmarks.same_results.case import Case, Step
from benchmarks.same_results.commands import OUTCOME, Side, run_cases
from benchmarks.same_results.compare import compare_folders
from benchmarks.same_results.matrix import CASES

REPORT = {
    "exits": [{"accuracy": 0.5, "auroc": None}, {"accuracy": 0.75, "auroc": 0.1}],
    "calibration": {"target": "lose at most 5 points"},
    "dataset": {"class_names": ["solid disc"]},
    "warnings": ["runtime.workers had no effect"],
    "federation": {"seconds": 1.5, "virtual_seconds": 2.0},
}


@pytest.fixture
def old(tmp_path):
    """A folder with one file of each kind that is compared."""
    run = tmp_path / "old" / "run"
    (run / "model").mkdir(parents=True)
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.int64)}
    save_file(weights, run / "model" / "segment_0.safetensors")
    np.savez(run / "exit_table.npz", logits=np.array([[0.5, np.nan]]), labels=np.array([1, 2]))
    (run / "report.json").write_text(json.dumps(REPORT))
    lines = [{"round": number, "seconds": 0.1 * number} for number in (1, 2)]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "config.yaml").write_text("seed: 1\n")
    (run / "environment.json").write_text('{"commit": "one"}')
    return tmp_path / "old"


@pytest.fixture
def new(old, tmp_path):
    """A copy of it, for a test to change."""
    return shutil.copytree(old, tmp_path / "new")


def rewrite(folder, change):
    path = folder / "run" / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def found(old, new):
    return [(each.kind, each.where) for each in compare_folders(old, new)]


def test_equal_folders_have_no_differences(old, new):
    assert compare_folders(old, new) == []


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_one_bit_of_the_weights_is_reported(old, new, bit):
    path = new / "run" / "model" / "segment_0.safetensors"
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    offsets = json.loads(content[8:start])["a"]["data_offsets"]
    content[start + offsets[0] + 5] ^= 1 << bit
    path.write_bytes(content)
    (difference,) = compare_folders(old, new)
    assert difference.fails
    assert str(difference) == (
        "changed run/model/segment_0.safetensors: a: 24 bytes -> 1 of them differ"
    )


def test_another_dtype_or_shape_of_the_same_bytes_is_reported(old, new):
    same_bytes = np.arange(6, dtype=np.float32)
    weights = {"a": same_bytes.view(np.int32).reshape(3, 2), "b": np.ones(2, np.int64)}
    save_file(weights, new / "run" / "model" / "segment_0.safetensors")
    (difference,) = compare_folders(old, new)
    assert (difference.old, difference.new) == ("F32 [2, 3]", "I32 [3, 2]")


def test_arrays_are_compared_by_bits(old, new):
    arrays = {"logits": np.array([[0.5, np.nan]]), "labels": np.array([1, 2])}
    np.savez_compressed(new / "run" / "exit_table.npz", **arrays)
    assert compare_folders(old, new) == []
    arrays["logits"][0, 0] = np.nextafter(0.5, 1)
    np.savez(new / "run" / "exit_table.npz", **arrays)
    assert found(old, new) == [("changed", "run/exit_table.npz: logits")]
    del arrays["logits"]
    np.savez(new / "run" / "exit_table.npz", **arrays, more=np.zeros(1))
    assert found(old, new) == [
        ("removed", "run/exit_table.npz: logits"),
        ("added", "run/exit_table.npz: more"),
    ]


@pytest.mark.parametrize(
    ("old_value", "value"),
    [(0.75, 0.7500000000000001), (1, 1.0), (1, True), (0.0, -0.0), (None, 0), ("0.5", 0.5)],
)
def test_one_value_of_the_report_is_reported(old, new, old_value, value):
    rewrite(old, lambda report: report["exits"][1].update(accuracy=old_value))
    rewrite(new, lambda report: report["exits"][1].update(accuracy=value))
    (difference,) = compare_folders(old, new)
    assert difference.fails
    assert difference.where == "run/report.json: exits.1.accuracy"
    assert (difference.old, difference.new) == (str(old_value), str(value))


def test_an_added_key_is_allowed_and_a_removed_one_fails(old, new):
    rewrite(new, lambda report: report["exits"][0].update(fresh=1))
    (added,) = compare_folders(old, new)
    assert (added.kind, added.fails) == ("added", False)
    assert added.where == "run/report.json: exits.0.fresh"
    (removed,) = compare_folders(new, old)
    assert (removed.kind, removed.fails) == ("removed", True)


def test_a_longer_list_is_another_result(old, new):
    rewrite(new, lambda report: report["warnings"].append("one more"))
    (difference,) = compare_folders(old, new)
    assert (difference.kind, difference.where) == ("changed", "run/report.json: warnings")


def test_times_and_the_machine_are_ignored_and_virtual_time_is_not(old, new):
    rewrite(new, lambda report: report["federation"].update(seconds=9.0))
    (new / "run" / "environment.json").write_text('{"commit": "another"}')
    (new / "run" / "rounds.jsonl").write_text(
        '{"round": 1, "seconds": 7.0}\n{"round": 2, "seconds": 8.0}\n'
    )
    assert compare_folders(old, new) == []
    rewrite(new, lambda report: report["federation"].update(virtual_seconds=2.5))
    assert found(old, new) == [("changed", "run/report.json: federation.virtual_seconds")]


def test_prose_may_be_reworded_with_the_same_figures_only(old, new):
    rewrite(new, lambda report: report["calibration"].update(target="at most 5 points are lost"))
    (difference,) = compare_folders(old, new)
    assert (difference.kind, difference.fails) == ("reworded", False)
    rewrite(new, lambda report: report["calibration"].update(target="at most 6 points are lost"))
    (difference,) = compare_folders(old, new)
    assert difference.fails
    rewrite(new, lambda report: report.update(REPORT | {"dataset": {"class_names": ["a disc"]}}))
    assert found(old, new) == [("changed", "run/report.json: dataset.class_names.0")]


def test_files_that_are_gone_or_new_are_reported(old, new):
    (new / "run" / "exit_table.npz").unlink()
    (new / "run" / "extra.json").write_text("{}")
    (new / "run" / "checkpoint").mkdir()
    (new / "run" / "checkpoint" / "round.safetensors").write_bytes(b"")
    assert found(old, new) == [
        ("removed", "run/exit_table.npz"),
        ("added", "run/extra.json"),
    ]
    (new / "run" / "rounds.jsonl").write_text('{"round": 1, "seconds": 0.1}\n')
    assert ("changed", "run/rounds.jsonl") in found(old, new)


def test_the_names_of_cases_differ_and_each_beginning_is_a_case():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    beginnings = {case.name for case in CASES if case.after is None}
    assert {case.after for case in CASES if case.after is not None} <= beginnings


def write_version(tree, accuracy, *, code=0):
    """Writes a stand-in for the package: its command writes a report, and then sleeps if asked."""
    package = tree / "tardis_fl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import pathlib, sys, time\n"
        f"pathlib.Path('report.json').write_text('{{\"accuracy\": {accuracy}}}')\n"
        "time.sleep(60 if 'sleep' in sys.argv else 0)\n"
        f"print('a message', file=sys.stderr)\nsys.exit({code})\n"
    )
    return tree


@pytest.fixture
def _quick(monkeypatch):
    """Stand-ins need none of the libraries."""
    monkeypatch.setattr(commands, "LIBRARIES", ())


@pytest.mark.usefixtures("_quick")
def test_commands_run_in_the_version_that_was_named(tmp_path):
    cases = [
        Case("first", (Step(("simulate",)),)),
        Case("killed", (Step(("sleep",), expects=-9, kill_at="report.json"),), after="first"),
    ]
    both = [
        Side(write_version(tmp_path / name, accuracy, code=code), tmp_path / "results" / name)
        for name, accuracy, code in (("old", 0.5, 0), ("new", 0.25, 3))
    ]
    heard = []
    run_cases(
        [(side, case) for side in both for case in cases],
        jobs=1,
        report=lambda side, case, _: heard.append((side.tree.name, case.name)),
    )
    assert sorted(heard[:2]) == [("new", "first"), ("old", "first")]
    first = [side.folder / "first" for side in both]
    assert found(*first) == [
        ("changed", f"{OUTCOME}: 0.code"),
        ("added", f"{OUTCOME}: 0.message"),
        ("changed", "report.json: accuracy"),
    ]
    assert json.loads((first[1] / OUTCOME).read_text())[0]["message"] == "a message"
    for side in both:
        assert json.loads((side.folder / "killed" / OUTCOME).read_text())[0]["code"] == -9


@pytest.fixture
def repository(tmp_path, monkeypatch, _quick):
    """A repository of a stand-in, which the command takes for this checkout."""
    tree = write_version(tmp_path / "repository", 0.5)
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one"],
    ):
        subprocess.run(["git", "-C", str(tree), *arguments], check=True)
    monkeypatch.setattr(sides, "HERE", tree)
    monkeypatch.setattr(command, "HERE", tree)
    monkeypatch.setattr(sides.tempfile, "tempdir", str(tmp_path))
    first = Case("first", (Step(("simulate",)),))
    monkeypatch.setattr(command, "CASES", (first, Case("next", first.steps, after="first")))
    return tree


def test_the_command_compares_with_a_commit_and_keeps_its_results(repository, capsys):
    assert command.main(["HEAD", "--jobs", "1"]) == 0
    assert "2 of 2 cases are the same" in capsys.readouterr().out
    trees = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True
    )
    assert len(trees.stdout.splitlines()) == 1

    main = repository / "tardis_fl" / "__main__.py"
    main.write_text(main.read_text().replace("0.5", "0.125"))
    assert command.main(["HEAD", "--only", "first", "--jobs", "1"]) == 1
    output = capsys.readouterr().out
    assert "changed report.json: accuracy: 0.5 -> 0.125" in output
    assert "kept" in output
    # The case that it begins with is compared as well, and what differs there isn't said again.
    assert command.main(["HEAD", "--only", "next", "--jobs", "1"]) == 1
    output = capsys.readouterr().out
    assert output.count("changed report.json") == 1
    assert "1 of 2 cases are the same" in output


def test_a_case_that_fails_on_both_sides_is_a_failure(repository, monkeypatch, capsys):
    failing = Case("first", (Step(("simulate",), expects=2),))
    monkeypatch.setattr(command, "CASES", (failing,))
    assert command.main(["HEAD", "--jobs", "1"]) == 1
    assert "on both sides, simulate ended with 0, not 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-commit"], "REF: got 'no-such-commit'; wanted a commit, tag or branch"),
        (["HEAD", "--only", "nothing-*"], "--only: no case fits ['nothing-*']"),
        ([], "REF: got none"),
    ],
)
def test_wrong_use_is_said_in_one_line(repository, capsys, arguments, message):
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_it_is_a_command_and_imports_nothing_of_the_package():
    code = "import sys, benchmarks.same_results.__main__ as m; m.main(['--list'])\n"
    code += "assert not any(name.split('.')[0] == 'tardis_fl' for name in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.split() == [case.name for case in CASES if not case.heavy]
