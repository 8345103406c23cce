"""Writes what happens as lines of JSON, for another program to follow."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tardis_fl.errors import ConfigError
from tardis_fl.federation.callbacks.base import Callback, RunStart

if TYPE_CHECKING:
    from tardis_fl.federation.callbacks.base import TakeSnapshot
    from tardis_fl.federation.records import Failure, RoundRecord

STANDARD_OUTPUT = "-"


class JsonLines(Callback):
    """Appends one JSON object a line: `{"event": "round", ...}`.

    Events are `begin`, `failure`, `notice`, `round`, `epoch` and `end`. A round's and an epoch's
    line have the keys of `rounds.jsonl`.

    Args:
        path: The file, relative to the working folder; `-`: standard output.
    """

    def __init__(self, *, path: str = STANDARD_OUTPUT) -> None:
        if path != STANDARD_OUTPUT and not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"path: got {path!r}; wanted a file in a folder that exists")
        self.path = path

    def on_run_begin(self, start: RunStart) -> None:
        """Writes the line `begin`."""
        config = start.config
        self._write("begin", name=config.name, seed=config.seed, rounds_before=len(start.rounds))

    def on_failure(self, failure: Failure) -> None:
        """Writes a line `failure`."""
        self._write("failure", **asdict(failure))

    def on_notice(self, text: str) -> None:
        """Writes a line `notice`."""
        self._write("notice", text=text)

    def on_round_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """Writes a line `round`."""
        self._write("round", **record.to_json())

    def on_epoch_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """Writes a line `epoch`."""
        self._write("epoch", **record.to_json())

    def on_run_end(self, error: BaseException | None) -> None:
        """Writes the line `end`."""
        self._write("end", error=None if error is None else f"{type(error).__name__}: {error}")

    def _write(self, event: str, **facts: object) -> None:
        line = json.dumps({"event": event, **facts}) + "\n"
        if self.path == STANDARD_OUTPUT:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(line)
