"""WAL mode: the pages that the new frames carry say where to look (sqlite.org/walformat.html).

Frames count only up to the `mxFrame` of the wal-index header, and the position only moves over frames that the open
snapshot shows. Commits are counted: the header's `iChange` moves by one for each, so frames that were overwritten
before they were read show as a gap, and a gap asks for a pass over the tables.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from storage.btree import DatabaseHeader, parse_header
from storage.candidates import Candidates
from storage.files import Identity, beside
from storage.held import HELD, Held
from storage.pages import MAX_BYTES, Gap, Growth, Memory, Moved, grow, growths_of, places_of
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

TORN_TRIES = 20
_PLACE = Struct(">2I")
"""Page number and commit size at the head of a frame."""
_HEAD = Struct(">4I")
"""The same and the salts."""
OVERRUN = "overrun"
OVERRUNS, BLIND = 6, 16
"""A log that begins anew before it was read counts 2, one that could be read -1; at so many it is not tried for so many
looks. Reading it takes as much time as all that is recorded, and a pass is needed anyway."""
FORESEEN_FRAMES = 16
"""Frames of a commit that is worth being read before it can be seen."""


class Changed(NamedTuple):
    """The newest image of each page in some frames, and how many commits they are."""

    images: dict[int, bytes]
    commits: int


class Foreseen(NamedTuple):
    """A commit that was in the log before the index told of it."""

    data: bytes
    changed: Changed
    growths: list[Growth] | None


class WalHints:
    """Follows one `-wal`. `before` ahead of the snapshot, `take` inside of it."""

    mode = "wal-pages"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal: int | None = None
        self._shm: Held | None = None
        self._position: WalIndex | None = None
        self._now: WalIndex | None = None
        self._changes: Changed | Gap | Moved | None = None
        """What `before` read, or why it could not."""
        self._growths: list[Growth] | None = None
        """What `appended` told."""
        self._foreseen: Foreseen | None = None
        self._peeked: WalIndex | None = None
        """What `is_quiet` has read, for the look that follows."""
        self._raw_index = b""
        self._parsed_index: WalIndex | None = None
        self._header: DatabaseHeader | None = None
        self._resting: DatabaseHeader | None = None
        """The same, but the free list in the file may be older than the log."""
        self._memory = Memory()
        self._lost: str | None = None
        self._overruns = self._blind = 0
        self._is_restless = False
        """Whether the log began anew during the last look."""
        self.commits = 0

    # -- life

    def reset(self) -> None:
        """Begin here: what was committed so far is somebody else's to find. The SQLite connection is open."""
        self._memory.clear()
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None
        with suppress(OSError):
            self._wal = os.open(beside(self._path, "-wal"), os.O_RDONLY | os.O_CLOEXEC)
            self._hold()
        self._position, self._lost, self._peeked, self._foreseen = self._index(), None, None, None

    def _hold(self) -> None:
        shm = beside(self._path, "-shm")
        if self._shm is None or self._shm.identity != _identity(shm):
            old, self._shm = self._shm, HELD.hold(shm)
            if old is not None:
                HELD.release(old)

    def close(self) -> None:
        """Let go of the files; after the SQLite connection is closed."""
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None
        if self._shm is not None:
            HELD.release(self._shm)
        self._shm = self._position = None

    # -- looking

    def is_quiet(self) -> bool:
        """Whether the index says that nothing was committed since the last `take`."""
        index, then = self._index(), self._position
        is_known = self._lost is None and index is not None and then is not None
        is_quiet = is_known and index == then
        if is_quiet:
            self._blind = 0
        self._peeked = None if is_quiet else index
        return is_quiet

    def before(self, header: DatabaseHeader | None) -> None:
        """Read the log to its end, ahead of the snapshot: as long as that is held, the log cannot begin anew.

        `header` is what stands in the database file now.
        """
        if header is not self._header:
            self._header, self._resting = header, header and replace(header, freelist_trunk=0)
        self._now, self._peeked = self._peeked or self._index(), None
        self._changes = None
        if self._blind and self._lost is None:
            self._blind -= 1
            self._lost = OVERRUN
        if self._now is None or self._lost is not None or self._position is None or self._wal is None:
            return
        try:
            self._changes = self._changed(self._position, self._now)
        except (Gap, Moved) as reason:
            self._changes = reason
        if self._is_restless:
            self._require_same_log(self._index())

    def _require_same_log(self, after: WalIndex | None) -> None:
        """What was read counts if the log had not begun anew when the index was read after it.

        A restart changes the index before it overwrites a frame. A frame's salts are no proof: SQLite 3.40 leaves them
        empty in frames that follow a ROLLBACK TO of a spilled transaction, and shows those frames all the same.
        """
        if after is None or self._now is None or after.salts != self._now.salts:
            self._changes = Moved()

    def appended(self) -> list[Growth] | None:
        """What was appended since the last `take`, if that is all that `before` read of; else None."""
        now, changed, header = self._now, self._changes, self._resting
        if self._is_restless or now is None or header is None or not isinstance(changed, Changed):
            return None
        if self._foreseen is not None and changed is self._foreseen.changed:
            self._growths = self._foreseen.growths
        else:
            self._growths = growths_of(changed.images, header, now.page_size - header.reserved, self._memory)
        return self._growths

    def foresee(self) -> bool:
        """While nothing is to be seen: read the commit that a writer may have in the log already, to sync it first.

        Whoever waits for that has the time. What was read counts if the log holds the very same bytes in the end.
        Returns whether this call read one.
        """
        then, header = self._position, self._resting
        if self._foreseen or then is None or header is None or self._wal is None or self._lost or self._is_restless:
            return False
        if not then.page_size:  # the log has no frame yet
            return False
        size = FRAME_HEADER_SIZE + then.page_size
        data = os.pread(self._wal, FORESEEN_FRAMES * size, WAL_HEADER_SIZE + then.max_frame * size)
        frames: list[tuple[int, int]] = []
        for at in range(0, len(data) - size + 1, size):
            number, commit_size, *salts = _HEAD.unpack_from(data, at)
            if tuple(salts) != then.salts:
                return False
            frames.append((number, commit_size))
            if commit_size:
                data = data[: at + size]
                changed = _newest(data, frames, size)
                growths = growths_of(changed.images, header, then.page_size - header.reserved, self._memory)
                self._foreseen = Foreseen(data, changed, growths)
                return True
        return False

    def take_appended(self) -> bool:
        """Take what `appended` told, if nothing was committed meanwhile; whether that is so."""
        before, changed = self._now, self._changes
        if before is None or self._position is None or self._growths is None or not isinstance(changed, Changed):
            return False
        if self._index() != before:
            return False
        self.commits = (before.change - self._position.change) & 0xFFFFFFFF
        grow(changed.images, self._growths, self._memory)
        self._position, self._changes, self._growths, self._foreseen = before, None, None, None
        return True

    def take(self, readers: Sequence[SectionReader]) -> Candidates:
        """Where the commits since the last call may have changed rows. Raises Moved, Gap.

        A writer may commit between `before` and the snapshot. Then the snapshot shows more than the frames up to
        `before` tell of; a page that such a commit wrote is met again at the next call.
        """
        before, self._foreseen = self._now, None
        if before is None:
            raise Moved
        self.commits = 0 if self._position is None else (before.change - self._position.change) & 0xFFFFFFFF
        if self._lost is not None or self._position is None or self._wal is None:
            raise Gap(self._lost or "start")
        now = self._index()
        if not self._is_restless:  # one reading of the index serves both questions
            self._require_same_log(now)
        changed = self._changes
        # A log that begins anew all the time has done so once more by now: it is asked right after reading next time.
        self._is_restless = now is None or now.salts != before.salts
        if isinstance(changed, Exception):
            raise changed
        if changed is None or now is None:
            raise Moved
        # An auto-vacuum cuts pages off; their last images are of no row any more.
        images = changed.images
        if images and max(images) > before.page_count:
            images = {number: image for number, image in images.items() if number <= before.page_count}
        found = self._places(images, before.page_size, readers, is_exact=now == before)
        self._position, self._changes, self._overruns = before, None, max(0, self._overruns - 1)
        return found

    def skip(self, reason: str) -> None:
        """After a gap: go on from what `before` noted, since the pass that follows sees at least that much."""
        self._memory.gap(reason)
        self._position, self._lost = self._now, None
        if reason == "wal_restarted":
            self._overruns += 2
            if self._overruns >= OVERRUNS:
                self._overruns, self._blind = OVERRUNS - 1, BLIND

    def lose(self, reason: str) -> None:
        """Commits were made that this log does not tell of."""
        self._lost = reason

    def _index(self) -> WalIndex | None:
        """The wal-index header; read again while a writer is in the middle of changing it."""
        if self._shm is None:
            return None
        for _ in range(TORN_TRIES):
            raw = os.pread(self._shm.descriptor, WAL_INDEX_SIZE, 0)
            if raw == self._raw_index:
                return self._parsed_index
            index = parse_wal_index(raw)
            if index is not None:
                self._raw_index, self._parsed_index = raw, index
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
        """The frames from `first` to the end of the log. Raises Moved if there are fewer, Gap if too many."""
        count = index.max_frame - first + 1
        if count <= 0:
            return Changed({}, 0)
        size = FRAME_HEADER_SIZE + index.page_size
        if count * size > MAX_BYTES:
            raise Gap("burst")
        assert self._wal is not None
        data = os.pread(self._wal, count * size, WAL_HEADER_SIZE + (first - 1) * size)
        if len(data) < count * size:
            raise Moved
        if self._foreseen is not None and data == self._foreseen.data:
            return self._foreseen.changed
        return _newest(data, [_PLACE.unpack_from(data, at) for at in range(0, len(data), size)], size)

    def _overtaken(self, then: WalIndex, now: WalIndex) -> Changed:
        """Frames of the log before its restart that were not read yet and not overwritten either."""
        if now.max_frame > then.max_frame or not then.page_size or self._wal is None:
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

    def _places(
        self, images: dict[int, bytes], page_size: int, readers: Sequence[SectionReader], *, is_exact: bool
    ) -> Candidates:
        # Without page 1 among the frames neither the reserved size nor the auto-vacuum mode has changed.
        header = parse_header(images[1]) if 1 in images else self._resting
        if header is None:
            raise Gap("header")
        usable = page_size - header.reserved
        return places_of(images, header, usable, self._memory, readers, images.get, is_exact=is_exact)


def _identity(path: Path) -> Identity:
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
