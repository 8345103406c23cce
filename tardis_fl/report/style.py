"""Colours and settings that all plots share."""

from __future__ import annotations

SERIES = ("#2f6db5", "#d98b1f", "#3a8f5c", "#a3477f", "#6b6b6b", "#8a5a2b")
RIGHT, WRONG, MUTED = "#3a8f5c", "#c65146", "#8a8f98"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tardis_fl",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
