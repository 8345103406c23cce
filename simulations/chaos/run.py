"""Lets things go wrong with real nodes: python -m simulations.chaos.run [SCENARIO ...] [--results FILE]."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulations.chaos.scenarios import SCENARIOS
from tardis_fl.runs.folder import machine_facts


def main() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; none: all"
    )
    parser.add_argument(
        "--results", type=Path, default=None, help="write what happened to this JSON file too"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(names):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    table = Table(
        "scenario",
        "must come of it",
        "did it",
        "failures (round, client)",
        "longest round",
        "left behind",
        title="chaos",
        title_justify="left",
    )
    results = {}
    for scenario in SCENARIOS:
        if arguments.scenarios and scenario.name not in arguments.scenarios:
            continue
        print(f"--- {scenario.name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="tardis_fl_chaos_") as folder:
            outcome = scenario.run(Path(folder))
        passed = scenario.holds(outcome) and not outcome.left_behind
        results[scenario.name] = {
            "expected": scenario.expected,
            "passed": passed,
            **asdict(replace(outcome, screen="")),
        }
        failures = (
            ", ".join(f"({number}, {client})" for number, client, _ in outcome.failures) or "none"
        )
        longest = f"{max(outcome.round_seconds):.0f} s" if outcome.round_seconds else "-"
        table.add_row(
            scenario.name,
            scenario.expected,
            "yes" if passed else "NO",
            failures,
            longest,
            str(outcome.left_behind),
        )
        print(
            f"--- {scenario.name}: {'as it must' if passed else 'NOT as it must'}; {'; '.join(outcome.told)}; error: {outcome.error}",
            flush=True,
        )
    Console(highlight=False, width=160).print(table)
    if arguments.results:
        arguments.results.write_text(
            json.dumps({**machine_facts(), "scenarios": results}, indent=2) + "\n"
        )
    sys.exit(0 if all(result["passed"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
