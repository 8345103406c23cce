"""A round while it goes on: who takes part, who fails and when that is too many, and what is counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from tardis_fl.errors import RunError
from tardis_fl.federation.records import Failure, RoundRecord
from tardis_fl.federation.transport.messages import Counts, Ledger

KINDS = {
    "error": "errors",
    "dropout": "dropouts",
    "rejected": "rejected updates",
    "late": "late updates",
}


class RoundState:
    """One round or final epoch.

    Args:
        number: The round.
        clients: Who takes part, ascending.
        max_failed_fraction: Share of them that may fail.

    Attributes:
        train, server, validation: Counts; None where nothing of the kind was done.
        arrivals: Seconds on the virtual clock after which each update came.
        late: Clients whose updates will join a later round; until then they are away.
        feature_ages: Samples the server trained on by their age in rounds.
    """

    def __init__(self, number: int, clients: Sequence[int], max_failed_fraction: float) -> None:
        self.number, self.clients, self.failures = number, tuple(clients), list[Failure]()
        self._limit, self._started = max_failed_fraction, time.perf_counter()
        self.train: Counts | None = None
        self.server: Counts | None = None
        self.validation: Counts | None = None
        self.arrivals: list[float] = []
        self.late: set[int] = set()
        self.feature_ages: dict[int, int] | None = None

    @property
    def healthy(self) -> list[int]:
        """Those who are still there: neither failed nor late."""
        away = {failure.client for failure in self.failures} | self.late
        return [client for client in self.clients if client not in away]

    def fail(
        self, client: int, stage: str, kind: str, details: str, node: int | None = None
    ) -> Failure:
        """Notes a failure; its reason is the last line of the details."""
        lines = details.strip().splitlines()
        failure = Failure(
            self.number,
            client,
            stage,
            kind,
            lines[-1] if lines else "no reason given",
            details,
            node,
        )
        self.failures.append(failure)
        return failure

    def check(self) -> None:
        """Ends the run where too many failed.

        Raises:
            RunError: Says how many, of what kinds, and who failed first.
        """
        if len(self.failures) <= self._limit * len(self.clients):
            return
        first, kinds = self.failures[0], Counter(failure.kind for failure in self.failures)
        counted = ", ".join(f"{KINDS[kind]}: {count}" for kind, count in kinds.items())
        raise RunError(
            f"round {self.number}: {len(self.failures)} of {len(self.clients)} clients failed ({counted}), "
            f"more than federation.max_failed_fraction {self._limit:g} allows.\n"
            f"Client {first.client} failed first, in {first.stage}: {first.reason}"
        )

    def record(
        self,
        ledger: Ledger,
        *,
        learning_rate: float | None,
        exit_weights: Sequence[float],
        update_norm: dict[str, float] | None,
        num_repeated: int,
        virtual_seconds: float | None,
    ) -> RoundRecord:
        """Returns what is kept of the round."""
        return RoundRecord(
            round=self.number,
            clients=self.clients,
            failures=tuple(self.failures),
            num_late=len(self.late),
            num_repeated=num_repeated,
            learning_rate=learning_rate,
            exit_weights=tuple(exit_weights),
            update_norm=update_norm,
            train=self.train,
            server=self.server,
            feature_ages=self.feature_ages,
            validation=self.validation,
            bytes_up=dict(ledger.up),
            bytes_down=dict(ledger.down),
            virtual_seconds=virtual_seconds,
            seconds=time.perf_counter() - self._started,
        )
