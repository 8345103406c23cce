"""How many clients train at a time, and with how many threads each.

What fits the cores, the batches and the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from tardis_fl.config.schema import Config
from tardis_fl.core.compute import num_cores, resolve_device

# of a batch: with fewer, processes of one thread are faster than threads (batches of 50 on two
# cores: 1.25 times)
IMAGES_A_THREAD = 32
# of all clients' training, some ten seconds: below, the start of processes takes longer than they
# save
WORTH_WORKERS_MACS = 1e12
# a process with PyTorch, a small network and its buffers; images are mapped, and shared by all
WORKER_BYTES = 768 * 2**20
SERVER_SHARE = 0.5  # of the free memory, left to the server and to others


@dataclass(frozen=True)
class Parallelism:
    """Who does the clients' work.

    Attributes:
        workers: Clients that train at a time; 1 on the engine inline: in this process.
        client_threads: Threads that each of them trains with.
        reason: Why so many, for a person.
    """

    workers: int
    client_threads: int
    reason: str


def choose_parallelism(
    config: Config,
    train_macs: float,
    *,
    threads: int,
    cores: int | None = None,
    free_bytes: int | None = None,
) -> Parallelism:
    """Returns the configured number of workers, or the one that suits this machine.

    It doesn't depend on how busy the cores are.

    Args:
        config: The configuration.
        train_macs: Multiply-accumulates of a forward pass over every image of all clients'
            training.
        threads: Of this process.
        cores: That may be used; None: this process's.
        free_bytes: Memory that is free; None: this machine's.
    """
    if config.runtime.engine == "deployment":
        return Parallelism(config.clients_per_round, 1, "each on a node of its own")
    runtime = config.runtime
    batch = config.federation.client.batch_size
    cores = cores or num_cores()
    free_bytes = psutil.virtual_memory().available if free_bytes is None else free_bytes
    alone_threads = 1 if runtime.engine == "ray" else threads
    if runtime.workers is not None:
        workers = min(runtime.workers, config.clients_per_round)
        fewer = (
            f"; no more clients than {workers} train in a round"
            if workers < runtime.workers
            else ""
        )
        return Parallelism(workers, 1 if workers > 1 else alone_threads, f"runtime.workers{fewer}")
    fitting = max(1, int(free_bytes * (1 - SERVER_SHARE) / WORKER_BYTES))
    most = min(cores, config.clients_per_round, fitting)
    if runtime.engine == "ray":
        return Parallelism(most, 1, _limit(most, cores, fitting))
    why_not = None
    if most == 1:
        why_not = _limit(most, cores, fitting)
    elif resolve_device(runtime).type == "cuda":
        why_not = "they share the GPU"
    elif config.federation.split:
        why_not = "split training takes turns with the server"
    elif batch >= IMAGES_A_THREAD * cores:
        why_not = f"batches of {batch} are enough for {cores} threads"
    elif train_macs < WORTH_WORKERS_MACS:
        why_not = "too little to do for more processes"
    if why_not is not None:
        return Parallelism(1, alone_threads, why_not)
    limit = _limit(most, cores, fitting)
    return Parallelism(
        most, 1, f"batches of {batch} are too few images for {cores} threads; {limit}"
    )


def _limit(workers: int, cores: int, fitting: int) -> str:
    """Returns what limits the number of workers, for a person."""
    if workers == cores:
        return f"{cores} core{'s' if cores > 1 else ''}"
    if workers == fitting:
        return f"memory for {fitting}"
    return f"{workers} client{'s' if workers > 1 else ''} a round"
