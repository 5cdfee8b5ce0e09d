"""Trial: a proposed mapping is run on the database before anybody reads it; what does not work is mended or said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bridge.decide import Unrenderable, decide, render
from bridge.inspect.choice import NEEDED, NONE, Choice, Draft
from bridge.mapping import Mapping
from storage.chunk import Chunk
from storage.elements import reader_for
from storage.errors import MappingMisfit
from storage.reader import SectionReader
from storage.types import Change, Op, Row, Section, Value, text_of
from storage.types import Draft as Event

TRIED_ROWS = 200
MOST_EXAMPLES = 3


class Connection(Protocol):
    """A connection to SQLite, which only `storage` knows by its name."""

    def execute(self, sql: str, parameters: Sequence[Value] = ..., /) -> object:
        """Run a statement."""


@dataclass
class Trial:
    """How the newest rows of one section came out."""

    section: Section
    read: int = 0
    unowned: int = 0
    samples: list[dict[str, object]] = field(default_factory=list)
    """Rendered events with their owners, the newest first."""
    owners: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    """The roles or the states."""
    bad: list[str] = field(default_factory=list)
    """Reasons of rows that could not be read or rendered, one for each row."""

    @property
    def unowned_share(self) -> float:
        """How many of the rows have no owner, 0 to 1."""
        return self.unowned / self.read if self.read else 0.0


def fitted(connection: Connection, draft: Draft) -> tuple[Draft, list[str]]:
    """The draft with only such lines as the database takes, and what was wrong with the others."""
    wrong: list[str] = []
    for _ in range(len(draft.lines) + 1):
        section = section_of(draft)
        try:
            reader_for(connection, section)  # type: ignore[arg-type]
        except MappingMisfit as error:
            wrong.append(str(error))
            name = next((key for key in draft.lines if f"] {key} = " in error.args[0]), None)
            if name is None:
                break
            lines = dict(draft.lines)
            if name in NEEDED[draft.kind]:
                lines[name] = replace(NONE, reason=str(error), confirm=True)
            else:
                del lines[name]
            draft = replace(draft, lines=lines)
        else:
            break
    return draft, wrong


def section_of(draft: Draft) -> Section:
    """A draft as a section, for the statements alone."""
    order = ("id", "owner", "conversation_id")
    lines = {key: choice.sql for key, choice in draft.lines.items() if key != "each"}
    fields = [(key, lines[key]) for key in order if key in lines] + [(k, v) for k, v in lines.items() if k not in order]
    kind = "task" if draft.kind == "tasks" else "message"
    each = draft.lines["each"].sql if "each" in draft.lines else None
    return Section(0, draft.kind, kind, draft.table.name, tuple(fields), draft.condition, each=each)  # type: ignore[arg-type]


def try_out(connection: Connection, mapping: Mapping) -> list[Trial]:
    """Read and render the newest rows of each section. Raises MappingMisfit."""
    return [_try(reader_for(connection, section), section) for section in mapping.sections]  # type: ignore[arg-type]


def _try(reader: SectionReader, section: Section) -> Trial:
    trial = Trial(section)
    chunk = newest(reader)
    trial.bad += [bad.reason for bad in chunk.bad]
    trial.read = len(chunk.rows) + len(chunk.bad)
    for row in reversed(chunk.rows):
        _render(trial, row)
    return trial


def newest(reader: SectionReader, rows: int = TRIED_ROWS) -> Chunk:
    """The last rows of a table that has rowids; the first ones of another."""
    if reader.rowid is None:
        return reader.chunk(None, rows)
    first = reader.last_loc()
    for _ in range(rows - 1):  # ids may be far apart
        before, _ = reader.neighbours(first, first)
        if before is None:
            break
        first = before
    found = reader.between(first - 1, None, rows)
    return found if found.rows or found.bad else reader.chunk(None, rows)


def _render(trial: Trial, row: Row) -> None:
    outcome = decide(Change(trial.section, Op.NEW, row, None))
    if outcome.problem is not None:
        trial.bad.append(outcome.problem)
        return
    draft = outcome.draft
    if draft is None:
        trial.unowned += 1
        draft = _unowned(trial, row)
    if draft is None:
        return
    trial.owners |= {*draft.owners}
    names = [name for name, _ in trial.section.fields]
    told = text_of(row.values[names.index("role" if "role" in names else "state")])
    trial.values |= {told} if told is not None else set()
    if len(trial.samples) < MOST_EXAMPLES:
        trial.samples.append({"owners": list(draft.owners), "event": json.loads(draft.body)})


def _unowned(trial: Trial, row: Row) -> Event | None:
    try:
        return render(trial.section, row, ())
    except Unrenderable as error:
        trial.bad.append(str(error))
        return None


def told(choice: Choice, trial: Trial) -> Choice:
    """An owner's line, with what the trial showed of it."""
    if not trial.unowned or choice.score == 0:
        return choice
    missing = f"{trial.unowned_share:.0%}".replace("%", " %")
    return replace(
        choice,
        reason=f"{choice.reason}; none in {missing} of the newest rows, which wait for one",
        score=choice.score * (1 - 0.4 * trial.unowned_share),
    )
