"""What thresholds are chosen for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tardis_fl.config.deployment import DeploymentConfig

Kind = Literal[
    "max_accuracy_drop",
    "target_offload_rate",
    "latency_budget_ms",
    "energy_budget_mj",
    "bytes_budget",
    "fixed",
]
BUDGETS = {
    "target_offload_rate": "offload_rate",
    "latency_budget_ms": "latency_ms",
    "energy_budget_mj": "energy_mj",
    "bytes_budget": "bytes",
}
"""The axis of costs that each budget limits."""
UNITS = {
    "offload_rate": "",
    "bytes": " bytes",
    "macs": " MACs",
    "latency_ms": " ms",
    "energy_mj": " mJ",
}
_LEAST = {
    "offload_rate": "offload as little as that allows",
    "bytes": "send as few bytes as that allows",
    "macs": "compute as little as that allows",
    "latency_ms": "answer as soon as that allows",
    "energy_mj": "use as little of the device's energy as that allows",
}


@dataclass(frozen=True)
class Target:
    """What thresholds are chosen for.

    Attributes:
        kind: max_accuracy_drop: as cheap as losing at most `value` of accuracy against never
            exiting early allows; a budget: as accurate as a mean cost of at most `value` allows;
            fixed: `thresholds`.
        value: Of the drop (a share) or the budget (in its unit); None for fixed.
        thresholds: For fixed, one for each exit but the last; a value above 1 means never.
        mode: shared: one threshold for all exits; per_exit: one for each.
        minimise: For max_accuracy_drop, the axis of costs to make small.
        mixing: For a budget, meet it by mixing two choices at random.

    Raises:
        ValueError: They don't fit together.
    """

    kind: Kind
    value: float | None = None
    thresholds: tuple[float, ...] | None = None
    mode: Literal["shared", "per_exit"] = "shared"
    minimise: str = "offload_rate"
    mixing: bool = False

    def __post_init__(self) -> None:
        kinds = ("max_accuracy_drop", *BUDGETS, "fixed")
        if self.kind not in kinds:
            raise ValueError(f"target: got {self.kind!r}; wanted one of {', '.join(kinds)}")
        if self.mode not in ("shared", "per_exit"):
            raise ValueError(f"{self.kind}: got the mode {self.mode!r}; wanted shared or per_exit")
        if (self.kind == "fixed") != (self.thresholds is not None) or (self.kind == "fixed") != (
            self.value is None
        ):
            raise ValueError(
                f"{self.kind}: got the value {self.value} and the thresholds {self.thresholds}; wanted thresholds for fixed, a value for others"
            )
        if self.value is not None and not self.value >= 0:
            raise ValueError(f"{self.kind}: got {self.value}; wanted at least 0")
        if self.mixing and self.kind not in BUDGETS:
            raise ValueError(f"mixing: goes with a budget ({', '.join(BUDGETS)}); got {self.kind}")
        if self.minimise != "offload_rate" and self.kind != "max_accuracy_drop":
            raise ValueError(
                f"minimise: goes with max_accuracy_drop; got {self.kind}, which limits an axis of its own"
            )

    @classmethod
    def from_config(cls, deployment: DeploymentConfig) -> Target:
        """Returns the target of a configuration that doesn't ask for a certificate."""
        if deployment.thresholds is not None:
            return cls("fixed", thresholds=tuple(deployment.thresholds))
        kind = next(
            (
                kind
                for kind in ("max_accuracy_drop", *BUDGETS)
                if getattr(deployment, kind) is not None
            ),
            None,
        )
        if kind is None:
            raise ValueError("deployment: it names no target for thresholds")
        minimise = deployment.minimise if kind == "max_accuracy_drop" else "offload_rate"
        return cls(
            kind,
            getattr(deployment, kind),
            mode=deployment.threshold_mode,
            minimise=minimise,
            mixing=deployment.mixing,
        )

    @property
    def axis(self) -> str:
        """The axis of costs that is limited, or made small."""
        return BUDGETS.get(self.kind, self.minimise)

    def in_words(self, thresholds: Sequence[float]) -> str:
        """Returns what was asked for, in words."""
        if self.kind == "fixed":
            return f"keep the fixed thresholds {', '.join(f'{t:g}' for t in thresholds)}"
        assert self.value is not None
        per_exit = ", with a threshold for each exit" if self.mode == "per_exit" else ""
        mixing = ", mixing two choices at random" if self.mixing else ""
        if self.kind == "max_accuracy_drop":
            least = _LEAST.get(self.minimise, f"make {self.minimise} as small as that allows")
            return f"lose at most {100 * self.value:g} points of accuracy against never exiting early, and {least}{per_exit}"
        limits = {
            "target_offload_rate": f"offload at most {100 * self.value:g} % of samples",
            "latency_budget_ms": f"take at most {self.value:g} ms a sample on average",
            "energy_budget_mj": f"use at most {self.value:g} mJ of the device's energy a sample on average",
            "bytes_budget": f"send at most {self.value:g} bytes a sample on average",
        }
        return f"{limits[self.kind]}, as accurately as that allows{per_exit}{mixing}"
