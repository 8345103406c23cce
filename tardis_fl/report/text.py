"""Numbers as a person reads them."""

from __future__ import annotations


def percent(fraction: float | None, digits: int = 1) -> str:
    """Writes a fraction in [0, 1] as percent; None as a dash."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def bytes_text(count: float) -> str:
    """Writes bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration_text(seconds: float) -> str:
    """Writes a duration to one or two units."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def macs_text(count: float) -> str:
    """Writes multiply-accumulates with a unit."""
    return f"{count / 1e6:.2f} M" if count < 1e9 else f"{count / 1e9:.2f} G"
