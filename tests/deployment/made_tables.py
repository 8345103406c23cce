"""Exit tables made to measure, for the tests of this folder."""

from __future__ import annotations

import numpy as np

from tardis_fl.early_exit.evaluation import CalibrationTable


def table_of(correct, kind=CalibrationTable, *, first_id=0, client_ids=None):
    """A table in which each exit is right just where `correct` (exits, N) says so; all labels are class 0 of two."""
    correct = np.asarray(correct, dtype=bool)
    logits = np.stack([correct, ~correct], axis=2).astype(np.float32)
    count = correct.shape[1]
    clients = np.zeros(count, np.int64) if client_ids is None else np.asarray(client_ids)
    return kind(logits, np.zeros(count, np.int64), first_id + np.arange(count), clients)


def random_case(seed, count, *, num_exits=3, levels=None):
    """Which exits are right (exits, N), deeper ones worse now and then, and scores (exits - 1, N), with `levels` many ties."""
    rng = np.random.default_rng(seed)
    scores = rng.random((num_exits - 1, count))
    if levels is not None:
        scores = np.round(scores * levels) / levels
    return rng.random((num_exits, count)) < rng.random((num_exits, 1)), scores


def realistic_case(seed, count, *, skill=(0.55, 0.68, 0.8)):
    """As `random_case`, but the deeper the better, and right answers the likelier the higher the score."""
    rng = np.random.default_rng(seed)
    ease = rng.random(count)
    scores = np.clip(0.1 + 0.8 * ease[None] + 0.05 * rng.normal(size=(len(skill) - 1, count)), 0, 1)
    chance = 1 - 2 * (1 - np.asarray(skill)[:, None]) * (1 - ease)
    return rng.random(count)[None] < chance, scores
