"""Files that are either the old or the new one, never half of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tardis_fl.errors import RunError


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step.

    Raises:
        RunError: It can't be written, for example since the disk is full; a previous file stays
            whole.
    """
    scratch = None
    try:
        descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        if scratch is not None and os.path.exists(scratch):
            os.unlink(scratch)
        raise RunError(
            f"{path}: can't be written ({error.strerror or error}); what was there before is unchanged"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
