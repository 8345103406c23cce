"""What goes wrong with real nodes, and what must come of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simulations.chaos.stage import Outcome, Stage, perform
from tardis_fl.federation.engines.local_flower.certificates import write_certificates
from tardis_fl.federation.engines.local_flower.deployment import LocalDeployment

REPLY_TIMEOUT, SLACK = (
    30.0,
    10.0,
)  # seconds: runtime.reply_timeout_s of the small run, and what may come on top of it
SENDS_FEATURES, SENT = "Sending: query.features", "Sent successfully"  # in a SuperNode's log
SECONDS_TO_ANNOUNCE = 0.2
LARGE_REPLIES = (  # 29 MB of features in one message from each node
    "data.synthetic.num_train=1500",
    "model.backbone=resnet20",
    "model.width=32",
    "model.cuts=[stem, layer2_0]",
    "federation.client_depth=1",
    "federation.rounds=1",
    "federation.server_epochs=1",
    "federation.feature_codec=float32",
    "federation.piece_bytes=536870912",
)


@dataclass(frozen=True)
class Scenario:
    """One thing that goes wrong.

    Attributes:
        name: Of the scenario.
        expected: What must come of it, in words.
        run: Performs it in a folder.
        holds: Whether what was expected came.
    """

    name: str
    expected: str
    run: Callable[[Path], Outcome]
    holds: Callable[[Outcome], bool]


def _killed_while_training(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(1)
        stage.await_client(1)
        stage.kill(1)

    return perform(folder, act)


def _killed_before_it_replies(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(1)
        client = stage.await_client(1)
        client.wait(60)  # its work is done, the reply is on its way
        stage.kill(1)

    return perform(folder, act)


def _killed_while_it_sends(folder: Path) -> Outcome:
    """Flower has announced its reply of tens of megabytes to the server, and waits for the rest of it."""

    def act(stage: Stage) -> None:
        log = stage.deployment.folder / "node_1.log"
        stage.await_that(
            lambda: log.exists() and SENDS_FEATURES in log.read_text(), "node 1 to send features"
        )
        time.sleep(SECONDS_TO_ANNOUNCE)
        stage.kill(1)
        if SENT in log.read_text().partition(SENDS_FEATURES)[2]:
            raise TimeoutError("node 1 had sent all when it was killed; give it more to send")
        killed, screen = time.monotonic(), stage.deployment.folder / "follow" / "screen.txt"
        stage.await_that(
            lambda: "failed in features" in screen.read_text(), "the server to give node 1 up"
        )
        waited = time.monotonic() - killed
        stage.tell(f"the server gives it up after {waited:.0f} s")
        if waited > REPLY_TIMEOUT + SLACK:
            raise TimeoutError(f"the server waited {waited:.0f} s for node 1")

    return perform(folder, act, overrides=LARGE_REPLIES)


def _killed_between_rounds(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(1)
        stage.kill(1)
        time.sleep(2)
        stage.tell("node 1 is started again")
        stage.deployment.start_node(1)

    return perform(folder, act, overrides=("federation.rounds=5",))


def _joins_late(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(1)
        stage.tell("node 2 is started")
        stage.deployment.start_node(2)

    return perform(
        folder, act, nodes=2, overrides=("runtime.min_nodes=2", "runtime.nodes_timeout_s=5")
    )


def _superlink_killed(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(2)
        stage.tell("the SuperLink is killed")
        stage.deployment.superlink._process.kill()

    first = perform(folder, act)
    assert first.error is not None and first.error.startswith("the SuperLink ended"), first
    second = perform(
        folder, lambda stage: stage.tell("the run goes on with a new SuperLink"), resume=True
    )
    return Outcome(
        second.error,
        second.failures,
        second.round_seconds,
        first.screen + second.screen,
        [*first.told, *second.told],
        first.seconds + second.seconds,
        first.left_behind + second.left_behind,
    )


def _superlink_restarted(folder: Path) -> Outcome:
    """The same nodes and the same database, as on real hosts."""

    def restart(stage: Stage, run_config: dict[str, str | bool]) -> Path:
        stage.await_round(2)
        stage.tell("the SuperLink is killed, and started again on its database")
        stage.deployment.superlink._process.kill()
        stage.deployment.superlink._process.wait()
        stage.deployment.start_superlink()
        stage.tell("the run is submitted again, with resume")
        follow = stage.deployment.folder / "follow_again"
        follow.mkdir()
        stage.deployment.submit({**run_config, "resume": True, "follow": str(follow)})
        return follow

    return perform(folder, lambda stage: None, restart=restart)


def _network_cut(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(1)
        stage.await_client(1)
        stage.cut_off(1, 10)

    return perform(folder, act)


def _slow_node(folder: Path) -> Outcome:
    def act(stage: Stage) -> None:
        stage.await_round(1)
        stage.await_client(1)
        stage.cut_off(1, REPLY_TIMEOUT + 5)

    return perform(folder, act, overrides=("federation.rounds=6",))


def _same_partition(folder: Path) -> Outcome:
    def start(deployment: LocalDeployment) -> None:
        deployment.start_node(2, partition=1)

    return perform(
        folder, lambda stage: stage.tell("nodes 1 and 2 have partition-id 1"), nodes=2, before=start
    )


def _unregistered_key(folder: Path) -> Outcome:
    def start(deployment: LocalDeployment) -> None:
        stranger = deployment.start_node(2, registered=False)
        stranger._process.wait(60)

    return perform(
        folder,
        lambda stage: stage.tell("node 2's key isn't registered"),
        nodes=2,
        secure=True,
        before=start,
        overrides=("runtime.min_nodes=2", "runtime.nodes_timeout_s=5"),
    )


def _foreign_certificate(folder: Path) -> Outcome:
    def start(deployment: LocalDeployment) -> None:
        ours = deployment.folder / "ca.crt"
        kept = ours.read_bytes()
        with tempfile.TemporaryDirectory() as other:
            write_certificates(Path(other))
            node = deployment.start_node(
                2
            )  # its key is registered while the connection is still trusted
            node._process.kill()
            node._process.wait()
            ours.write_bytes((Path(other) / "ca.crt").read_bytes())
        deployment.start_node(2)
        time.sleep(5)
        ours.write_bytes(kept)

    return perform(
        folder,
        lambda stage: stage.tell("node 2 trusts another authority"),
        nodes=2,
        secure=True,
        before=start,
        overrides=("runtime.min_nodes=2", "runtime.nodes_timeout_s=5"),
    )


def _went_on_without(client: int, rounds: list[int], *, total: int) -> Callable[[Outcome], bool]:
    """All rounds are done, just this client failed, and just in these rounds; nothing waited longer than it may."""

    def holds(outcome: Outcome) -> bool:
        in_time = all(seconds <= REPLY_TIMEOUT + SLACK for seconds in outcome.round_seconds)
        return (
            outcome.error is None
            and len(outcome.round_seconds) == total
            and outcome.failures == [(number, client, "dropout") for number in rounds]
            and in_time
        )

    return holds


def _went_on_after_some(client: int, *, total: int) -> Callable[[Outcome], bool]:
    """All rounds are done; this client alone failed, in at least one round, and was back in the last one."""

    def holds(outcome: Outcome) -> bool:
        in_time = all(seconds <= REPLY_TIMEOUT + SLACK for seconds in outcome.round_seconds)
        rounds = [
            number
            for number, failed, kind in outcome.failures
            if failed == client and kind == "dropout"
        ]
        only = len(rounds) == len(outcome.failures)
        return (
            outcome.error is None
            and len(outcome.round_seconds) == total
            and only
            and bool(rounds)
            and total not in rounds
            and in_time
        )

    return holds


SCENARIOS = [
    Scenario(
        "killed_while_training",
        "client 1 drops out from round 2 on, the run ends well",
        _killed_while_training,
        _went_on_without(1, [2, 3, 4], total=4),
    ),
    Scenario(
        "killed_before_it_replies",
        "client 1 drops out from round 2 or 3 on, the run ends well",
        _killed_before_it_replies,
        lambda outcome: (
            _went_on_without(1, [2, 3, 4], total=4)(outcome)
            or _went_on_without(1, [3, 4], total=4)(outcome)
        ),
    ),
    Scenario(
        "killed_while_it_sends",
        "client 1 drops out within the timeout, the run ends well",
        _killed_while_it_sends,
        lambda outcome: outcome.error is None and outcome.failures == [(1, 1, "dropout")],
    ),
    Scenario(
        "killed_between_rounds",
        "client 1 drops out and is back when its node is",
        _killed_between_rounds,
        _went_on_after_some(1, total=5),
    ),
    Scenario(
        "joins_late",
        "client 2 drops out until its node joins",
        _joins_late,
        _went_on_after_some(2, total=4),
    ),
    Scenario(
        "superlink_killed",
        "the run ends, and goes on after round 2",
        _superlink_killed,
        _went_on_without(1, [], total=4),
    ),
    Scenario(
        "superlink_restarted",
        "the run goes on after round 2 with the same nodes",
        _superlink_restarted,
        _went_on_without(1, [], total=4),
    ),
    Scenario(
        "network_cut",
        "nobody fails: ten seconds are within the timeout",
        _network_cut,
        _went_on_without(1, [], total=4),
    ),
    Scenario(
        "slow_node",
        "client 1 drops out of a round and is back",
        _slow_node,
        _went_on_after_some(1, total=6),
    ),
    Scenario(
        "same_partition",
        "the run ends and names the client",
        _same_partition,
        lambda outcome: (
            outcome.error == "two nodes are client 1: give each node a partition-id of its own"
        ),
    ),
    Scenario(
        "unregistered_key",
        "the node can't take part, the others train",
        _unregistered_key,
        _went_on_without(2, [1, 2, 3, 4], total=4),
    ),
    Scenario(
        "foreign_certificate",
        "the node can't take part, the others train",
        _foreign_certificate,
        _went_on_without(2, [1, 2, 3, 4], total=4),
    ),
]
