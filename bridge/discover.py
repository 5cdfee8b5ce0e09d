"""Discover: which mapping fits a database that was given without one. Never a guess."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bridge.inspect.fields import percent
from bridge.inspect.inspection import Inspection, inspect_database
from bridge.mapping import REFERENCE, Mapping, load_mapping, parse_mapping
from storage.elements import reader_for
from storage.errors import ConfigurationError, MappingMisfit
from storage.legacy import Busy, LegacyDatabase
from storage.names import table_names
from storage.types import Section

MOST_TABLES = 20
"""So many are named when none of them fits."""


def mapping_for(database: Path, given: Path | None, *, wait: bool) -> Mapping:
    """The mapping of a file, or the one that is certain for this database.

    Raises ConfigurationError, MappingMisfit, DatabaseUnusable.
    """
    if given is not None:
        return load_mapping(given)
    if wait and not database.exists():
        raise ConfigurationError(f"{database} is not there yet, so its mapping cannot be found", "--wait needs --map")
    return _certain(database)


def require_fit(database: Path, mapping: Mapping, *, wait: bool) -> None:
    """What an attach would refuse. Raises MappingMisfit, DatabaseUnusable; a lock of the writer's is no reason."""
    if wait and not database.exists():
        return
    legacy = LegacyDatabase(database)
    try:
        legacy.open()
        with legacy.snapshot():
            for section in (*mapping.sections, *mapping.children, *mapping.others):
                reader_for(legacy.connection, section)
    except Busy:
        pass
    finally:
        legacy.close()


def _certain(database: Path) -> Mapping:
    """The reference schema, a preset that names the owner, or what `inspect` is certain of."""
    try:
        reference, tables = _reference(database)
        if reference is not None:
            return reference
        looked = _looked(database, tables)
    except Busy as error:
        raise MappingMisfit(f"{database} is locked by its writer just now", "try again, or give --map") from error
    if looked.is_certain:
        return looked.mapping()
    raise _uncertain(database, tables, looked)


def _reference(database: Path) -> tuple[Mapping | None, list[str]]:
    """The mapping of the reference schema if it fits, and the tables that there are."""
    mapping, legacy = parse_mapping(REFERENCE, "the reference schema"), LegacyDatabase(database)
    try:
        legacy.open()
        with legacy.snapshot():
            tables = table_names(legacy.connection)
            if not _fits(legacy, mapping.sections):
                return None, tables
            return mapping if _fits(legacy, mapping.others) else replace(mapping, conversations=None), tables
    finally:
        legacy.close()


def _fits(legacy: LegacyDatabase, sections: Iterable[Section]) -> bool:
    try:
        for section in sections:
            reader_for(legacy.connection, section)
    except MappingMisfit:
        return False
    return True


def _looked(database: Path, tables: list[str]) -> Inspection:
    try:
        return inspect_database(database, with_engine=False)
    except MappingMisfit as error:
        raise MappingMisfit(f"{_beginning(database, tables)}; {error.args[0]}", error.hint) from error


def _beginning(database: Path, tables: list[str]) -> str:
    more = f" and {len(tables) - MOST_TABLES} more" if len(tables) > MOST_TABLES else ""
    return f"no mapping is certain for {database}; its tables are: {', '.join(tables[:MOST_TABLES]) or 'none'}{more}"


def _uncertain(database: Path, tables: list[str], looked: Inspection) -> MappingMisfit:
    found = ", ".join(dict.fromkeys(f"[{draft.kind}] in {draft.table.name}" for draft in looked.drafts))
    doubts = [*looked.doubts]
    for tried in looked.trials:
        name = f"[{tried.section.name}]"
        doubts += [f"{name} {len(tried.bad)} of {tried.read} rows fail: {tried.bad[0]}"] if tried.bad else []
        doubts += [f"{name} {percent(tried.unowned_share)} of the newest rows have no owner"] if tried.unowned else []
    return MappingMisfit(
        f"{_beginning(database, tables)}; found: {found}; "
        f"not certain: {'; '.join(dict.fromkeys(doubts)) or 'the tables themselves'}",
        f"walcast inspect {database} --write mapping.toml, confirm what it marks, and give the file with --map; "
        "walcast never guesses an owner",
    )
