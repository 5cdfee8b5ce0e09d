"""Every error an operator can meet, on one screen.

Each carries what is wrong (`args[0]`) and how to mend it (`hint`); the exit code stands with the class.
"""

from __future__ import annotations

from typing import ClassVar


class WalcastError(Exception):
    """Base of all errors that are the operator's to mend."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.hint}" if self.hint else str(self.args[0])


class ConfigurationError(WalcastError):
    """A setting or a file of settings cannot be used."""


class DatabaseUnusable(WalcastError):
    """The legacy database cannot be read at all: missing, no permission, not a database."""

    exit_code = 3


class DatabaseAway(DatabaseUnusable):
    """The legacy database is not there or not readable *now*; it is waited for."""


class MappingMisfit(WalcastError):
    """The mapping names something that this database does not have, or must not be run."""

    exit_code = 3


class StateUnusable(WalcastError):
    """The state file cannot be opened, is not ours, or belongs to a running instance."""


class CannotListen(WalcastError):
    """The address is taken or not ours to take."""

    exit_code = 4
