"""Links: which column of a table names the rows of which other table, declared or not."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.inspect.candidates import ident
from bridge.inspect.words import is_id, singular, tokens_of
from storage.profile import Profile, Table

COMMON_KEYS = frozenset(
    {"id", "name", "key", "uuid", "type", "value", "created_at", "updated_at", "timestamp", "title"}
)

_PEOPLE = (("user",), ("account",), ("member",), ("person",))
_PERSON = frozenset({"author", "sender", "owner", "creator", "requester", "customer", "user", "reporter", "client"})


@dataclass(frozen=True, slots=True)
class Link:
    """`pairs` are (column of `source`, column of `target`); together they name one row of `target`."""

    source: Table
    target: Table
    pairs: tuple[tuple[str, str], ...]
    reason: str
    is_declared: bool = False

    def names(self, column: str) -> bool:
        """Whether a column of the source is part of it."""
        return any(mine.lower() == column.lower() for mine, _ in self.pairs)

    def other(self, column: str) -> str:
        """The target's column that stands against a column of the source."""
        return next(theirs for mine, theirs in self.pairs if mine.lower() == column.lower())

    def condition(self, alias: str, outer: str) -> str:
        """The SQL that joins them, `alias` being the target's name and `outer` the source's."""
        return " AND ".join(f"{alias}.{ident(theirs)} = {outer}.{ident(mine)}" for mine, theirs in self.pairs)


def links_of(profile: Profile, table: Table) -> list[Link]:
    """Declared foreign keys, then names that say the same; a link that the data contradicts is none."""
    found = [link for link in _declared(profile, table) if _fits(link)]
    for column in table.columns:
        if any(link.names(column.name) for link in found):
            continue
        found += [
            link
            for other in profile.tables
            if other is not table
            for link in _by_name(table, column.name, other)
            if _fits(link)
        ]
    return found


def _declared(profile: Profile, table: Table) -> list[Link]:
    found = []
    for key in table.foreign_keys:
        target = profile.table(key.table)
        to = key.to or (target.primary_key if target else ())
        if target is not None and len(to) == len(key.columns) and all(target.column(name) for name in to):
            pairs = tuple(zip(key.columns, to, strict=True))
            found.append(Link(table, target, pairs, f"foreign key to {target.name}", True))
    return found


def _by_name(table: Table, column: str, other: Table) -> list[Link]:
    key = other.primary_key
    single = {names[0] for names in (key, *other.unique) if len(names) == 1}
    if table.primary_key == (column,) and tokens_of(column) == ("id",):
        return []
    for mine in single:
        if mine.lower() == column.lower() and mine.lower() not in COMMON_KEYS and is_id(mine):
            return [Link(table, other, ((column, mine),), f"the same name as the key of {other.name}")]
    words = tokens_of(column)
    stem = words[:-1] if is_id(column) else words
    noun = tuple(map(singular, tokens_of(other.name)))
    if (
        len(key) == 1
        and stem
        and (noun[-len(stem) :] == tuple(map(singular, stem)))
        and (tokens_of(key[0])[-1:] in (("id",), ("uuid",), ("nr",)) or _declared_alike(table, column, other, key[0]))
    ):
        return [Link(table, other, ((column, key[0]),), f"named after {other.name}")]
    if len(key) == 1 and noun[-1:] in _PEOPLE and stem and singular(stem[-1]) in _PERSON:
        return [Link(table, other, ((column, key[0]),), f"its values are keys of {other.name}")]
    return []


def _declared_alike(table: Table, column: str, other: Table, key: str) -> bool:
    mine, theirs = table.column(column), other.column(key)
    return (
        mine is not None
        and theirs is not None
        and mine.declared == theirs.declared
        and mine.storage.keys() & theirs.storage.keys() != set()
    )


def _fits(link: Link) -> bool:
    """Whether the sampled values are keys of the target, as far as its sample tells."""
    if not link.target.sample or not link.source.sample:
        return link.is_declared or bool(link.target.columns)
    for mine, theirs in link.pairs:
        column = link.source.column(mine)
        target = link.target.column(theirs)
        if column is None or target is None:
            return False
        wanted = [value for value in link.source.values(column.name) if value is not None]
        known = set(link.target.values(target.name))
        if not wanted:
            continue
        hit = sum(value in known for value in wanted) / len(wanted)
        if hit < 0.5 and link.target.rows <= len(link.target.sample):
            return False
        if not hit and not link.is_declared and not is_id(mine):
            return False
    return True
