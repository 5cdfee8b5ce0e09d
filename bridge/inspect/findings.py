"""Findings of a preflight, and those about the columns of the tables that a mapping names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bridge.inspect import judge
from bridge.inspect.candidates import Candidate, parsed
from bridge.inspect.words import STAMP, weight
from bridge.mapping import Mapping
from storage.profile import Profile, Table

CLOCK_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. A `note` does not make `serve` misbehave."""

    level: Literal["problem", "note"]
    what: str
    mend: str

    @property
    def exit_code(self) -> int:
        """What `check` ends with because of it."""
        return 3 if self.level == "problem" else 0


def problem(what: str, mend: str) -> Finding:
    """Something that would make `serve` misbehave."""
    return Finding("problem", what, mend)


def note(what: str, mend: str) -> Finding:
    """Something worth knowing."""
    return Finding("note", what, mend)


def about_columns(profile: Profile, mapping: Mapping) -> Iterator[Finding]:
    """Columns with invalid JSON, huge values, or times ahead of the clock."""
    for name in dict.fromkeys(section.table.lower() for section in mapping.sections):
        table = profile.table(name)
        if table is not None:
            yield from _about_columns(table)


def _about_columns(table: Table) -> Iterator[Finding]:
    for column in table.columns:
        candidate = Candidate(table, column, (), table.values(column.name))
        texts = [value for value in candidate.present if isinstance(value, (str, bytes))]
        looks = [value for value in texts if value.lstrip()[:1] in ("{", "[", b"{", b"[")]
        invalid = [value for value in looks if parsed(value) is None]
        is_json = "JSON" in column.declared.upper() or len(looks) * 2 > len(texts) > 0
        if is_json and invalid:
            yield note(
                f"{table.name}.{column.name}: {len(invalid)} of {len(looks)} values looked at are invalid JSON",
                "expressions that read inside it need CASE WHEN json_valid(...)",
            )
        if column.oversize:
            yield note(
                f"{table.name}.{column.name}: {column.oversize} values of more than 64 KiB among those looked at",
                "map less, if not needed",
            )
        ahead = _ahead(candidate)
        if ahead > CLOCK_SECONDS:
            yield note(
                f"{table.name}.{column.name}: the newest time is {ahead:.0f} s ahead of this machine's clock",
                "set the clocks; walcast orders by commit, not by time, so nothing is lost",
            )


def _ahead(candidate: Candidate) -> float:
    """Seconds by which the newest time of a column lies ahead of now; 0 if it is none or unclear."""
    if weight(candidate.name, STAMP) < 0.5 or judge.stamps(candidate) < 0.9 or not candidate.present:
        return 0.0
    seconds: list[float] = []
    for value in candidate.present:
        if isinstance(value, (int, float)) and (unit := judge.unit_of(value)):
            seconds.append(value / unit)
        elif isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                return 0.0
            seconds.append((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    # A local time without its zone is up to 14 hours off: only what is further ahead says something.
    slack = (
        0 if all(isinstance(value, (int, float)) or str(value).endswith("Z") for value in candidate.present) else 50_400
    )
    ahead = max(seconds, default=0.0) - time.time()
    return ahead if ahead > slack else 0.0
