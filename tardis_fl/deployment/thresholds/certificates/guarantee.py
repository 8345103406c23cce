"""What a certificate promises, and what it doesn't, in words."""

from __future__ import annotations

_LOSSES = {
    "accuracy_gap": "the share of new samples that are answered wrongly where the last exit would be right",
    "consistency": "the share of new samples that are answered otherwise than by the last exit",
    "brier": "the mean loss in Brier score against the last exit (0 to 1, gains counted as 0)",
}


def promise_in_words(
    method: str,
    loss: str,
    groups: str,
    *,
    epsilon: float,
    delta: float,
    num_samples: int,
    num_groups: int,
    reason: str,
) -> str:
    """Returns the sentences that stand beside a certificate.

    Args:
        method, loss, groups, epsilon, delta: As requested.
        num_samples: Calibration samples.
        num_groups: Groups that are each tested.
        reason: Why there is no certificate; empty if there is one.
    """
    if reason:
        return f"Nothing could be certified: {reason}. No sample is answered early, so the network answers as without early exits."
    limit = f"{100 * epsilon:g} %"
    what = _LOSSES[loss]
    of_each = (
        ""
        if groups == "marginal"
        else f" of each {'class' if groups == 'class' else 'client in the calibrate role'}"
    )
    same = "new samples are drawn as the calibration samples were"
    if method == "conformal":
        core = f"On average over draws of the {num_samples} calibration samples, {what}{of_each} is at most {limit}"
        limits = "a single deployment, this one too, may well exceed it"
    else:
        each = f" for all {num_groups} of them together" if groups != "marginal" else ""
        core = f"With a probability of at least {100 * (1 - delta):g} % over draws of the {num_samples} calibration samples, {what}{of_each} is at most {limit}{each}"
        limits = f"in up to {100 * delta:g} % of such calibrations it is exceeded"
    conditional = (
        " It is a mean over all samples: a single class or client may fare worse."
        if groups == "marginal"
        else ""
    )
    return (
        f"{core}, provided that {same}; {limits}.{conditional} It says nothing of data that drift."
    )
