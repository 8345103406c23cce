"""Shared thresholds from the clients' counts: histograms of scores by right and wrong, no samples leave a client.

A client counts, for each early exit k, how often m_k, the largest score up to exit k, lies in each
bin: over all its samples, over those on which exit k is right, and over those on which exit k + 1
is right. These sums are all that a `Sweep` needs.

What holds: at every edge of a bin the sweep made of histograms equals the sweep of all clients'
samples at that threshold, count for count. So what is chosen is the best edge. Against the choice
among all thresholds (t):
- a budget: at least as accurate as t moved down to the next edge, which costs no more than t;
- max_accuracy_drop: as cheap, or cheaper, than t moved up to the next edge, if that edge keeps the
  drop; and not cheaper than t. So the threshold lies within one bin of t wherever right answers
  don't fall with the threshold within that bin, and no thresholds beyond it are just as cheap or
  just as accurate; else it may lie further off, and is then no worse than as said.
"""

from __future__ import annotations

import numpy as np

from tardis_fl.deployment.thresholds.sweep import Integers, Sweep, sweep_of_counts
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT
from tardis_fl.early_exit.scoring.histograms import NUM_BINS, Histograms, edges, score_histograms

__all__ = ["NUM_BINS", "Histograms", "edges", "score_histograms", "sweep_from_histograms"]


def sweep_from_histograms(histograms: Histograms) -> Sweep:
    """Returns the sweep over the edges of the bins and NEVER_EXIT: just what `sweep` would give there on all samples."""

    def at_least(counts: Integers) -> Integers:
        return np.concatenate(
            [counts[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((len(counts), 1), dtype=np.int64)],
            axis=1,
        )

    thresholds = np.append(edges(histograms.num_bins), NEVER_EXIT)
    counts = (
        at_least(array)
        for array in (histograms.reached, histograms.right_here, histograms.right_next)
    )
    return sweep_of_counts(thresholds, *counts, histograms.right_last, histograms.num_samples)
