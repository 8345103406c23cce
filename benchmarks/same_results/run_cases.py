"""Cases of whole runs: interrupted ones, other engines and commands, shipped files, errors."""

from __future__ import annotations

from benchmarks.same_results.case import CONFIG, RUN, TREE, Case, Step, overrides, simulate
from benchmarks.same_results.training_cases import EVERYTHING, MIXED, SMALL, trained

ROUND_DONE = f"{RUN}/checkpoint/round.safetensors"
EPOCH_DONE = f"{RUN}/checkpoint/final_epoch.safetensors"


def shipped(name: str, *settings: str) -> Case:
    """Returns a case that trains a shipped configuration, made small."""
    shrunk = (
        "data.dataset=synthetic",
        "data.synthetic={num_train: 400, num_test: 120}",
        "data.on_missing=error",
        "data.max_train_samples=null",
        "federation.rounds=2",
        "federation.num_clients=4",
        "federation.final_server_epochs=3",
        "runtime.threads=1",
        "runtime.workers=1",
        "runtime.precision=float32",
        "runtime.device=cpu",
    )
    config = f"{TREE}/configs/{name}.yaml"
    return Case(f"shipped-{name}", (Step(simulate(config, *shrunk, *settings)),))


INTERRUPTED = (
    Case(
        "resume-with-more-rounds",
        (
            Step(simulate(CONFIG, *EVERYTHING, "federation.rounds=2")),
            Step(simulate(CONFIG, *EVERYTHING, "federation.rounds=4", resume=True)),
        ),
        files={CONFIG: SMALL},
    ),
    Case(
        "resume-killed-in-rounds",
        (
            Step(simulate(CONFIG, *EVERYTHING), expects=-9, kill_at=ROUND_DONE),
            Step(simulate(CONFIG, *EVERYTHING, resume=True)),
        ),
        files={CONFIG: SMALL},
    ),
    Case(
        "resume-killed-in-final-epochs",
        (
            Step(
                simulate(CONFIG, *EVERYTHING, "federation.final_server_epochs=8"),
                expects=-9,
                kill_at=EPOCH_DONE,
            ),
            Step(simulate(CONFIG, *EVERYTHING, "federation.final_server_epochs=8", resume=True)),
        ),
        files={CONFIG: SMALL},
    ),
    trained("workers-2", *MIXED, "runtime.workers=2"),
    trained("workers-2-everything", *EVERYTHING, "runtime.workers=2"),
    trained("precision-bfloat16", "runtime.precision=bfloat16", "federation.client_depth=2"),
    Case(
        "reference-trainings",
        (
            Step(simulate(CONFIG, "federation.rounds=1")),
            Step(
                (
                    *("baselines", CONFIG, "--output", RUN, "--clients", "2"),
                    *overrides("federation.rounds=1"),
                )
            ),
        ),
        files={CONFIG: SMALL},
    ),
    Case(
        "sweep",
        (
            Step(
                (
                    *("sweep", CONFIG, "--output", "sweep", "--seeds", "2"),
                    *overrides("federation.rounds=1", "federation.client_depth=1,3"),
                )
            ),
        ),
        files={CONFIG: SMALL},
    ),
    Case(
        "engine-ray",
        (
            Step(
                (
                    *("federate", CONFIG, "--engine", "ray", "--output", RUN),
                    *overrides(*MIXED, "runtime.workers=2"),
                )
            ),
        ),
        files={CONFIG: SMALL},
        heavy=True,
    ),
    Case(
        "engine-deployment",
        (
            Step(
                (
                    *("federate", CONFIG, "--engine", "deployment", "--output", RUN),
                    *overrides("runtime.workers=null", "federation.rounds=1"),
                )
            ),
        ),
        files={CONFIG: SMALL},
        heavy=True,
    ),
)

SHIPPED = (
    shipped("quickstart"),
    shipped("uneven_fleet", "federation.rounds=3"),
    shipped("cifar10_3tier", "deployment.load.num_requests=5000", "model.width=8"),
    shipped("lora_sensor", "deployment.load.num_requests=5000"),
    shipped("wearable_lte", "deployment.load.num_requests=5000", "model.width=8"),
    shipped("smart_camera", "deployment.load.num_requests=5000", "model.width=8"),
)

ERRORS = (
    trained("error-in-a-key", "federation.rounds=0", "federation.client_dept=2", expects=2),
    trained("error-of-two-keys", "federation.client_depth=9", "deployment.mixing=true", expects=2),
    trained("error-of-data", "data={dataset: image_folder, root: nowhere}", expects=3),
    trained("error-of-a-run", "federation.faults=[{kind: crash}]", expects=4),
)

RUNS = (*INTERRUPTED, *SHIPPED, *ERRORS)
