"""Threads and arithmetic: what this machine computes with."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

from tardis_fl.config.schema import RuntimeConfig


def use_threads(runtime: RuntimeConfig) -> int:
    """Sets PyTorch's threads to `runtime.threads`, or to the cores this process may use; returns their number."""
    threads = runtime.threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    torch.set_num_threads(threads)
    return threads


def resolve_precision(runtime: RuntimeConfig) -> str:
    """Returns float32 or bfloat16; auto takes bfloat16 where the processor has instructions for it (AVX-512 BF16 or AMX)."""
    if runtime.precision != "auto":
        return runtime.precision
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if any(check() for check in checks if check) else "float32"


def training_arithmetic(precision: str) -> AbstractContextManager[object]:
    """Returns the context that forward passes of training run in."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")
