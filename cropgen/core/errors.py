"""The one error tree. Every class carries the exit code of the process it ends.

    CropgenError                  1  failed, or a requested check failed
    ├── UsageError                2  not run: arguments, configuration
    │   └── OutputExistsError     2  an output is in the way
    ├── DataError                 3  input missing, corrupt, or not of the schema
    │   ├── MissingInputError     3
    │   ├── CorruptInputError     3
    │   └── SchemaError           3
    ├── UnfinishedError           4  finished in part; the same command with --resume continues
    ├── MissingDependencyError    5  an optional package is not installed
    └── DeviceError               5  a requested device is not there

A message says what, where, expected and got; the hint says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class CropgenError(Exception):
    """Base of every error a user may see.

    Arguments:
        message: one line: what went wrong and where, what was expected and what was found.
        hint: one line: what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CropgenError):
    """Arguments or configuration that cannot be run."""

    exit_code = 2


class OutputExistsError(UsageError):
    """An output exists and overwriting was not asked for."""


class DataError(CropgenError):
    """Input that cannot be used."""

    exit_code = 3


class MissingInputError(DataError):
    """A file or folder that was named is not there."""


class CorruptInputError(DataError):
    """A file is there but cannot be read whole."""


class SchemaError(DataError):
    """A file can be read but does not hold what it must."""


class UnfinishedError(CropgenError):
    """Work was finished in part; what is done is kept and `--resume` continues."""

    exit_code = 4


class MissingDependencyError(CropgenError):
    """An optional package is needed."""

    exit_code = 5


class DeviceError(CropgenError):
    """A device was asked for that this machine does not have."""

    exit_code = 5


def innermost_reason(error: BaseException) -> str:
    """The reason of a failed connection, without the objects that requests and urllib3 wrap around it."""
    inner = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    reason = getattr(inner, "reason", None)
    text = str(innermost_reason(reason) if isinstance(reason, BaseException) else inner)
    return text.rpartition(">: ")[2].rpartition("): ")[2] or type(inner).__name__
