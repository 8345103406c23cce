"""A move changes nothing: runs a matrix of small configurations at another commit and here.

    python -m benchmarks.same_results REF [--only GLOB] [--list] [--jobs 2] [--keep DIR] [--heavy]

Each case is a few commands of the public command line, in a work tree of REF and in this checkout
as it stands, changes that aren't committed included. Compared are weights and arrays bit for bit,
and `report.json`, `rounds.jsonl`, manifests and configurations but for times. What only this side
has is listed and allowed; what is gone or changed fails. Results of REF are kept under the
system's temporary folder, so that the next comparison runs this side only.

Exit codes: 0 all same, 1 something differs or fails, 2 wrong use, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.same_results.case import Case
from benchmarks.same_results.commands import OUTCOME, Side, run_cases
from benchmarks.same_results.compare import Difference, compare_folders
from benchmarks.same_results.matrix import CASES
from benchmarks.same_results.sides import HERE, Cache, UnknownCommitError, commit_of, work_tree

WRONG_USE = 2
INTERRUPTED = 130
WIDTH = 120
SHOWN_DIFFERENCES = 8


@dataclass(frozen=True)
class Verdict:
    """What came out for one case.

    Attributes:
        case: The case.
        failure: Which side's commands didn't end as expected, and how; None: both did.
        differences: Between the two sides, without those of the case that this one begins with.
        old_seconds: Of the other commit; None: from the cache.
        new_seconds: Of this checkout.
    """

    case: Case
    failure: str | None
    differences: Sequence[Difference]
    old_seconds: float | None
    new_seconds: float

    @property
    def same(self) -> bool:
        """Whether the case ran as expected and nothing changed or is gone."""
        return self.failure is None and not any(each.fails for each in self.differences)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison and returns the exit code."""
    options = _options().parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    cases = selected(options.only, heavy=options.heavy)
    if options.list:
        for case in cases:
            console.print(case.name)
        return 0
    if options.ref is None or not cases:
        missing = "REF: got none" if options.ref is None else f"--only: no case fits {options.only}"
        print(f"error: {missing}; --list shows the cases", file=sys.stderr)
        return WRONG_USE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        commit = commit_of(options.ref)
        verdicts = compare_all(cases, commit, jobs=options.jobs, keep=options.keep, console=console)
    except UnknownCommitError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED
    show(verdicts, f"{commit[:12]} and {HERE.name}", console)
    return 0 if all(verdict.same for verdict in verdicts) else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_results",
        description="Runs small configurations at another commit and here, and compares results.",
    )
    parser.add_argument("ref", metavar="REF", nargs="?", help="the commit, tag or branch")
    parser.add_argument(
        "--only",
        metavar="GLOB",
        action="append",
        help="cases whose names fit, such as 'faults-*'; repeatable",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time (default: 2)")
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="keep both sides' results under DIR/old, DIR/new"
    )
    parser.add_argument(
        "--heavy", action="store_true", help="also cases on Ray and on Flower's real processes"
    )
    return parser


def selected(globs: Sequence[str] | None, *, heavy: bool) -> list[Case]:
    """Returns the cases whose names fit any of the patterns; all where there is none."""
    return [
        case
        for case in CASES
        if (heavy or not case.heavy) and any(fnmatch(case.name, glob) for glob in globs or ["*"])
    ]


def compare_all(
    cases: Sequence[Case], commit: str, *, jobs: int, keep: Path | None, console: Console
) -> list[Verdict]:
    """Runs cases on both sides and compares them.

    Args:
        cases: The cases to compare; those that they begin with are compared too.
        commit: Hash of the other commit.
        jobs: Commands at a time.
        keep: Folder that keeps both sides' results; None: they are removed.
        console: Hears of each case that is done.
    """
    by_name = {case.name: case for case in CASES}
    cases = _with_beginnings(cases, by_name)
    cache = Cache.of(commit)
    described = {case.name: _description(case, by_name) for case in CASES}
    cached = {name for name, text in described.items() if cache.path(text).is_dir()}
    not_cached = [case for case in cases if case.name not in cached]

    with ExitStack() as stack:
        scratch = stack.enter_context(_scratch(keep))
        new = Side(HERE, scratch / "new")
        work = [(new, case) for case in cases]
        old_folder = scratch / "old"
        if not_cached:
            old = Side(stack.enter_context(work_tree(commit)), old_folder)
            old_cases = _with_beginnings(not_cached, by_name)
            work += [(old, case) for case in old_cases if case.name not in cached]
        # Results from the cache lie beside the others, where cases that begin with them look.
        for case in cases:
            if case.name in cached:
                shutil.copytree(cache.path(described[case.name]), old_folder / case.name)

        def hear(side: Side, case: Case, seconds: float) -> None:
            name = "this side" if side is new else commit[:12]
            console.print(f"{name:>12}  {case.name}  {seconds:.1f} s")
            if side is not new and _failure(case, side.folder / case.name) is None:
                cache.keep(side.folder / case.name, described[case.name])

        seconds = run_cases(work, jobs=jobs, report=hear)
        found = {
            case.name: compare_folders(old_folder / case.name, new.folder / case.name)
            for case in cases
        }
        return [
            Verdict(
                case,
                _failure_of_sides(case, old_folder / case.name, new.folder / case.name),
                _own(found[case.name], found.get(case.after or "", [])),
                seconds.get((old_folder, case.name)),
                seconds[new.folder, case.name],
            )
            for case in cases
        ]


@contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        for side in ("old", "new"):
            shutil.rmtree(keep / side, ignore_errors=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="tardis_fl_same_results_") as folder:
        yield Path(folder)


def _description(case: Case, by_name: dict[str, Case]) -> str:
    before = _description(by_name[case.after], by_name) if case.after else ""
    return f"{before}\n{case.description()}"


def _with_beginnings(cases: Sequence[Case], by_name: dict[str, Case]) -> list[Case]:
    """Returns the cases and, before them, those that they begin with."""
    needed = {case.after: None for case in cases if case.after is not None}
    names = dict.fromkeys([*needed, *(case.name for case in cases)])
    return [by_name[name] for name in names]


def _own(differences: Sequence[Difference], before: Sequence[Difference]) -> list[Difference]:
    known = set(before)
    return [difference for difference in differences if difference not in known]


def _failure(case: Case, folder: Path) -> str | None:
    """Returns how a case's commands ended otherwise than expected; None: they didn't."""
    outcomes = json.loads((folder / OUTCOME).read_text())
    for outcome, step in zip(outcomes, case.steps, strict=False):
        if outcome["code"] != step.expects:
            message = f"{outcome['command']} ended with {outcome['code']}, not {step.expects}"
            return f"{message}: {outcome.get('message', '')}".rstrip(": ")
    return None


def _failure_of_sides(case: Case, old: Path, new: Path) -> str | None:
    old_failure = _failure(case, old)
    new_failure = _failure(case, new)
    if old_failure is not None and old_failure == new_failure:
        return f"on both sides, {new_failure}"
    if old_failure is not None:
        return f"at REF, {old_failure}"
    return f"here, {new_failure}" if new_failure is not None else None


def show(verdicts: Sequence[Verdict], title: str, console: Console) -> None:
    """Prints a table of all cases, then what differs, then what was added or reworded."""
    table = Table(title=f"results of {title}", title_justify="left")
    table.add_column("case")
    table.add_column("result")
    table.add_column("seconds, REF", justify="right")
    table.add_column("here", justify="right")
    for verdict in verdicts:
        old = "kept" if verdict.old_seconds is None else f"{verdict.old_seconds:.1f}"
        table.add_row(verdict.case.name, _result(verdict), old, f"{verdict.new_seconds:.1f}")
    console.print(table)
    for verdict in verdicts:
        _show_differences(verdict, console)
    _show_allowed(verdicts, console)
    num_same = sum(verdict.same for verdict in verdicts)
    console.print(f"{num_same} of {len(verdicts)} cases are the same")


def _result(verdict: Verdict) -> str:
    if verdict.failure is not None:
        return "[red]fails[/red]"
    count = sum(each.fails for each in verdict.differences)
    return f"[red]{count} differences[/red]" if count else "[green]same[/green]"


def _show_differences(verdict: Verdict, console: Console) -> None:
    if verdict.failure is not None:
        console.print(f"\n{verdict.case.name} fails {escape(verdict.failure)}")
    failing = [each for each in verdict.differences if each.fails]
    if not failing:
        return
    console.print(f"\n{verdict.case.name}")
    for difference in failing[:SHOWN_DIFFERENCES]:
        console.print(f"  {escape(str(difference))}")
    if len(failing) > SHOWN_DIFFERENCES:
        console.print(f"  and {len(failing) - SHOWN_DIFFERENCES} more")


def _show_allowed(verdicts: Sequence[Verdict], console: Console) -> None:
    """Prints each place once, with the number of cases that have it."""
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        allowed = {str(each) for each in verdict.differences if not each.fails}
        counts.update(allowed)
    for text, count in sorted(counts.items()):
        console.print(f"{escape(text)}  (in {count} cases)")


if __name__ == "__main__":
    sys.exit(main())
