"""`depends_on` of a mapping: the child tables whose changes re-read the rows of a section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from storage.types import Section

Expression = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Dependency(BaseModel):
    """A child table, and what its row refers to: an SQL expression over that row."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    own: ClassVar[str]
    """The key that names the `id` of the section."""
    table: Annotated[str, StringConstraints(min_length=1)]
    conversation_id: Expression | None = None

    @model_validator(mode="after")
    def _refers_to_one(self) -> Dependency:
        if len(self.given) != 1:
            raise ValueError(f"say which rows a row of it is part of, by either {self.own} or conversation_id")
        return self

    @property
    def given(self) -> dict[str, str]:
        """What its row refers to."""
        return {name: value for name, value in self.model_dump(exclude={"table"}).items() if value is not None}


class MessageDependency(Dependency):
    """A child table of messages."""

    own = "message_id"
    message_id: Expression | None = None


class TaskDependency(Dependency):
    """A child table of tasks."""

    own = "task_id"
    task_id: Expression | None = None


Given = tuple[Section, Dependency, Mapping[str, str]]
"""A section, one of its dependencies, and where the keys of that were written."""


def children(given: Iterable[Given], first: int) -> tuple[Section, ...]:
    """The child tables as sections, numbered from `first`. One that several sections share is watched once."""
    found: dict[tuple[str, str], Section] = {}
    for section, dependency, origins in given:
        (key, expression), *_ = dependency.given.items()
        feed = section.number, "id" if key == dependency.own else key
        place = dependency.table.lower(), expression
        known = found.get(place)
        found[place] = Section(
            known.number if known else first + len(found),
            known.name if known else section.name,
            "child",
            known.table if known else dependency.table,
            known.fields if known else ((key, expression),),
            feeds=tuple(dict.fromkeys((*(known.feeds if known else ()), feed))),
            origins=known.origins if known else origins,
        )
    return tuple(found.values())
