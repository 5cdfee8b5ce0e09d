"""WAL mode: the pages that the new frames carry say where to look (sqlite.org/walformat.html).

Frames count only up to the `mxFrame` of the wal-index header, and the position only moves over frames that the open
snapshot shows. Commits are counted: the header's `iChange` moves by one for each, so frames that were overwritten
before they were read show as a gap, and a gap asks for a pass over the tables.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from storage.btree import Page, PageKind, is_ptrmap, overflow_next, parse_header, parse_page, parse_trunk
from storage.candidates import Candidates, candidates_of
from storage.held import HELD, Held
from storage.reader import SectionReader
from storage.walfile import (
    FRAME_HEADER_SIZE,
    WAL_HEADER_SIZE,
    WAL_INDEX_SIZE,
    WalHeader,
    WalIndex,
    parse_wal_header,
    parse_wal_index,
    scan_frames,
)

MAX_BYTES = 32 << 20
"""More new frames than this are not worth reading: a pass over the tables is as quick and needs no memory."""
MAX_ROWS = 20_000
OWNERS = 65_536
TORN_TRIES = 20
OVERFLOW = "overflow"

_PLACE = Struct(">2I")
"""Page number and commit size at the head of a frame."""


class Moved(Exception):
    """Something was committed while the snapshot was taken: take another."""


class Gap(Exception):
    """The frames do not cover every commit since the last look; the argument says why."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The newest image of each page in some frames, and how many commits they are."""

    images: dict[int, bytes]
    commits: int


class WalHints:
    """Follows one `-wal`. `before` ahead of the snapshot, `take` inside of it."""

    mode = "wal-pages"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal: int | None = None
        self._shm: Held | None = None
        self._database: Held | None = None
        self._position: WalIndex | None = None
        self._now: WalIndex | None = None
        self._owners: OrderedDict[int, int] = OrderedDict()
        self._lost: str | None = None

    # -- life

    def reset(self) -> None:
        """Begin here: what was committed so far is somebody else's to find. The SQLite connection is open."""
        self._owners.clear()
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None
        with suppress(OSError):
            self._wal = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            self._hold()
        self._position, self._lost = self._index(), None

    def _hold(self) -> None:
        if self._shm is None or self._shm.identity != _identity(f"{self._path}-shm"):
            old, self._shm = self._shm, HELD.hold(Path(f"{self._path}-shm"))
            if old is not None:
                HELD.release(old)
        if self._database is None or self._database.identity != _identity(str(self._path)):
            old, self._database = self._database, HELD.hold(self._path)
            if old is not None:
                HELD.release(old)

    def close(self) -> None:
        """Let go of the files; after the SQLite connection is closed."""
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None
        for held in (self._shm, self._database):
            if held is not None:
                HELD.release(held)
        self._shm = self._database = self._position = None

    # -- looking

    def before(self) -> None:
        """Note where the log ends, ahead of the snapshot."""
        self._now = self._index()

    def take(self, readers: Sequence[SectionReader]) -> Candidates:
        """Where the commits since the last call may have changed rows. Raises Moved, Gap."""
        now = self._now
        still = self._index()
        if now is None or still is None or _end(still) != _end(now):
            raise Moved
        if self._lost is not None or self._position is None or self._wal is None or self._database is None:
            raise Gap(self._lost or "start")
        changed = self._changed(self._position, now)
        found = self._places(changed.images, now.page_size, readers)
        self._position = now
        return found

    def skip(self, reason: str) -> None:
        """After a gap: go on from what `before` noted, since the pass that follows sees at least that much."""
        if reason != OVERFLOW:  # then every frame was read; else an overflow page may have changed hands unseen
            self._owners.clear()
        self._position, self._lost = self._now, None

    def lose(self, reason: str) -> None:
        """Commits were made that this log does not tell of."""
        self._lost = reason

    def _index(self) -> WalIndex | None:
        """The wal-index header; read again while a writer is in the middle of changing it."""
        if self._shm is None:
            return None
        for _ in range(TORN_TRIES):
            index = parse_wal_index(os.pread(self._shm.descriptor, WAL_INDEX_SIZE, 0))
            if index is not None:
                return index
        return None

    # -- frames

    def _changed(self, then: WalIndex, now: WalIndex) -> Changed:
        if now.salts == then.salts:
            if now.max_frame < then.max_frame:
                raise Gap("wal_shortened")
            return self._frames(now, then.max_frame + 1)
        commits = now.change - then.change
        new = self._frames(now, 1)
        if new.commits == commits:
            return new
        old = self._overtaken(then, now)
        if old.commits + new.commits != commits:
            raise Gap("wal_restarted")
        return Changed(old.images | new.images, commits)

    def _frames(self, index: WalIndex, first: int) -> Changed:
        """The frames from `first` to the end of the log. Raises Moved if overwritten meanwhile, Gap if too many."""
        count = index.max_frame - first + 1
        if count <= 0:
            return Changed({}, 0)
        size = FRAME_HEADER_SIZE + index.page_size
        if count * size > MAX_BYTES:
            raise Gap("burst")
        assert self._wal is not None
        data = os.pread(self._wal, count * size, WAL_HEADER_SIZE + (first - 1) * size)
        # A restart changes the index before it overwrites a frame. A frame's salts are no proof: SQLite 3.40 leaves
        # them empty in frames that follow a ROLLBACK TO of a spilled transaction, and shows those frames all the same.
        still = self._index()
        if len(data) < count * size or still is None or _end(still) != _end(index):
            raise Moved
        return _newest(data, [_PLACE.unpack_from(data, at) for at in range(0, len(data), size)], size)

    def _overtaken(self, then: WalIndex, now: WalIndex) -> Changed:
        """Frames of the log before its restart that were not read yet and not overwritten either."""
        if now.max_frame > then.max_frame or self._wal is None:
            raise Gap("wal_restarted")
        size = FRAME_HEADER_SIZE + then.page_size
        start = WAL_HEADER_SIZE + then.max_frame * size
        data = os.pread(self._wal, MAX_BYTES, start)
        header = parse_wal_header(os.pread(self._wal, WAL_HEADER_SIZE, 0))
        if header is None:
            raise Gap("wal_restarted")
        old = WalHeader(header.big_endian, then.page_size, 0, then.salts, (0, 0))
        frames = list(scan_frames(data, old, then.max_frame + 1, start, seed=then.frame_checksum))
        last = max((place for place, frame in enumerate(frames, 1) if frame.commit_size), default=0)
        return _newest(data, [(frame.pgno, frame.commit_size) for frame in frames[:last]], size)

    # -- pages

    def _places(self, images: dict[int, bytes], page_size: int, readers: Sequence[SectionReader]) -> Candidates:
        assert self._database is not None
        # Without page 1 among the frames neither the reserved size nor the auto-vacuum mode has changed.
        header = parse_header(images.get(1) or os.pread(self._database.descriptor, 100, 0))
        if header is None:
            raise Gap("header")
        usable = page_size - header.reserved
        leaves: list[Page] = []
        other: set[int] = set()
        has_index = False
        for number, image in images.items():
            page = parse_page(image, number, usable)
            if page is None:
                other.add(number)
            elif page.kind is PageKind.TABLE_LEAF:
                leaves.append(page)
            else:
                has_index = has_index or page.kind is not PageKind.TABLE_INTERIOR
        if sum(len(leaf.rowids) for leaf in leaves) > MAX_ROWS:
            raise Gap("burst")
        self._explain_chains(leaves, images, other)
        trunk = header.freelist_trunk if 1 in images else 0  # the file's own page 1 may be older than the log
        while trunk in other:
            other.discard(trunk)
            parsed = parse_trunk(images[trunk], usable)
            trunk = parsed[0] if parsed is not None else 0
        if header.largest_root:
            other = {number for number in other if not is_ptrmap(number, usable)}
        return candidates_of(leaves, self._owned(other), readers, other_trees=has_index)

    def _explain_chains(self, leaves: Sequence[Page], images: dict[int, bytes], other: set[int]) -> None:
        """An overflow page that hangs on a leaf of these frames belongs to a row that is a candidate already."""
        for leaf in leaves:
            for rowid, first in leaf.overflow:
                self._own(first, rowid)
                number = first
                while number in other:
                    other.discard(number)
                    number = overflow_next(images[number])
                    if number:
                        self._own(number, rowid)

    def _own(self, number: int, rowid: int) -> None:
        self._owners[number] = rowid
        self._owners.move_to_end(number)
        if len(self._owners) > OWNERS:
            self._owners.popitem(last=False)

    def _owned(self, pages: set[int]) -> set[int]:
        """The rows of overflow pages that changed alone, as an update of equal size does. Raises Gap."""
        unknown = pages - self._owners.keys()
        if unknown:
            raise Gap(OVERFLOW)
        return {self._owners[number] for number in pages}


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _newest(data: bytes, frames: Sequence[tuple[int, int]], size: int) -> Changed:
    """The newest image of each page, and the number of commits. `frames` are (page number, commit size) in order.

    A writer that may not rely on atomic sectors repeats the last frame of a commit up to the next sector, so a commit
    frame that repeats the one before is counted once: rather a commit too few, which shows as a gap.
    """
    images: dict[int, bytes] = {}
    commits, last = 0, None
    for place, (number, commit_size) in enumerate(frames):
        image = data[place * size + FRAME_HEADER_SIZE : (place + 1) * size]
        if commit_size:
            commits += (number, image) != last
            last = number, image
        else:
            last = None
        images[number] = image
    return Changed(images, commits)


def _end(index: WalIndex) -> tuple[object, ...]:
    """What moves with a commit, without what moves with readers and checkpoints."""
    return index.change, index.salts, index.max_frame, index.frame_checksum, index.page_count
