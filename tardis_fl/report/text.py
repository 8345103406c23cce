"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Callable


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


def milliseconds(value: float | None) -> str:
    """Writes milliseconds to three digits, in a larger unit where that reads better; None as a dash."""
    return _three_digits(value, (("ms", 1.0), ("s", 1000.0)), 1000)


def millijoules(value: float | None) -> str:
    """Writes millijoules to three digits, in a larger unit where that reads better; None as a dash."""
    return _three_digits(value, (("mJ", 1.0), ("J", 1000.0)), 1000)


def cost_text(axis: str, value: float) -> str:
    """Writes a cost on one of the axes that deployments are compared on."""
    forms: dict[str, Callable[[float], str]] = {
        "offload_rate": percent,
        "bytes": bytes_text,
        "macs": macs_text,
        "latency_ms": milliseconds,
        "energy_mj": millijoules,
    }
    return forms[axis](value)


def rate_text(per_second: float | None) -> str:
    """Writes a rate to three digits; None as a dash."""
    return (
        "-"
        if per_second is None
        else f"{per_second:,.0f}"
        if per_second >= 100
        else f"{per_second:.3g}"
    )


def _three_digits(value: float | None, units: tuple[tuple[str, float], ...], limit: float) -> str:
    if value is None:
        return "-"
    unit, size = units[0] if abs(value) < limit else units[1]
    number = value / size
    digits = (
        0
        if abs(number) >= 100
        else 1
        if abs(number) >= 10
        else 2
        if abs(number) >= 0.095 or number == 0
        else 4
    )
    return f"{number:.{digits}f} {unit}"
