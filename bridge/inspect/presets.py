"""Presets: mappings for the schemas of published packages, one TOML file each, recognised by tables and columns."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from storage.profile import Profile


@dataclass(frozen=True, slots=True)
class Preset:
    """One file of `bridge/presets`. `sections` are as a mapping file has them, the owner perhaps left out."""

    name: str
    package: str
    versions: str
    notes: tuple[str, ...]
    confirm: tuple[str, ...]
    """Lines that depend on the application, not on the package."""
    tables: tuple[tuple[str, tuple[str, ...]], ...]
    sections: dict[str, tuple[dict[str, str], ...]]

    @property
    def has_owner(self) -> bool:
        """Whether every section says whose its rows are."""
        return all("owner" in section for sections in self.sections.values() for section in sections)

    def fits(self, schema: dict[str, set[str]]) -> bool:
        """Whether a schema, table to columns in lower case, has all that the preset looks for."""
        return all(
            {column.lower() for column in columns} <= schema.get(table.lower(), set()) for table, columns in self.tables
        )

    @property
    def weight(self) -> int:
        """How much it looks for: of two that fit, the one that asks more is the right one."""
        return sum(1 + len(columns) for _, columns in self.tables)


def parse_preset(name: str, text: str) -> Preset:
    """A preset from the text of its file."""
    document = tomllib.loads(text)
    told = document.pop("recognise")
    return Preset(
        name,
        told["package"],
        told["versions"],
        tuple(told.get("notes", ())),
        tuple(told.get("confirm", ())),
        tuple((table, tuple(columns)) for table, columns in told["tables"].items()),
        {kind: tuple(found if isinstance(found, list) else [found]) for kind, found in document.items()},
    )


@lru_cache(1)
def presets() -> tuple[Preset, ...]:
    """All that come with the program, by name."""
    folder = files("bridge") / "presets"
    found = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return tuple(
        parse_preset(file.name.removesuffix(".toml"), file.read_text(encoding="utf-8"))
        for file in sorted(found, key=lambda file: file.name)
    )


def preset_named(name: str) -> Preset | None:
    """The preset of a name."""
    return next((preset for preset in presets() if preset.name == name), None)


def recognised(profile: Profile, known: Iterable[Preset] | None = None) -> Preset | None:
    """The preset that a schema is for."""
    schema = {table.name.lower(): {column.name.lower() for column in table.columns} for table in profile.tables}
    fitting = [preset for preset in (presets() if known is None else known) if preset.fits(schema)]
    return max(fitting, key=lambda preset: preset.weight, default=None)
