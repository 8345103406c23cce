"""All cases that a comparison runs."""

from __future__ import annotations

from benchmarks.same_results.case import Case
from benchmarks.same_results.data_cases import DATA_AND_NETWORKS
from benchmarks.same_results.deployment_cases import DEPLOYMENT
from benchmarks.same_results.run_cases import RUNS
from benchmarks.same_results.training_cases import TRAINING

CASES: tuple[Case, ...] = (*TRAINING, *DATA_AND_NETWORKS, *RUNS, *DEPLOYMENT)
