"""What the capture knows of one section while it runs."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from storage.reader import SectionReader
from storage.types import Change, Known, Op, Row, Section, Value

Baseline = Literal["new", "running", "redigest", "done"]
"""`running`: existing rows are taken in without events. `redigest`: expressions changed, digests are renewed."""

RECENT_ROWS = 64
TOLD_TASKS = 100_000


@dataclass(slots=True)
class Progress:
    """A pass over one section: where it stands, and the known rows it did not find in their place."""

    after: tuple[Value, ...] | None = None
    limbo: list[Known] = field(default_factory=list)
    rows: int = 0
    leaves_rest: bool = False
    """Whether another pass has to follow: it began in the middle, or more rows are missing than it could remember."""
    asked_at: float = field(default_factory=time.monotonic)
    """time.monotonic() since when it was asked for."""
    is_through: bool = False
    """Whether it has come to the end of the table."""
    later: dict[bytes, int] = field(default_factory=dict)
    """Tasks that are told at its end, by key, each with where the newest of its rows stood that it has met."""
    is_sure: bool = True
    """Whether what it did not find is gone. Else it met rows of tasks that it could not keep: the next pass tells."""
    keys: dict[int, bytes | None] | None = None
    """Of a table WITHOUT ROWID: which row stands where. Read when it is first asked for."""
    started: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Watched:
    """One section with its statements over the present schema, or the reason why it does not fit."""

    section: Section
    reader: SectionReader | None = None
    misfit: str | None = None
    baseline: Baseline = "new"
    floor: int | None = None
    """Rows up to this rowid were there at the first attach."""
    position: int | None = None
    """Rows up to this rowid have been taken as baseline."""
    progress: Progress | None = None
    tail: bool = False
    """Rows behind the last one known are to be read first: what a writer appends should not wait for a pass."""
    tail_after: int | None = None
    """How far the tail was read. Its last row need not be known: it may be another row of one id, or fail."""
    doubtful: set[int] = field(default_factory=set)
    """Places of rows that were missing in an inexact look: to be looked at again before they count as gone."""
    asked_at: float | None = field(default_factory=time.monotonic)
    """time.monotonic() since when another pass is asked for: something may have changed that no hint named."""
    is_caught_up: bool = False
    """Whether a whole pass has been made since the database was opened: all that was there then is known."""
    recent: OrderedDict[int, None] = field(default_factory=OrderedDict)
    told: set[bytes] | None = field(default_factory=set)
    """Keys of the tasks that were told while the baseline is taken; None if they are too many, or not known."""
    waiting: int = 0
    """Rows that have no owner yet, or cannot be rendered."""
    reckoned: int = 0
    """How many of them came and went since they were counted."""
    sweep: int | None = None
    """Below this rowid there are waiting rows that have not been looked at since a commit that may have helped them."""
    has_to_sweep_again: bool = False
    """There was another such commit since that sweep began."""
    has_repeats: bool = False
    """Two rows with one id have been met since the start."""
    newly_broken: dict[bytes, int] = field(default_factory=dict)
    """Rows that cannot be read and of which nothing is known, by their conversation: they may hold what is missed."""
    turn: int = 0
    rows_total: int = 0
    """Rows that the table had when its baseline was begun or gone on with."""
    rows_before: int = 0
    """Rows of it that were taken before the pass that takes them now was begun."""
    failed: int = 0

    @property
    def again(self) -> bool:
        """Whether another pass is asked for."""
        return self.asked_at is not None

    def ask(self) -> None:
        """Ask for a pass, or for another one after that which is under way."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    @property
    def rows_taken(self) -> int:
        """Of `rows_total`, how many are taken as baseline by now."""
        if self.baseline == "done":
            return self.rows_total
        return min(self.rows_total, self.rows_before + (self.progress.rows if self.progress is not None else 0))

    @property
    def behind_since(self) -> float | None:
        """time.monotonic() since when there may be commits that a pass still has to find."""
        return self.asked_at if self.progress is None else self.progress.asked_at

    @property
    def is_behind(self) -> bool:
        """Whether a pass is under way or asked for, and can run."""
        return self.reader is not None and (
            self.again or self.tail or self.sweep is not None or self.progress is not None
        )

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is looked at again with every commit."""
        return not (self.tail or self.doubtful or self.has_to_sweep)

    @property
    def has_to_sweep(self) -> bool:
        """Whether rows wait that a commit may help which does not write to them."""
        return bool(self.waiting) and self.reader is not None and self.reader.reads_others

    @property
    def is_settled(self) -> bool:
        """Whether all of its rows are known, and a commit that appends to them says nothing of any other."""
        return self.is_at_rest and self.has_rowids and not self.is_behind

    @property
    def has_rowids(self) -> bool:
        """Whether single rows can be read again."""
        return self.reader is not None and self.reader.rowid is not None

    @property
    def may_repeat_ids(self) -> bool:
        """Whether another row may have the id of one that is gone, and be it from now on: only a pass can tell.

        Elements that are taken out of a row are everyday, so there it is not asked for as long as no id was met twice.
        """
        if self.reader is None or self.reader.has_unique_id:
            return False
        return self.section.each is None or self.has_repeats or self.progress is not None

    def begin_again(self) -> None:
        """Anything may have changed: a pass is asked for, and what was appended comes before it."""
        self.rows_before = self.rows_taken
        self.progress = self.tail_after = None
        self.is_caught_up, self.tail = False, True
        self.ask()

    def remember(self, row: Row) -> None:
        """A row that changed lately is likely to change again: it is looked at before any pass."""
        self.recent[row.loc] = None
        self.recent.move_to_end(row.loc)
        if len(self.recent) > RECENT_ROWS:
            self.recent.popitem(last=False)
        if self.baseline == "running" and self.told is not None and self.section.kind == "task":
            self.told.add(row.key)
            if len(self.told) > TOLD_TASKS:
                self.told = None

    def is_untaken(self, change: Change) -> bool:
        """Whether a message that a look came upon was there at the first attach, as far as its place can tell.

        A commit names whole pages, and the baseline may not have come to the others of their rows. A task is told all
        the same, since the commit may have changed it, and a state that is told again does no harm.
        """
        if change.op is not Op.NEW or self.section.kind != "message" or self.baseline != "running":
            return False
        if self.section.each is not None:
            return False  # elements are appended to rows that were there: rather one that is old than none that is new
        is_taken = change.row is not None and self.position is not None and change.row.loc <= self.position
        return not is_taken and self.is_baseline(change)

    def is_baseline(self, change: Change) -> bool:
        """Whether a change found by the baseline pass is what was there before, and no event."""
        if self.baseline == "redigest":
            return change.op is not Op.NEW
        if self.baseline != "running" or change.row is None:
            return False
        if change.op is not Op.NEW and not self._is_newer_of_baseline(change):
            return False
        has_floor = self.floor is not None and self.reader is not None and self.reader.rowid is not None
        return not has_floor or (self.floor is not None and change.row.loc <= self.floor)

    def _is_newer_of_baseline(self, change: Change) -> bool:
        """Whether it is a newer row of a task, of which nobody has been told the older one that was taken in."""
        if change.op is not Op.MOVED or self.section.kind != "task" or change.row is None or change.known is None:
            return False
        is_newer = change.known.loc < change.row.loc and not (self.reader is not None and self.reader.has_unique_id)
        return is_newer and self.told is not None and change.row.key not in self.told
