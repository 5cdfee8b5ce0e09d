"""Reads a write-ahead log and the head of its wal-index (`-shm`) from bytes. Pure: no file, no SQL.

Sources: sqlite.org/fileformat2.html section 4 for the log, sqlite.org/walformat.html section 2 for the index. Files
may be torn or change between two reads: what does not prove itself is None, or ends the frames.

The log alone does not say where it ends. A rolled back transaction that was too big for the writer's cache leaves
frames with the right salts, and a later, smaller commit overwrites only the first of them: so bound a scan by
`WalIndex.max_frame` or let it verify checksums, whose chain breaks there.

Counting commit frames is not counting commits: a writer that may not rely on atomic sectors (`psow=0`) repeats a
commit's last frame up to the next sector. `WalIndex.change` counts commits, but starts at 0 again after a recovery.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import mul
from struct import Struct, calcsize, unpack, unpack_from
from typing import NamedTuple

from storage.btree import page_size_of

WAL_HEADER_SIZE = 32
FRAME_HEADER_SIZE = 24
WAL_INDEX_SIZE = 96
"""Bytes at the start of `-shm` that `parse_wal_index` wants: two copies of the header."""

_MAGIC = 0x377F0682
_VERSION = 3_007_000
_LOW = 0xFFFF_FFFF
_HEADER = Struct(">8I")
_FRAME = Struct(">6I")
_INDEX = Struct("=3I 2B H 4I")
_WORD = next(code for code in "IL" if calcsize(code) == 4)
_FEW = 16


@dataclass(frozen=True, slots=True)
class WalHeader:
    """The first 32 bytes of a log. `checkpoint_seq` and `salts` change when the log starts anew.

    `checksum` is the seed of frame 1's checksum, and `big_endian` the byte order in which all of them are computed.
    """

    big_endian: bool
    page_size: int
    checkpoint_seq: int
    salts: tuple[int, int]
    checksum: tuple[int, int]

    @property
    def frame_size(self) -> int:
        """Bytes of one frame: its header and one page."""
        return FRAME_HEADER_SIZE + self.page_size

    def frame_offset(self, index: int) -> int:
        """Where frame `index`, counted from 1, begins in the file."""
        return WAL_HEADER_SIZE + (index - 1) * self.frame_size


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a log. `index` counts from 1; `commit_size` is the database's size in pages after the commit, and 0
    if the frame does not end one; `start` is the offset of the page image in the scanned buffer.

    `checksum` is as stored, so it is proven only if the scan verified; it is the seed for resuming at `index + 1`.
    """

    index: int
    pgno: int
    commit_size: int
    salts: tuple[int, int]
    checksum: tuple[int, int]
    start: int


class WalIndex(NamedTuple):
    """The head of `-shm`. `max_frame` is the last committed frame, `page_count` the database's size then, in pages.

    `change` counts commits modulo 2**32; a recovery starts it at 0. `salts` and `frame_checksum` (of frame
    `max_frame`) compare equal to those of WalHeader and Frame. It moves with commits alone.
    """

    change: int
    big_endian: bool
    page_size: int
    max_frame: int
    page_count: int
    frame_checksum: tuple[int, int]
    salts: tuple[int, int]


def parse_wal_header(data: bytes) -> WalHeader | None:
    """Reads the header at the start of a log; None if it is short, torn or not one."""
    if len(data) < WAL_HEADER_SIZE:
        return None
    magic, version, page_size, sequence, *salts_and_sums = _HEADER.unpack_from(data)
    if magic & ~1 != _MAGIC or version != _VERSION or page_size == 1 or page_size_of(page_size) is None:
        return None
    salt_1, salt_2, *stored = salts_and_sums
    big_endian = bool(magic & 1)
    sums = checksum(data[:24], big_endian)
    return WalHeader(big_endian, page_size, sequence, (salt_1, salt_2), sums) if list(sums) == stored else None


def scan_frames(
    buf: bytes,
    header: WalHeader,
    first_frame: int = 1,
    base_offset: int = 0,
    *,
    last_frame: int | None = None,
    seed: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """Yields the frames from `first_frame` on that belong to `header`, while they are whole and their salts match.

    `buf` is a piece of the file that begins at `base_offset` bytes and holds `first_frame`. `last_frame` bounds the
    scan. With `seed`, the checksum of the frame before `first_frame` (`header.checksum` for frame 1), it also stops at
    the first frame whose checksum does not continue the chain.
    """
    at = header.frame_offset(first_frame) - base_offset
    ends = min(len(buf), len(buf) if last_frame is None else header.frame_offset(last_frame + 1) - base_offset)
    if first_frame < 1 or at < 0:
        return
    for index, start in enumerate(range(at, ends - header.frame_size + 1, header.frame_size), first_frame):
        pgno, commit_size, salt_1, salt_2, sum_1, sum_2 = _FRAME.unpack_from(buf, start)
        if pgno == 0 or (salt_1, salt_2) != header.salts:
            return
        if seed is not None:
            seed = _frame_checksum(buf, start, header, seed)
            if seed != (sum_1, sum_2):
                return
        yield Frame(index, pgno, commit_size, header.salts, (sum_1, sum_2), start + FRAME_HEADER_SIZE)


def parse_wal_index(data: bytes) -> WalIndex | None:
    """Reads the first 96 bytes of `-shm`, which are in this machine's byte order.

    None if they are short, not initialised, of another version, or caught while a writer changes them: then the two
    copies differ or the checksum is wrong, and a second look will do. What readers and checkpoints move comes behind.
    """
    if len(data) < WAL_INDEX_SIZE or data[:48] != data[48:96]:
        return None
    version, _, change, ready, big_endian, stored_size, max_frame, page_count, *frame_sums = _INDEX.unpack_from(data)
    # Over a log that has no frame yet the index has no page size either.
    page_size = 0 if stored_size == 0 and max_frame == 0 else page_size_of(stored_size)
    if version != _VERSION or not ready or page_size is None:
        return None
    words = _INDEX_WORDS.unpack_from(data)
    if (_dot(_INDEX_WEIGHTS[0], words), _dot(_INDEX_WEIGHTS[1], words)) != words[10:]:
        return None
    # The salts are copied from the log byte by byte, so they alone are big-endian on every machine.
    salt_1, salt_2 = unpack_from(">2I", data, 32)
    sum_1, sum_2 = frame_sums
    return WalIndex(
        change, bool(big_endian), page_size, max_frame, page_count,
        (sum_1, sum_2), (salt_1, salt_2),
    )  # fmt: skip


def checksum(data: bytes, big_endian: bool, seed: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """The log's checksum over `data`, a multiple of 8 bytes, continued from `seed` (section 4.2).

    For each pair of 32-bit words: s1 += word + s2; s2 += next word + s1.
    """
    lanes = len(data) // 8
    if lanes > _FEW and lanes & (lanes - 1) == 0:
        return _folded_checksum(data, lanes, big_endian, seed)
    return _plain_checksum(unpack(f"{'>' if big_endian else '<'}{lanes * 2}I", data[: lanes * 8]), seed)


def _frame_checksum(buf: bytes, start: int, header: WalHeader, seed: tuple[int, int]) -> tuple[int, int]:
    """It covers page number and commit size, the first 8 bytes of the frame header, and then the page."""
    image = start + FRAME_HEADER_SIZE
    seed = checksum(buf[start : start + 8], header.big_endian, seed)
    return checksum(buf[image : image + header.page_size], header.big_endian, seed)


def _plain_checksum(words: tuple[int, ...], seed: tuple[int, int]) -> tuple[int, int]:
    """Linear in every word, so it is two sums of products, which need no loop of ours."""
    of_1, of_2 = _weights(len(words) // 2)
    s1, s2 = _times(_power(len(words) // 2), seed) if seed != (0, 0) else seed
    return (s1 + _dot(of_1, words)) & _LOW, (s2 + _dot(of_2, words)) & _LOW


def _dot(weights: tuple[int, ...], words: tuple[int, ...]) -> int:
    total: int = sum(map(mul, weights, words))
    return total & _LOW


@lru_cache(maxsize=64)
def _weights(lanes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How often each word counts in s1, and in s2: a pair at its step, (first, first + second), times M per step after
    it (see `_folded_checksum`)."""
    powers = [_power(after) for after in range(lanes - 1, -1, -1)]
    of_1 = [weight for a, b, _ in powers for weight in (a + b, b)]
    of_2 = [weight for _, b, c in powers for weight in (b + c, c)]
    return tuple(of_1), tuple(of_2)


def _folded_checksum(data: bytes, lanes: int, big_endian: bool, seed: tuple[int, int]) -> tuple[int, int]:
    """The same sum for 2**n pairs, several times faster than a loop over the words of a page.

    One step is linear: (s1, s2) -> M (s1, s2) + (first, first + second) with M = [[1, 1], [1, 2]]. So a block of 2k
    steps is M**k times the sum over its first half plus the sum over its second. Here all halves are folded at once:
    two long integers hold s1 and s2 of every lane of 64 bits, and multiply 32-bit numbers without touching the next.
    """
    whole = int.from_bytes(_little(data[: lanes * 8], big_endian), "little")
    mask = _lane_mask(lanes)
    s1 = whole & mask
    s2 = (s1 + (whole >> 32 & mask)) & mask
    width = lanes
    while width > _FEW:
        width //= 2
        mask, half, bits = _lane_mask(width), _lane_fill(width), width * 64
        a, b, c = _power(width)
        early1, early2 = s1 & half, s2 & half
        s1 = ((a * early1 & mask) + (b * early2 & mask) + (s1 >> bits)) & mask
        s2 = ((b * early1 & mask) + (c * early2 & mask) + (s2 >> bits)) & mask
    return _join(s1, s2, width, _times(_power(lanes), seed))


def _join(s1: int, s2: int, width: int, seed: tuple[int, int]) -> tuple[int, int]:
    """Sums up the last lanes one by one, and adds what the seed has become after all steps."""
    total1 = total2 = 0
    for shift in range(0, width * 64, 64):
        total1, total2 = total1 + total2, total1 + 2 * total2
        total1 += s1 >> shift & _LOW
        total2 += s2 >> shift & _LOW
    return (total1 + seed[0]) & _LOW, (total2 + seed[1]) & _LOW


def _times(power: tuple[int, int, int], pair: tuple[int, int]) -> tuple[int, int]:
    a, b, c = power
    return a * pair[0] + b * pair[1], b * pair[0] + c * pair[1]


def _little(data: bytes, big_endian: bool) -> bytes:
    if not big_endian:
        return data
    words = array(_WORD, data)
    words.byteswap()
    return words.tobytes()


@cache
def _power(exponent: int) -> tuple[int, int, int]:
    """M**exponent as (top left, off diagonal, bottom right) modulo 2**32; it is symmetric."""
    a, b, c = 1, 0, 1
    for _ in range(exponent):
        a, b, c = (a + b) & _LOW, (b + c) & _LOW, (b + 2 * c) & _LOW
    return a, b, c


@cache
def _lane_mask(lanes: int) -> int:
    return int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * lanes, "little")


@cache
def _lane_fill(lanes: int) -> int:
    return (1 << lanes * 64) - 1


_INDEX_WORDS = Struct("=12I")
"""The ten words of one copy of the wal-index header, and their checksum."""
_INDEX_WEIGHTS = _weights(5)
