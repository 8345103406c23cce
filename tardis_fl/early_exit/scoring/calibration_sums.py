"""What clients send of their held-out samples in place of exit tables."""

from __future__ import annotations

from dataclasses import dataclass

from tardis_fl.early_exit.scoring.histograms import Histograms


@dataclass(frozen=True)
class CalibrationSums:
    """What the clients' held-out samples say about thresholds.

    Attributes:
        temperatures: One an exit, fitted on the fit samples.
        histograms: Of the scores of the calibrate samples.
        num_fit: Fit samples behind the temperatures.
        num_calibrate: Calibrate samples in the histograms.
    """

    temperatures: tuple[float, ...]
    histograms: Histograms
    num_fit: int
    num_calibrate: int
