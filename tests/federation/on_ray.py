"""Runs a small federation on Ray in a process of its own, since Ray leaves files and processes open: python -m tests.federation.on_ray KEY=VALUE ...

With --cluster first, it attaches to a cluster of one core that it starts before, on a port of its own, and tells whether that is still
there afterwards.
"""

from __future__ import annotations

import json
import socket
import sys
from contextlib import contextmanager

from tardis_fl.errors import RunError
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate, fingerprint


def main() -> None:
    if sys.argv[1] == "--cluster":
        with cluster() as address:
            run([*sys.argv[2:], f"runtime.ray_address={address}"])
            with socket.create_connection(address.split(":"), 5):
                return
    run(sys.argv[1:])


@contextmanager
def cluster():
    """Starts a Ray cluster; yields its address."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield started.address
    finally:
        started.shutdown()


def run(overrides):
    """Runs it, and prints what came out."""
    recorder = Recorder()
    try:
        trained = federate(small_config(*overrides, "runtime.engine=ray"), recorder, workers=2)
    except RunError as error:
        print(json.dumps({"error": str(error)}))
        return
    failures = [[failure.client, failure.details] for failure in recorder.failures]
    print(json.dumps({"fingerprint": fingerprint(trained), "failures": failures}))


if __name__ == "__main__":
    main()
