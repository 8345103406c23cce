"""Is it a policy?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tardis_fl.core.importing import import_callable
from tardis_fl.early_exit.scoring.confidence import checked_scores
from tardis_fl.testing.global_state import seeded_globally
from tardis_fl.testing.refusals import failures, name_of, refuse

WANTED = "a score in [0, 1] for each sample, that depends on this sample alone"


def check_policy(
    policy: str | Callable[[Tensor], Tensor],
    *,
    num_classes: int = 10,
) -> None:
    """Checks a policy on random, on certain and on undecided answers.

    Args:
        policy: A function of class probabilities (B, classes) float64, or MODULE:FUNCTION.
        num_classes: Classes of the answers.

    Raises:
        PluginError: It fails or changes its input; its scores aren't one in [0, 1] for each sample,
            aren't numbers, depend on other samples of the batch, or differ for the same input.
    """
    name = name_of(policy)
    if isinstance(policy, str):
        with failures(name, "when it is imported"):
            policy = import_callable(policy, "deployment.policy")
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(32, num_classes, generator=generator, dtype=torch.float64)
    certain = torch.eye(num_classes, dtype=torch.float64)
    undecided = torch.full((1, num_classes), 1 / num_classes, dtype=torch.float64)
    for probabilities in (torch.softmax(logits, -1), certain, undecided):
        _check_scores(name, policy, probabilities)


def _check_scores(name: str, policy: Callable[[Tensor], Tensor], probabilities: Tensor) -> None:
    with seeded_globally(1):
        scores = _scores(name, policy, probabilities)
    with seeded_globally(2):
        again = _scores(name, policy, probabilities)
    if not torch.equal(scores, again):
        refuse(name, "other scores for the same probabilities", "no randomness")
    alone = torch.cat([_scores(name, policy, row[None]) for row in probabilities])
    if not torch.allclose(scores.double(), alone.double(), rtol=0, atol=1e-9):
        got = f"other scores for samples alone than in a batch of {len(probabilities)}"
        refuse(name, got, WANTED)


def _scores(name: str, policy: Callable[[Tensor], Tensor], probabilities: Tensor) -> Tensor:
    """Returns the scores (B,) of class probabilities (B, classes), after they are checked."""
    given = probabilities.clone()
    with failures(name, f"for probabilities of the shape {tuple(given.shape)}"):
        found = policy(given)
    try:
        scores = checked_scores(lambda _: found, probabilities)
    except ValueError as error:
        got = str(error).removeprefix("confidence function: got ").partition("; wanted")[0]
        refuse(name, got, WANTED)
    if not torch.equal(given, probabilities):
        refuse(name, "probabilities that it changed", "them left as they are")
    return scores
