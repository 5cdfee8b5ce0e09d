"""What a page is, where its first byte alone decides."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from storage.btree import INDEX_LEAF, DatabaseHeader, parse_header
from storage.pages import OVERFLOW, Gap, Memory, places_of


def header_of(folder: Path) -> DatabaseHeader:
    with closing(sqlite3.connect(folder / "any.db")) as connection:
        connection.execute("CREATE TABLE t(a)")
    header = parse_header((folder / "any.db").read_bytes())
    assert header is not None
    return header


def overflow_page(following: int, size: int) -> bytes:
    """It begins with the number of the page that follows (sqlite.org/fileformat2.html section 1.6)."""
    return following.to_bytes(4, "big") + b"x" * (size - 4)


def test_in_a_vast_database_an_overflow_page_is_told_from_an_index_that_begins_as_it_does(tmp_path: Path) -> None:
    header = header_of(tmp_path)
    following = INDEX_LEAF << 24
    images = {7: overflow_page(following, header.page_size)}
    vast = replace(header, page_count=following)
    with pytest.raises(Gap, match=OVERFLOW):
        places_of(images, vast, header.usable_size, Memory(), [], images.get)


def test_in_any_other_an_index_is_told_by_its_first_byte(tmp_path: Path) -> None:
    header = header_of(tmp_path)
    images = {7: bytes([INDEX_LEAF]) + b"\xff" * (header.page_size - 1)}
    assert places_of(images, header, header.usable_size, Memory(), [], images.get) == {}
