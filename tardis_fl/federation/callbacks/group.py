"""Several callbacks as one, and those of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tardis_fl.core.importing import failure_of
from tardis_fl.core.problem import Problem
from tardis_fl.errors import ConfigError, RunError, TardisError
from tardis_fl.federation.callbacks.base import Callback, RunStart, StopTraining
from tardis_fl.federation.callbacks.registry import CALLBACKS

if TYPE_CHECKING:
    from tardis_fl.config.runtime import CallbackConfig
    from tardis_fl.federation.callbacks.base import TakeSnapshot
    from tardis_fl.federation.records import Failure, RoundRecord, Work


class CallbackGroup(Callback):
    """Calls several callbacks, in order.

    One that raises `StopTraining` doesn't keep the others from being called. Of an error the rest
    are told at the end of the run.

    Args:
        callbacks: Ours first, so that a round is on disk before a user's callback sees it.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_run_begin(self, start: RunStart) -> None:
        """See `Callback`."""
        self._call("on_run_begin", start)

    def on_progress(self, work: Work, num_samples: int) -> None:
        """See `Callback`."""
        self._call("on_progress", work, num_samples)

    def on_failure(self, failure: Failure) -> None:
        """See `Callback`."""
        self._call("on_failure", failure)

    def on_notice(self, text: str) -> None:
        """See `Callback`."""
        self._call("on_notice", text)

    def on_round_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """See `Callback`."""
        self._call("on_round_end", record, snapshot)

    def on_epoch_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        """See `Callback`."""
        self._call("on_epoch_end", record, snapshot)

    def on_run_end(self, error: BaseException | None) -> None:
        """See `Callback`."""
        self._call("on_run_end", error)

    def _call(self, method: str, *arguments: object) -> None:
        stop: StopTraining | None = None
        for callback in self.callbacks:
            try:
                getattr(callback, method)(*arguments)
            except StopTraining as wish:
                stop = wish
        if stop is not None:
            raise stop


class UsersCallback(CallbackGroup):
    """A user's callback: what it raises becomes one message that names it.

    Args:
        callback: The user's object.
        name: What the message calls it: `callbacks.0.use: got 'my_package:Plot'`.
    """

    def __init__(self, callback: Callback, name: str) -> None:
        super().__init__([callback])
        self.name = name

    def _call(self, method: str, *arguments: object) -> None:
        try:
            super()._call(method, *arguments)
        except (StopTraining, TardisError):
            raise
        except Exception as error:  # a user's code may raise anything
            raise RunError(f"{self.name}, whose {method} fails with {failure_of(error)}") from error


def configured_callbacks(entries: Sequence[CallbackConfig]) -> list[Callback]:
    """Makes the callbacks that a configuration names.

    Raises:
        ConfigError: One can't be imported, has other options, can't be made, or is no callback.
    """
    return [_configured(number, entry) for number, entry in enumerate(entries)]


def guarded_callbacks(callbacks: Sequence[object]) -> list[Callback]:
    """Returns a user's callback objects with their errors named.

    Raises:
        ConfigError: One is no callback.
    """
    return [_guarded(callback, "callbacks", repr(callback)) for callback in callbacks]


def _configured(number: int, entry: CallbackConfig) -> Callback:
    key = f"callbacks.{number}.use"
    make = CALLBACKS.bound(entry.use, entry.options, key=key)
    try:
        made: object = make()
    except ConfigError as error:
        raise ConfigError(f"callbacks.{number}.options.{error}") from None
    except Exception as error:  # a user's class may raise anything
        got = f"{entry.use!r}, which fails with {failure_of(error)}"
        raise ConfigError(str(Problem(key, got, f"wanted {CALLBACKS.wants}"))) from error
    return _guarded(made, key, repr(entry.use))


def _guarded(callback: object, key: str, name: str) -> Callback:
    if not isinstance(callback, Callback):
        got = f"{name}, a {type(callback).__name__}"
        raise ConfigError(str(Problem(key, got, f"wanted {CALLBACKS.wants}")))
    return UsersCallback(callback, f"{key}: got {name}")
