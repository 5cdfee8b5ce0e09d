"""Epochs of the event log: what makes the cursors given so far void, and how it is noticed."""

from __future__ import annotations

import logging
import secrets
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from storage.btree import DatabaseHeader

log = logging.getLogger("walcast.capture")

EpochReason = Literal["log_lost", "unclean_stop", "mapping_changed", "database_replaced", "database_restored"]


class FileVersion(NamedTuple):
    """What of a database's header only ever grows (sqlite.org/fileformat2.html, 1.3), as long as it is that database.

    `counter` moves with each commit in rollback mode and hardly at all in WAL mode, `cookie` with each change of the
    schema and each VACUUM. Between those `pages` grows; it is 0 for a database that gives pages back by itself
    (auto_vacuum). A backup put back in place makes them smaller.
    """

    counter: int
    cookie: int
    pages: int

    @classmethod
    def of(cls, header: DatabaseHeader | None) -> FileVersion | None:
        """The version that a header tells of; None without one."""
        if header is None:
            return None
        return cls(header.change_counter, header.schema_cookie, 0 if header.largest_root else header.page_count)

    @classmethod
    def parse(cls, text: str | int | None) -> FileVersion | None:
        """Read back what `str` wrote."""
        return cls(*map(int, text.split())) if isinstance(text, str) else None

    def __str__(self) -> str:
        return " ".join(map(str, self))

    def is_before(self, other: FileVersion | None) -> bool:
        """Whether this is of an earlier state than another. The numbers count modulo 2**32."""
        if other is None:
            return False
        if any((mine - theirs) & 0xFFFFFFFF > 1 << 31 for mine, theirs in zip(self[:2], other[:2], strict=True)):
            return True
        return self.cookie == other.cookie and 0 < self.pages < other.pages


class Epochs(ABC):
    """The part of the state file that knows its epoch, and which database it belongs to."""

    def __init__(self) -> None:
        self.epoch = ""
        self.head = 0
        self.pruned = 0
        self.epochs_begun: Counter[EpochReason] = Counter()
        """Epochs begun since the start, by reason."""
        self._last: dict[str, tuple[int, int]] = {}
        """Of each owner the last event that is not optional, and the last of all."""
        self._version: FileVersion | None = None
        """The newest version of the database seen; written with whatever is recorded next."""
        self._written: FileVersion | None = None

    @property
    @abstractmethod
    def _sql(self) -> sqlite3.Connection:
        """The open state file."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """One transaction of the state file."""

    def _get(self, name: str) -> str | int | None:
        found = self._sql.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        value: str | int | None = None if found is None else found[0]
        return value

    def _set(self, name: str, value: str | int | None) -> None:
        self._sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _new_epoch(self, reason: EpochReason) -> None:
        """Cursors given so far are void from here on. Events of old epochs are pruned in small steps."""
        is_first = not self.epoch and not self.head
        self.epoch = secrets.token_hex(6)
        self.pruned = self.head
        self._last.clear()
        self._set("epoch", self.epoch)
        self._set("pruned", self.pruned)
        if not is_first:
            self.epochs_begun[reason] += 1
            log.warning("a new epoch begins (%s): clients that resume are told to fetch anew", reason)

    @property
    def database(self) -> str | None:
        """Which file the known rows belong to."""
        found = self._get("database")
        return None if found is None else str(found)

    def _adopt_database(self, database: str, version: FileVersion | None) -> EpochReason | None:
        """Take over what is known of a file; why it is not the one that the known rows belong to, if so."""
        known, before = self._get("database"), FileVersion.parse(self._get("file_version"))
        self._set("database", database)
        self._version = version
        self._set_version()
        if known not in (None, database):
            return "database_replaced"
        return "database_restored" if version is not None and version.is_before(before) else None

    def replace_database(self, database: str, version: FileVersion | None) -> None:
        """The database may be another file, or an earlier state of the file: then cursors given so far are void."""
        known = self._get("database")
        if known == database and not self.is_earlier(version):
            return
        with self.transaction():
            self._new_epoch("database_replaced" if known != database else "database_restored")
            self._adopt_database(database, version)

    def is_earlier(self, version: FileVersion | None) -> bool:
        """Whether a database of this version is an earlier state of the one that is known."""
        return version is not None and version.is_before(self._version)

    def note_version(self, version: FileVersion | None) -> None:
        """What the database's header says now. It is written together with the next changes."""
        self._version = version or self._version

    def _set_version(self) -> None:
        """Inside a transaction. Written seldom enough to cost nothing, often enough to notice a backup."""
        if self._version != self._written:
            self._set("file_version", None if self._version is None else str(self._version))
            self._written = self._version
