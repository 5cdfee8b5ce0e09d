"""Choice: one line of a mapping, with how sure it is and why. And the sections and proposals made of such lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bridge.inspect.candidates import Candidate
from storage.profile import Table

CERTAIN = 0.85
"""From here on a line is used without asking."""


@dataclass(frozen=True)
class Choice:
    """An SQL expression for a field. `score` is 0 to 1."""

    sql: str
    score: float
    reason: str
    candidate: Candidate | None = None
    where: str | None = None
    """What has to hold for the rows that this choice is about."""
    confirm: bool = False
    """Somebody has to say that it is so: the data alone cannot tell."""


NONE = Choice("NULL", 0.0, "nothing fits")


def best(choices: Iterable[Choice]) -> Choice:
    """The one of the highest score, the first of equals."""
    return max(choices, key=lambda choice: choice.score, default=NONE)


@dataclass
class Draft:
    """A section as it is being put together. `score` says how much its table looks the part, 0 to 1."""

    kind: str
    table: Table
    lines: dict[str, Choice]
    score: float
    reason: str
    where: list[str] = field(default_factory=list)
    conversation: Candidate | None = None

    @property
    def condition(self) -> str | None:
        """The whole `where`."""
        parts = list(dict.fromkeys(self.where))
        return " AND ".join(parts) if parts else None


NEEDED = {
    "conversations": ("id", "owner"),
    "messages": ("id", "conversation_id", "role", "content", "owner"),
    "tasks": ("id", "conversation_id", "state", "owner"),
}
"""The lines that have to be certain before a mapping is used without asking."""


def is_certain(draft: Draft) -> bool:
    """Whether every needed line is."""
    needed = [draft.lines[key] for key in NEEDED[draft.kind] if key in draft.lines]
    return (
        draft.score >= 0.7
        and len(needed) == len(NEEDED[draft.kind])
        and all(choice.score >= CERTAIN and not choice.confirm for choice in needed)
    )
