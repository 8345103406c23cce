"""Runs a small federation on Ray in a process of its own, since Ray leaves files and processes open: python -m tests.federation.engines.on_ray KEY=VALUE ..."""

from __future__ import annotations

import json
import sys

from tardis_fl.errors import RunError
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate, fingerprint


def main() -> None:
    recorder = Recorder()
    try:
        trained = federate(small_config(*sys.argv[1:], "runtime.engine=ray"), recorder, workers=2)
    except RunError as error:
        print(json.dumps({"error": str(error)}))
        return
    failures = [[failure.client, failure.details] for failure in recorder.failures]
    print(json.dumps({"fingerprint": fingerprint(trained), "failures": failures}))


if __name__ == "__main__":
    main()
