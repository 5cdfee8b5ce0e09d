"""Rollback-journal mode: the pages that a caught journal saved say where to look (sqlite.org/fileformat2.html, 3).

A journal holds the image before the commit of every page that the commit changed, and page 1 among them, since its
change counter moves with each commit. That counter, as the journal saved it, tells which commit the journal is of: the
journals caught since the last look must tell of every step that the counter made, or there is a gap. New pages are not
in a journal: those behind the old end of the file are known by their number, those from the free list by the interior
pages that link to them now and did not before.

Read inside the snapshot, whose shared lock keeps writers from the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.btree import HEADER_SIZE, TABLE_INTERIOR, DatabaseHeader, interior_children, parse_header
from storage.candidates import Candidates
from storage.catcher import JournalCatcher
from storage.held import HELD, Held
from storage.journalfile import Journal, parse_journal, parse_wiped_journal
from storage.pages import MAX_BYTES, Gap, Memory, places_of
from storage.reader import SectionReader
from storage.staying import COUNTERS

MAX_COMMITS = 4096
SECTOR_SIZES = (512, 4096)


@dataclass(slots=True)
class Saved:
    """What the journals of one commit saved: of each page the pages that it linked to before the commit."""

    links: dict[int, frozenset[int]]
    initial_pages: int


class JournalHints:
    """Follows the journals of one database."""

    mode = "journal-pages"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._catcher = JournalCatcher(path)
        self._database: Held | None = None
        self._position: DatabaseHeader | None = None
        self._saved: dict[int, Saved] = {}
        self._memory = Memory()
        self._lost: str | None = None
        self._is_paused = False
        self.commits = 0

    @property
    def is_running(self) -> bool:
        """Whether journals are being caught on this system."""
        return self._catcher.is_running

    def reset(self) -> None:
        """Begin here. The SQLite connection is open."""
        self._memory.clear()
        self._is_paused = False
        with suppress(OSError):  # while the file is away, what is open stays open
            old, self._database = self._database, HELD.hold(self._path)
            self._catcher.follow(self._database.descriptor)
            if old is not None:
                HELD.release(old)
        self._catcher.start()
        self._position, self._lost = self._header(), None

    def close(self) -> None:
        """Let go of the files; after the SQLite connection is closed."""
        self._catcher.stop()
        if self._database is not None:
            HELD.release(self._database)
            self._database = None

    def lose(self, reason: str) -> None:
        """Commits were made that no journal tells of."""
        self._lost = reason

    def is_quiet(self) -> bool:
        """Whether the change counter says that nothing was committed since the last `take`."""
        header, then = self._header(), self._position
        return self._lost is None and header is not None and then is not None and header == then

    def unseen(self) -> int:
        """How many commits there are since the last `take`, asked without a lock."""
        header, then = self._header(), self._position
        return 0 if header is None or then is None else (header.change_counter - then.change_counter) & 0xFFFFFFFF

    def before(self) -> None:
        """Read what was caught ahead of the snapshot: inside of it a lock is held, and that takes its time."""
        header = self._header()
        if header is not None:
            self._lost = self._gather(header) or self._lost

    def pause(self) -> None:
        """Catch no journals until `resume`."""
        self._catcher.pause()
        self._is_paused = True

    def resume(self) -> None:
        """Catch journals again. What was committed meanwhile, no journal tells of."""
        if self._is_paused:
            self._catcher.start()
            self._is_paused, self._lost = False, "flat_out"

    def after(self) -> None:
        """Let go of the journals that were read."""
        self._catcher.release()

    def take(self, readers: Sequence[SectionReader]) -> Candidates:
        """Where the commits since the last call may have changed rows. Raises Gap; the position moves all the same."""
        then, now, lost = self._position, self._header(), self._lost
        self._position, self._lost = now, None
        if now is None or self._database is None:
            raise Gap("header")
        self.commits = 0 if then is None else (now.change_counter - then.change_counter) & 0xFFFFFFFF
        lost = self._gather(now) or lost
        if then is None or lost is not None or not self._catcher.is_running:
            self._saved.clear()
            uncaught = "flat_out" if self._is_paused else "no_file_events"
            raise self._gap(lost or ("start" if then is None else uncaught))
        saved = self._since(then.change_counter, now.change_counter)
        try:
            images = self._images(saved, then, now)
            return places_of(
                images, now, now.usable_size, self._memory, readers, lambda number: self._page(number, now)
            )
        except Gap as gap:
            raise self._gap(str(gap)) from gap

    def _gap(self, reason: str) -> Gap:
        self._memory.gap(reason)
        return Gap(reason)

    # -- journals

    def _gather(self, now: DatabaseHeader) -> str | None:
        """File each journal under the change counter that it saved; the reason of a gap if one was missed."""
        caught = self._catcher.take()
        for content in caught.ended:
            journal = parse_journal(content)
            if journal is not None and journal.complete:
                self._file(journal, content)
        for copied in caught.copied:
            journal = parse_journal(copied.content)
            if journal is not None and journal.complete:
                self._file(journal, copied.content, copied.change_counter)
        if caught.wiped is not None:
            for sector_size in SECTOR_SIZES:
                journal = parse_wiped_journal(caught.wiped, now.page_size, sector_size)
                if journal is not None and journal.records:
                    self._file(journal, caught.wiped)
        return "journal_missed" if caught.missed > 0 else None

    def _file(self, journal: Journal, content: bytes, counter: int | None = None) -> None:
        """`counter` is that of the commit, where it is known from elsewhere: a journal of another is not whole yet."""
        images = {number: content[at : at + journal.page_size] for number, at in journal.records}
        header = parse_header(images[1]) if 1 in images else None
        if header is None:
            return  # every commit saves page 1: this one did not come to its end
        if counter is not None and (header.change_counter + 1) % COUNTERS != counter:
            return
        links = {number: _children(image, number, header.usable_size) for number, image in images.items()}
        known = self._saved.get(header.change_counter)
        if known is not None:  # a transaction that was rolled back saved the same counter, and the same images
            links |= known.links
        self._saved[header.change_counter] = Saved(links, journal.initial_pages)

    def _since(self, then: int, now: int) -> list[Saved]:
        """What was saved by each commit from one counter to the other, all of them. Raises Gap."""
        steps = (now - then) & 0xFFFFFFFF
        if steps > MAX_COMMITS:
            self._saved.clear()
            raise self._gap("burst" if steps < 1 << 31 else "counter")
        saved = [self._saved.get((then + step) & 0xFFFFFFFF) for step in range(steps)]
        self._saved.clear()
        complete = [entry for entry in saved if entry is not None]
        if len(complete) < steps:
            raise self._gap("journal_missed")
        return complete

    # -- pages

    def _images(self, saved: Sequence[Saved], then: DatabaseHeader, now: DatabaseHeader) -> dict[int, bytes]:
        """The present images of all pages that changed: saved, appended, or linked newly. Raises Gap."""
        first = min([then.page_count, *(entry.initial_pages for entry in saved if entry.initial_pages)])
        appended = set(range(first + 1, now.page_count + 1))
        images: dict[int, bytes] = {}
        self._read(images, appended.union(*(entry.links for entry in saved)), now)
        moved, fresh = self._relinked(saved, images, now.usable_size)
        fresh |= appended
        # A new page brings its own links: those that moved to it in this one commit have not changed themselves.
        unlinked = moved if len(saved) == 1 else set[int]()
        while fresh:
            self._read(images, fresh - images.keys(), now)
            links = set[int]()
            for number in fresh & images.keys():
                links |= _children(images[number], number, now.usable_size)
                links |= next((entry.links[number] for entry in saved if number in entry.links), frozenset())
            fresh = links - images.keys() - unlinked
        return images

    @staticmethod
    def _relinked(saved: Sequence[Saved], images: dict[int, bytes], usable: int) -> tuple[set[int], set[int]]:
        """Pages that lost a link in some commit, and those that got one without losing another in the same commit.

        The image that one journal saved of a page, and the one that the next journal with that page saved, show what
        the first of the two commits did to it.
        """
        after = {number: _children(image, number, usable) for number, image in images.items()}
        lost, fresh = set[int](), set[int]()
        for entry in reversed(saved):
            gained_here, lost_here = set[int](), set[int]()
            for number, before in entry.links.items():
                present = after.get(number, frozenset())
                gained_here |= present - before
                lost_here |= before - present
                after[number] = before
            lost |= lost_here
            fresh |= gained_here - lost_here
        return lost, fresh

    def _read(self, images: dict[int, bytes], numbers: Iterable[int], now: DatabaseHeader) -> None:
        for number in numbers:
            if (image := self._page(number, now)) is not None:
                images[number] = image
                if len(images) * now.page_size > MAX_BYTES:
                    raise Gap("burst")

    def _header(self) -> DatabaseHeader | None:
        if self._database is None:
            return None
        return parse_header(os.pread(self._database.descriptor, HEADER_SIZE, 0))

    def _page(self, number: int, header: DatabaseHeader) -> bytes | None:
        assert self._database is not None
        if not 0 < number <= header.page_count:
            return None
        image = os.pread(self._database.descriptor, header.page_size, (number - 1) * header.page_size)
        return image if len(image) == header.page_size else None


def _children(image: bytes, number: int, usable: int) -> frozenset[int]:
    """The pages that an interior page of a table links to."""
    if image[HEADER_SIZE if number == 1 else 0] != TABLE_INTERIOR:
        return frozenset()
    return frozenset(interior_children(image, number, usable) or ())
