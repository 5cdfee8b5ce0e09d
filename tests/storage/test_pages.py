"""What a page is, where its first byte alone decides."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from storage.btree import INDEX_INTERIOR, INDEX_LEAF, TABLE_INTERIOR, DatabaseHeader, parse_header
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


@pytest.mark.parametrize("kind", [INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF])
def test_in_a_vast_database_an_overflow_page_is_told_from_one_that_begins_as_it_does(tmp_path: Path, kind: int) -> None:
    header = header_of(tmp_path)
    images = {7: overflow_page(kind << 24, header.page_size)}
    vast = replace(header, page_count=kind << 24)
    with pytest.raises(Gap, match=OVERFLOW):
        places_of(images, vast, header.usable_size, Memory(), [], images.get)


@pytest.mark.parametrize("kind", [INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF])
def test_in_any_other_a_page_that_holds_no_rows_is_told_by_its_first_byte(tmp_path: Path, kind: int) -> None:
    header = header_of(tmp_path)
    images = {7: bytes([kind]) + b"\xff" * (header.page_size - 1)}
    assert places_of(images, header, header.usable_size, Memory(), [], images.get) == {}
