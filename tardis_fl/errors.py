"""Errors a user meets: one message, no traceback, one exit code each."""


class TardisError(Exception):
    """A message for the user. `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(TardisError):
    """The configuration can't be used as it is."""

    exit_code = 2


class DataError(TardisError):
    """Images or labels are missing, unreadable or too few."""

    exit_code = 3


class RunError(TardisError):
    """The run started and could not go on."""

    exit_code = 4
