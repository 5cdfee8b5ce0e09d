"""Epochs of the event log: what makes the cursors given so far void, and how it is noticed."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from storage.btree import DatabaseHeader

log = logging.getLogger("walcast.capture")

EpochReason = Literal["log_lost", "unclean_stop", "mapping_changed", "database_replaced", "database_restored"]


class Sequences(NamedTuple):
    """Of tables with AUTOINCREMENT the highest rowid that each ever gave, and the schema cookie of the same snapshot.

    Without a change of the schema they only grow, unless somebody sets them back by hand.
    """

    schema: int
    last: dict[str, int]

    def is_before(self, other: Sequences) -> bool:
        """Whether this is of an earlier state than another. A table that never had a row has no sequence."""
        if self.schema != other.schema:
            return False
        return any(table in self.last and self.last[table] < last for table, last in other.last.items())


class FileVersion(NamedTuple):
    """What of a database's header only ever grows (sqlite.org/fileformat2.html, 1.3), as long as it is that database.

    `counter` moves with each commit in rollback mode and hardly at all in WAL mode, `cookie` with each change of the
    schema and each VACUUM. Between those `pages` grows; it is 0 for a database that gives pages back by itself
    (auto_vacuum). A backup put back in place makes them smaller. `sequences` are not in the header, and None
    where they were not asked for.
    """

    counter: int
    cookie: int
    pages: int
    sequences: Sequences | None = None

    @classmethod
    def of(cls, header: DatabaseHeader | None, sequences: Sequences | None = None) -> FileVersion | None:
        """The version that a header tells of; None without one."""
        if header is None:
            return None
        pages = 0 if header.largest_root else header.page_count
        return cls(header.change_counter, header.schema_cookie, pages, sequences)

    @classmethod
    def parse(cls, text: str | int | None) -> FileVersion | None:
        """Read back what `str` wrote."""
        if not isinstance(text, str):
            return None
        counter, cookie, pages, *sequences = text.split(" ", 3)
        known = Sequences(*json.loads(sequences[0])) if sequences else None
        return cls(int(counter), int(cookie), int(pages), known)

    def __str__(self) -> str:
        numbers = f"{self.counter} {self.cookie} {self.pages}"
        return numbers if self.sequences is None else f"{numbers} {json.dumps(self.sequences)}"

    def is_before(self, other: FileVersion | None) -> bool:
        """Whether this is of an earlier state than another. The numbers count modulo 2**32."""
        if other is None:
            return False
        numbers = (self.counter, other.counter), (self.cookie, other.cookie)
        if any((mine - theirs) & 0xFFFFFFFF > 1 << 31 for mine, theirs in numbers):
            return True
        if self.cookie == other.cookie and 0 < self.pages < other.pages:
            return True
        if self.sequences is None or other.sequences is None:
            return False
        return self.sequences.is_before(other.sequences)


class Epochs(ABC):
    """The part of the state file that knows its epoch, and which database it belongs to."""

    def __init__(self) -> None:
        self.epoch = ""
        self.head = 0
        self.pruned = 0
        self.epochs_begun: Counter[EpochReason] = Counter()
        """Epochs begun since the start, by reason."""
        self._told: tuple[str, EpochReason] | None = None
        """The epoch that ended last, and why."""
        self._last: dict[str, tuple[int, int]] = {}
        """Of each owner the last event that is not optional, and the last of all."""
        self._version: FileVersion | None = None
        """The newest version of the database seen; written with whatever is recorded next."""
        self._written: FileVersion | None = None
        self._boot: str | None = None
        self._is_noted = False
        """Whether the file tells that a run has it open. A disk that is full at the start puts that off."""
        self._capture: str | None = None
        self._written_capture: str | None = None

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

    def _read_epoch(self, boot: str | None) -> None:
        """Where the log stands, as the last run left it. `boot` is what tells this start of the machine from others."""
        self._boot = boot
        self.epoch = str(self._get("epoch") or "")
        self.pruned = int(self._get("pruned") or 0)
        newest = self._sql.execute("SELECT max(seq) FROM events").fetchone()[0]
        self.head = max(int(newest or 0), self.pruned)

    def _note_run(self) -> None:
        """Inside a transaction, before anything else is written in this run."""
        if self._is_noted:
            return
        if not self.epoch:
            self._new_epoch("log_lost")
        elif not self._get("clean") and self._get("boot") != self._boot:
            self._new_epoch("unclean_stop")
        self._set("boot", self._boot)
        self._set("clean", 0)
        self._is_noted = True

    def _note_end(self) -> None:
        """The last thing that is written. A run that never wrote leaves what the one before it left."""
        if self._is_noted:
            self._set_noted()
            self._set("clean", 1)
            self._is_noted = False

    def _new_epoch(self, reason: EpochReason) -> None:
        """Cursors given so far are void from here on. Events of old epochs are pruned in small steps."""
        is_first, told = not self.epoch and not self.head, (self.epoch, reason)
        self.epoch = secrets.token_hex(6)
        self.pruned = self.head
        self._last.clear()
        self._set("epoch", self.epoch)
        self._set("pruned", self.pruned)
        if not is_first and told != self._told:  # what could not be written is begun again and again
            self._told = told
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
        self._set_noted()
        if known not in (None, database):
            return "database_replaced"
        return "database_restored" if version is not None and version.is_before(before) else None

    def replace_database(self, database: str, version: FileVersion | None, *, is_put_back: bool = False) -> None:
        """The database may be another file, or an earlier state of the file: then cursors given so far are void.

        `is_put_back` says that it is known to be one of the two, whatever the versions tell.
        """
        known = self._get("database")
        if known == database and not is_put_back and not self.is_earlier(version):
            return
        with self.transaction():
            self._new_epoch("database_replaced" if known != database else "database_restored")
            self._adopt_database(database, version)

    def is_earlier(self, version: FileVersion | None) -> bool:
        """Whether a database of this version is an earlier state of the one that is known."""
        return version is not None and version.is_before(self._version)

    def note_version(self, version: FileVersion | None) -> None:
        """What the database says now. It is written together with the next changes."""
        if version is None:
            return
        if version.sequences is None and self._version is not None:
            version = version._replace(sequences=self._version.sequences)
        self._version = version

    def note_capture(self, engine: str, fallbacks: Mapping[str, int]) -> None:
        """How changes are found in this run, and how often that could not be told, by reason: for `inspect`."""
        self._capture = json.dumps({"engine": engine, "fallbacks": dict(fallbacks)})

    def _set_noted(self) -> None:
        """Inside a transaction. Written seldom enough to cost nothing, often enough to notice a backup."""
        if self._capture != self._written_capture:
            self._set("capture", self._capture)
            self._written_capture = self._capture
        if self._version != self._written:
            self._set("file_version", None if self._version is None else str(self._version))
            self._written = self._version
