"""Threads and arithmetic: what this machine computes with."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager
from functools import cache

import torch

from tardis_fl.config.runtime import RuntimeConfig
from tardis_fl.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 256 * 2**20
# environment variable: threads that a process may compute with at most, whatever a configuration
# says
MOST_THREADS = "TARDIS_FL_THREADS"


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(runtime: RuntimeConfig) -> int:
    """Sets PyTorch's threads to `runtime.threads`, or to the cores this process may use; returns their number."""
    _keep_memory()
    threads = min(runtime.threads or num_cores(), int(os.environ.get(MOST_THREADS) or sys.maxsize))
    torch.set_num_threads(threads)
    return threads


@cache
def _keep_memory() -> None:
    """Lets glibc keep freed memory up to 256 MiB.

    It else gives each large gradient and each model back to the system, and takes it again page by
        page: a tenth of the time of training with small batches.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def resolve_device(runtime: RuntimeConfig) -> torch.device:
    """Returns where training and evaluation compute; auto takes a GPU where there is one.

    Raises:
        ConfigError: The configuration wants a GPU and PyTorch sees none.
    """
    there = torch.cuda.is_available()
    if runtime.device == "cuda" and not there:
        raise ConfigError(
            "runtime.device: got 'cuda'; PyTorch sees no GPU here; wanted auto or cpu"
        )
    return torch.device("cuda" if there and runtime.device != "cpu" else "cpu")


def resolve_precision(runtime: RuntimeConfig) -> str:
    """Returns float32 or bfloat16; auto takes bfloat16 where there are instructions for it (AVX-512 BF16, AMX, or a GPU's)."""
    if runtime.precision != "auto":
        return runtime.precision
    if resolve_device(runtime).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    checks = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bfloat16" if any(check() for check in checks if check) else "float32"


def training_arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Returns the context that forward passes of training run in."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
