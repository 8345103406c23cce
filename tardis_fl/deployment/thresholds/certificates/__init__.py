"""Thresholds with a guarantee about new samples."""

from tardis_fl.deployment.thresholds.certificates.certify import (
    Certificate,
    CertificateRequest,
    certify,
    default_grid,
    grid_from_fit,
)
from tardis_fl.deployment.thresholds.certificates.evaluation import (
    Evaluation,
    GroupRisk,
    evaluate_certificate,
)
from tardis_fl.deployment.thresholds.certificates.pvalues import smallest_n

__all__ = [
    "Certificate",
    "CertificateRequest",
    "Evaluation",
    "GroupRisk",
    "certify",
    "default_grid",
    "evaluate_certificate",
    "grid_from_fit",
    "smallest_n",
]
