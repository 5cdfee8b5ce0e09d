"""Discover: which mapping fits a database that was given without one. Never a guess."""

from __future__ import annotations

from pathlib import Path

from bridge.mapping import REFERENCE, Mapping, load_mapping, parse_mapping
from storage.errors import ConfigurationError, MappingMisfit
from storage.legacy import Busy, LegacyDatabase
from storage.reader import SectionReader, table_names


def mapping_for(database: Path, given: Path | None, *, wait: bool) -> Mapping:
    """The mapping of a file, or the one that is certain for this database.

    Raises ConfigurationError, MappingMisfit, DatabaseUnusable.
    """
    if given is not None:
        return load_mapping(given)
    if wait and not database.exists():
        raise ConfigurationError(f"{database} is not there yet, so its mapping cannot be found", "--wait needs --map")
    return _certain(database)


def _certain(database: Path) -> Mapping:
    """Today the reference schema alone is certain."""
    mapping = parse_mapping(REFERENCE, "the reference schema")
    legacy, tables = LegacyDatabase(database), list[str]()
    try:
        legacy.open()
        with legacy.snapshot():
            tables = table_names(legacy.connection)
            for section in mapping.sections:
                SectionReader(legacy.connection, section)
    except MappingMisfit as error:
        hint = "write a mapping file and give it with --map (the README shows one); walcast never guesses an owner"
        raise MappingMisfit(
            f"no mapping is certain for {database}; its tables are: {', '.join(tables) or 'none'}", hint
        ) from error
    except Busy as error:
        raise MappingMisfit(f"{database} is locked by its writer just now", "try again, or give --map") from error
    finally:
        legacy.close()
    return mapping
