"""Hints: the engine that says where a commit may have changed rows, chosen by the database's journal mode."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from storage.candidates import Candidates
from storage.journalhints import JournalHints
from storage.legacy import LegacyDatabase
from storage.pages import Gap, Moved
from storage.reader import SectionReader
from storage.walhints import OVERRUN, WalHints

log = logging.getLogger("walcast.capture")

SCANNING = 8
"""Gaps in a row after which it is honest to say that tables are being scanned."""
SNAPSHOT_TRIES = 8
"""Snapshots taken anew because something was committed in the same instant, before a gap is declared."""


class Hints(Protocol):
    """Says where a commit may have changed something."""

    reasons: Counter[str]
    """How often no hint could be given, by reason."""

    @property
    def mode(self) -> str:
        """`wal-pages`, `journal-pages` or `scan`."""

    @property
    def commits(self) -> int:
        """How many commits the last `take` was about; 0 if that cannot be told."""

    @property
    def unseen(self) -> int:
        """How many commits were made since the last `take` in rollback mode; 0 if it cannot be told without a lock."""

    def reset(self, legacy: LegacyDatabase) -> None:
        """The database was opened anew or its schema changed: begin here, a pass will find what was before."""

    def before(self, legacy: LegacyDatabase) -> None:
        """Called ahead of the snapshot."""

    def is_quiet(self) -> bool:
        """Whether it can be seen without any lock that nothing was committed since the last `take`."""

    def foresee(self) -> bool:
        """Called when it is quiet, while a commit is waited for; whether one was found that is on its way."""

    def take(self, readers: Sequence[SectionReader]) -> Candidates | None:
        """Inside the snapshot: places that cover every change since the last call; None if that cannot be told.

        Raises Moved when the snapshot has to be taken anew.
        """

    def appended(self) -> dict[int, tuple[int, ...]] | None:
        """After `before`: the rowids that were appended, by section, if that is all; else None, and `take` tells."""

    def take_appended(self) -> bool:
        """Whether what was read without a snapshot, after `appended`, shows just those commits; then they are taken."""

    def after(self) -> None:
        """Called when the look is over: for whatever need not be done while somebody waits."""

    def pause(self) -> None:
        """Whoever commits never rests, and being told of each commit would cost him time. Idempotent."""

    def resume(self) -> None:
        """Ask again to be told of each commit. Idempotent."""

    def close(self) -> None:
        """Let go of files. After the SQLite connection is closed."""


class NoHints:
    """Every commit asks for a pass over the tables."""

    mode = "scan"
    commits = unseen = 0

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()

    def reset(self, legacy: LegacyDatabase) -> None:
        """Nothing is kept."""

    def before(self, legacy: LegacyDatabase) -> None:
        """Nothing is noted."""

    def is_quiet(self) -> bool:
        """It cannot be seen."""
        return False

    def foresee(self) -> bool:
        """Nothing can be."""
        return False

    def take(self, readers: Sequence[SectionReader]) -> Candidates | None:
        """Nothing is known."""
        self.reasons["no_engine"] += 1
        return None

    def appended(self) -> dict[int, tuple[int, ...]] | None:
        """Nothing is known."""
        return None

    def take_appended(self) -> bool:
        """Nothing was told."""
        return False

    def after(self) -> None:
        """Nothing is left to do."""

    def pause(self) -> None:
        """Nothing is told."""

    def resume(self) -> None:
        """Nothing is told."""

    def close(self) -> None:
        """Nothing is held."""


class PageHints:
    """Pages of the WAL where there is one, else pages of the caught rollback journals."""

    def __init__(self, path: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self._wal = WalHints(path)
        self._journal = JournalHints(path)
        self._is_wal = False
        self._moved = self._gaps = 0

    @property
    def mode(self) -> str:
        """The engine that runs."""
        if self._gaps >= SCANNING:
            return "scan"
        if self._is_wal:
            return self._wal.mode
        return self._journal.mode if self._journal.is_running else "scan"

    @property
    def commits(self) -> int:
        """As the protocol says."""
        return (self._wal if self._is_wal else self._journal).commits

    @property
    def unseen(self) -> int:
        """As the protocol says."""
        return 0 if self._is_wal else self._journal.unseen()

    def reset(self, legacy: LegacyDatabase) -> None:
        """Begin here."""
        self._is_wal = legacy.journal_mode() == "wal"
        if self._is_wal:
            self._journal.pause()
        (self._wal if self._is_wal else self._journal).reset()

    def before(self, legacy: LegacyDatabase) -> None:
        """Note where the log ends. The writer may have changed the journal mode."""
        is_wal = legacy.is_wal()
        if is_wal != self._is_wal and (is_wal := legacy.journal_mode() == "wal") != self._is_wal:
            log.info("the journal mode changed to %s", "WAL" if is_wal else "a rollback journal")
            self.reset(legacy)
            (self._wal if self._is_wal else self._journal).lose("journal_mode")
        if self._is_wal:
            self._wal.before(legacy.noted_header)
        else:
            self._journal.before()

    def is_quiet(self) -> bool:
        """Whether the counter of the wal-index, or of the database's header, stands still."""
        return (self._wal if self._is_wal else self._journal).is_quiet()

    def foresee(self) -> bool:
        """As the protocol says."""
        return self._is_wal and self._wal.foresee()

    def take(self, readers: Sequence[SectionReader]) -> Candidates | None:
        """As the protocol says; a snapshot that keeps moving counts as a gap."""
        try:
            found = (self._wal if self._is_wal else self._journal).take(readers)
        except Moved:
            self._moved += 1
            if self._moved < SNAPSHOT_TRIES:
                raise
            self._note_gap("moving")
            return None
        except Gap as gap:
            self._note_gap(str(gap))
            return None
        self._moved = self._gaps = 0
        return found

    def appended(self) -> dict[int, tuple[int, ...]] | None:
        """As the protocol says."""
        growths = self._wal.appended() if self._is_wal else None
        if not growths:
            return None
        found: dict[int, tuple[int, ...]] = {}
        for leaf, _, rowids in growths:
            for section in leaf.sections:
                found[section] = (*found.get(section, ()), *rowids)
        return found

    def take_appended(self) -> bool:
        """As the protocol says."""
        if not self._wal.take_appended():
            return False
        self._moved = self._gaps = 0
        return True

    def after(self) -> None:
        """Let go of what was caught."""
        self._journal.after()

    def pause(self) -> None:
        """Catch no journals; the WAL needs no telling."""
        self._journal.pause()

    def resume(self) -> None:
        """Catch journals again, if there are any to come."""
        if not self._is_wal:
            self._journal.resume()

    def _note_gap(self, reason: str) -> None:
        self._moved = 0
        self._gaps += reason != OVERRUN  # over as soon as the writer rests
        self.reasons[reason] += 1
        if self._is_wal:
            self._wal.skip(reason)

    def close(self) -> None:
        """Let go of files and threads."""
        self._wal.close()
        self._journal.close()
