"""What can be said of a deployment before anything is trained: budgets below the least possible, messages that no frame carries, too few samples."""

from __future__ import annotations

from collections.abc import Sequence

from tardis_fl.codecs.codec import sample_bytes
from tardis_fl.config.schema import Config
from tardis_fl.deployment.hardware.machines import Machines
from tardis_fl.deployment.pipeline import cost_axes
from tardis_fl.deployment.scoring.policies import extra_bytes
from tardis_fl.deployment.thresholds.certificates.certify import CertificateRequest, check_enough
from tardis_fl.deployment.thresholds.sweep import checked_budget
from tardis_fl.deployment.thresholds.targets import BUDGETS
from tardis_fl.early_exit.counting import SegmentCost


def check_feasible(
    config: Config, costs: Sequence[SegmentCost], *, num_calibrate: int, num_classes: int
) -> None:
    """Refuses a deployment that can't come out, whatever the training gives.

    Args:
        config: The experiment.
        costs: Of each segment.
        num_calibrate: Samples of the calibrate role over all clients.
        num_classes: Of the data.

    Raises:
        DataError: So few calibrate samples that no certificate can come out.
        ConfigError: A message doesn't fit into a link's frame.
        RunError: Even never escalating exceeds the budget.
    """
    deployment = config.deployment
    if deployment.certificate is not None:
        check_enough(num_calibrate, CertificateRequest(**deployment.certificate.model_dump()))
    extra = extra_bytes(deployment.policy, deployment.ensemble == "geometric", num_classes)
    sizes = [sample_bytes(cost.feature_shape, deployment.feature_codec) for cost in costs[:-1]]
    machines = (
        Machines.of(config, [cost.macs for cost in costs], [(size or 0) + extra for size in sizes])
        if deployment.hardware
        else None
    )
    if machines is not None and deployment.thresholds is None:
        for link, size in zip(machines.system.links, sizes, strict=True):
            if size is not None:  # what a compressing codec makes of features isn't known yet
                link.check_payload(size + extra)
    axes = cost_axes(costs, [0.0] * len(sizes), machines)
    for key, axis in BUDGETS.items():
        budget = getattr(deployment, key)
        if budget is not None:
            checked_budget(axis, budget, axes[axis][0])
