"""The values that cross between the rooms. Frozen, and free of any library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from marshal import dumps
from types import MappingProxyType
from typing import Literal, NamedTuple

Kind = Literal["message", "task", "child"]
Value = int | float | bytes | None
"""One SQLite value. TEXT and BLOB both come as bytes: a writer may store JSON as either, and TEXT need not be UTF-8."""


@dataclass(frozen=True, slots=True)
class Section:
    """One `[messages]` or `[tasks]` section of a mapping, as SQL, or a child table that such sections depend on.

    `fields` are (name, SQL expression) in a fixed order; the first is always `id`, the second `owner`, the third
    `conversation_id`. A child has one field, which gives what its row refers to; its `name` is that of the first
    section that depends on it. With `each`, a call of json_each or json_tree, every element that it gives of a row is
    one message or task.
    """

    number: int
    name: str
    kind: Kind
    table: str
    fields: tuple[tuple[str, str], ...]
    where: str | None = None
    each: str | None = None
    feeds: tuple[tuple[int, str], ...] = ()
    """Of a child: the sections that depend on it, by number, each with the field of it that the child's row gives."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each key was written, such as `mapping.toml:12`, for messages about it."""

    @property
    def title(self) -> str:
        """What the section is called in messages."""
        return f"[{self.name}] depends_on {self.table}" if self.kind == "child" else f"[{self.name}]"

    def named(self, key: str) -> str:
        """A key of the section and where it was written, as messages begin."""
        origin = self.origins.get(key)
        return f"{f'{origin}: ' if origin else ''}[{self.name}]{' depends_on' if self.kind == 'child' else ''} {key}"

    @property
    def identity(self) -> str:
        """What makes a row of this section *that* row: if it changes, nothing known of the section holds any more."""
        parts = (self.kind, self.table, self.fields[0][1])
        return repr(parts if self.each is None else (*parts, self.each))

    @property
    def definition(self) -> str:
        """What the digests of this section's rows depend on."""
        return repr((self.identity, self.fields, self.where, *([self.feeds] if self.feeds else [])))


@dataclass(slots=True)
class Row:
    """One row of a section as one snapshot showed it. `loc` is its rowid: where it stands, never who it is.

    In a section with `each` it is one element of a row, and all elements of that row have its `loc`.
    """

    loc: int
    digest: bytes
    values: tuple[Value, ...]
    _key: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> bytes:
        """16 bytes that stand for the mapped id. Made when first asked for: an unchanged row needs none."""
        if self._key is None:
            self._key = key_of(self.values[0])
        return self._key


@dataclass(frozen=True, slots=True)
class Home:
    """Where a row was last told: its conversation and its mapped owner, both as they were then."""

    conversation: str | None
    owner: Value


NOBODY, HIDDEN = 0, -1
"""In place of the number of a home: nobody knows of it, or all were told that it is gone as it left the `where`."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the state file remembers of a row.

    `id` is its mapped id and `home` the number of its home, NOBODY or HIDDEN. Both are None for a row that an older
    walcast remembered: whose it was is not known.
    """

    loc: int
    key: bytes
    digest: bytes
    place: bytes
    pending: bool = False
    id: str | int | float | None = None
    home: int | None = None

    @property
    def is_told(self) -> bool:
        """Whether somebody knows of it, and it is known who."""
        return self.home is not None and self.home > 0

    @property
    def is_hidden(self) -> bool:
        """Whether it was told as gone because it left the `where`."""
        return self.home == HIDDEN


class Op(Enum):
    """What happened to a row since it was last seen."""

    NEW = "new"
    CHANGED = "changed"
    MOVED = "moved"
    GONE = "gone"
    HIDDEN = "hidden"


class Change(NamedTuple):
    """A row that is not what the state file remembers. `row` is None for GONE and HIDDEN, `known` is None for NEW.

    `home` is where the known row was told, None if nowhere. `loc` is where a HIDDEN row stands, if it moved.
    """

    section: Section
    op: Op
    row: Row | None
    known: Known | None
    home: Home | None = None
    loc: int | None = None


NO_ONE: Mapping[str, int] = MappingProxyType({})


class Draft(NamedTuple):
    """An event before it has its place in the log. `body` is its JSON object, encoded.

    `is_optional`: only for clients that ask for more than the two types of the seed.
    """

    type: str
    conversation_id: str
    subject: str
    body: bytes
    owners: tuple[str, ...]
    is_optional: bool = False


class Event(NamedTuple):
    """An event of the log. `routes` pairs each owner with the sequence number of the event before it for that owner.

    That is the one before it which is not optional. `wide` has, for owners for whom it is another, the one before it
    of all.
    """

    seq: int
    type: str
    conversation_id: str
    subject: str
    body: bytes
    routes: tuple[tuple[str, int], ...]
    is_optional: bool = False
    wide: Mapping[str, int] = NO_ONE

    def previous(self, owner: str, *, wide: bool) -> int:
        """The event before it for an owner; `wide` for a client that gets optional events."""
        ordinary = next(previous for name, previous in self.routes if name == owner)
        return self.wide.get(owner, ordinary) if wide else ordinary


class Outcome(NamedTuple):
    """What the bridge decided about one change: what to remember, and the events to log, if any.

    `pending` keeps a row that has no owner yet on the list of those that are looked at again. `farewell` tells those
    for whom the row is gone, and comes before `draft`.
    """

    change: Change
    draft: Draft | None = None
    pending: bool = False
    problem: str | None = None
    farewell: Draft | None = None


def digest_of(values: Sequence[Value]) -> bytes:
    """16 bytes that change when any mapped value changes.

    marshal version 2 is the fastest canonical encoding of None, int, float and bytes in the standard library, and has
    no references in it, so equal values always give equal bytes.
    """
    return blake2b(dumps(tuple(values), 2), digest_size=16).digest()


def text_of(value: Value) -> str | None:
    """A mapped value as text: JSON ids are strings, whatever the column holds."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)


def key_of(value: Value) -> bytes:
    """16 bytes that stand for an id; 1 and '1' are the same id, since both are pushed as "1"."""
    raw = value if isinstance(value, bytes) else str(value).encode()
    return blake2b(raw, digest_size=16).digest()


NOWHERE = b""


def referred(value: Value) -> bytes:
    """What a child's row refers to, as it is remembered: an id of any type, as text."""
    if value is None:
        return NOWHERE
    return value if isinstance(value, bytes) else str(value).encode()


def place_of(section: Section, values: Sequence[Value]) -> bytes:
    """8 bytes that stand for a message's conversation: the same id in another conversation is another message.

    A deleted id that is given again would else pass for an edit of the old message. NOWHERE for a task, whose id is
    all that it is, and for a message that has no conversation yet. Of a child's row it is what it refers to, whole.
    """
    if section.kind == "child":
        return referred(values[0])
    conversation = values[2]
    if section.kind != "message" or conversation is None:
        return NOWHERE
    return _place(str(text_of(conversation)))


@lru_cache(maxsize=10_000)  # a conversation has many messages
def _place(conversation: str) -> bytes:
    return blake2b(conversation.encode("utf-8", "surrogatepass"), digest_size=8).digest()
