"""Owners: whose a row is. A column, a path in its JSON, a row it points to, members; never a guess."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from bridge.inspect import judge, words
from bridge.inspect.candidates import Candidate, candidates_of, ident, literal
from bridge.inspect.choice import Choice
from bridge.inspect.fields import blend, data_of, percent
from bridge.inspect.links import COMMON_KEYS, Link, links_of
from storage.profile import Profile, Table

NO_OWNER = Choice(
    "NULL", 0.0, "no owner is in the data: nobody gets these events until you say whose they are", confirm=True
)
LEAST = 0.3
UNSURE = 0.5
STEPS = 2


def owner(
    profile: Profile, table: Table, candidates: Sequence[Candidate], group: Candidate | None, *, is_shared: bool = True
) -> list[Choice]:
    """All ways to an owner that were found, the best first. Empty if there is none.

    `is_shared`: the rows of one conversation have one owner, and a column that says otherwise tells who wrote.
    """
    found = [*direct(profile, table, candidates, group if is_shared else None), *_through(profile, table, group, STEPS)]
    found += _members(profile, table, group) if group is not None else []
    found = [choice for choice in found if choice.score >= LEAST]
    if group is not None and not found:
        found += _inside_id(group)
    unique = {choice.sql: choice for choice in sorted(found, key=lambda choice: choice.score)}
    return sorted(unique.values(), key=lambda choice: -choice.score)


def direct(
    profile: Profile, table: Table, candidates: Sequence[Candidate], group: Candidate | None
) -> Iterator[Choice]:
    """Owners that stand in the row itself, and those that a key in it names."""
    for candidate in candidates:
        score = _strength(candidate)
        is_group = group is not None and candidate.sql() == group.sql()
        if score < LEAST or is_group:
            continue
        steady, missing = _steady(candidate, group), 1 - candidate.coverage if candidate.values else 0.0
        reason = f"{candidate.title} names an owner"
        reason += (
            f", {candidate.distinct} in {len(candidate.values)} rows" if candidate.values else "; no rows to look at"
        )
        reason += f", missing in {percent(missing)}" if missing else ""
        reason += "" if steady > 0.8 else "; it changes within a conversation, so it may only be who wrote"
        score *= (0.45 + 0.55 * steady) * (1 - 0.25 * missing)
        known = list(_known_as(profile, candidate, score, reason))
        yield from known
        if other := next((choice for choice in known if choice.score < score and choice.candidate), None):
            name = other.candidate.table.name if other.candidate else ""
            reason += f"; if clients know them by {name}.{other.candidate.name if other.candidate else ''}, take that"
            score = min(score, 0.8)
        yield Choice(candidate.sql(), score, reason, candidate, confirm=score < UNSURE)
        if group is not None and missing and steady > 0.8 and not group.path and not candidate.path:
            yield _of_other_rows(table, candidate, group, score, missing)


def _strength(candidate: Candidate) -> float:
    tokens = words.tokens_of(candidate.name)
    name = words.weight(candidate.name, words.OWNER)
    beside = [token for token in tokens if token in words.NOT_OWNER or words.singular(token) in words.NOT_OWNER]
    name *= 0.25 if beside and not {"id", "identifier", "name", "address"} & set(tokens) else 0.6 if beside else 1
    if "created" in tokens or "from" in tokens:
        name = 0.7 if "by" in tokens else name if "from" in tokens and not beside else 0.0
    if candidate.table.primary_key == (candidate.column.name,) and not candidate.path:
        return 0.0
    if any(judge.flags(candidate) for _ in candidate.present[:1]):
        return 0.0
    if not candidate.present:
        return 0.0 if candidate.values or "BOOL" in candidate.column.declared.upper() else blend(name, None)
    if judge.wallets(candidate.present) > 0.9 and (name or words.weight(candidate.name, words.IDENTITY)):
        return 0.99
    if not name:
        return 0.0
    return blend(name, data_of(candidate, judge.names(candidate))) * (1 - 0.02 * len(candidate.path))


def _steady(candidate: Candidate, group: Candidate | None) -> float:
    """In how many conversations the values that are there are all the same."""
    if group is None or not candidate.values:
        return 1.0
    seen: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for conversation, value in zip(group.values, candidate.values, strict=True):
        if conversation is not None and value not in (None, ""):
            seen[repr(conversation)].add(repr(value))
            counts[repr(conversation)] += 1
    several = [names for conversation, names in seen.items() if counts[conversation] > 1]
    return words.share(len(names) == 1 for names in several) if several else 1.0


def _of_other_rows(table: Table, candidate: Candidate, group: Candidate, score: float, missing: float) -> Choice:
    """An owner that only the user's rows carry stands for the whole conversation."""
    name, column, key = ident(table.name), candidate.sql("o."), group.sql("o.")
    sql = (
        f"(SELECT {column} FROM {name} o WHERE {key} = {group.sql(name + '.')} AND {column} IS NOT NULL "
        f"ORDER BY o.rowid LIMIT 1)"
    )
    gain = score / (1 - 0.25 * missing) * 0.97
    reason = f"{candidate.title} of the conversation's other rows, since it is missing in {percent(missing)}"
    return Choice(sql, gain if table.has_rowid else 0.0, reason, candidate)


def _known_as(profile: Profile, candidate: Candidate, score: float, reason: str) -> Iterator[Choice]:
    """A key of a table of users: what clients know them by stands there."""
    if candidate.path:
        return
    for link in links_of(profile, candidate.table):
        if not link.names(candidate.column.name) or len(link.pairs) != 1:
            continue
        if words.weight(link.target.name, words.CONVERSATION) > words.weight(link.target.name, words.OWNER):
            continue
        alias = "u" if link.target.name.lower() != "u" else "v"
        for known, strength in _identities(link):
            sql = (
                f"(SELECT {known.sql(alias + '.')} FROM {ident(link.target.name)} {alias} "
                f"WHERE {link.condition(alias, ident(candidate.table.name))})"
            )
            told = f"{reason}; {link.target.name}.{known.title} is what they are known by ({link.reason})"
            factor = 0.86 + 0.16 * strength if _is_public(known) else 0.75
            yield Choice(sql, min(0.99, score * factor), told, known)


def _is_public(known: Candidate) -> bool:
    """Whether a column is what clients are known by, and not one of several ways to call them."""
    tokens = set(words.tokens_of(known.name))
    return judge.wallets(known.present) > 0.9 or bool(tokens & _PUBLIC and not tokens & {"email", "mail"})


_PUBLIC = words.listed("wallet pubkey publickey identifier sub external uid 钱包")


def _identities(link: Link) -> Iterator[tuple[Candidate, float]]:
    unique = {names[0] for names in link.target.unique if len(names) == 1}
    for candidate in candidates_of(link.target):
        name = words.weight(candidate.name, words.IDENTITY)
        is_key = candidate.column.name == link.pairs[0][1]
        look = judge.names(candidate) if candidate.present else 0.0 if candidate.values else 0.7
        if candidate.path or is_key or not look or (words.is_id(candidate.name) and name < 0.8):
            continue
        strength = name * look * (1 if candidate.column.name in unique or candidate.is_unique else 0.8)
        if judge.wallets(candidate.present) > 0.9:
            strength = 1.0
        if strength >= 0.6:
            yield candidate, strength


def _through(profile: Profile, table: Table, group: Candidate | None, steps: int) -> Iterator[Choice]:
    """Owners of the rows that this one points to: of its conversation, of that one's project, and so on."""
    name = ident(table.name)
    for link in links_of(profile, table):
        if link.target.name == table.name or words.weight(link.target.name, words.OWNER) > 0.6:
            continue
        is_group = group is not None and not group.path and link.names(group.column.name)
        inner = list(direct(profile, link.target, candidates_of(link.target), None))
        if steps > 1:
            inner += _through(profile, link.target, None, steps - 1)
        for choice in inner:
            alias = "c" if steps == STEPS else "d"
            sql = _requalified(choice, link, alias)
            where = link.condition(alias, name)
            limit = "" if len(link.pairs) == 1 and link.target.primary_key == (link.pairs[0][1],) else " LIMIT 1"
            whole = f"(SELECT {sql} FROM {ident(link.target.name)} {alias} WHERE {where}{limit})"
            near = 0.985 if is_group else 0.8
            yield Choice(whole, choice.score * near, f"{link.reason}; there {choice.reason}", choice.candidate)


def _requalified(choice: Choice, link: Link, alias: str) -> str:
    """An expression over a row of the target, with the target's columns named by its alias."""
    candidate = choice.candidate
    if candidate is not None and choice.sql == candidate.sql():
        return candidate.sql(alias + ".")
    return _realiased(choice.sql, link.target.name, alias)


def _realiased(sql: str, table: str, alias: str) -> str:
    return re.sub(rf"(?<![\w.\"]){re.escape(ident(table))}\.", f"{alias}.", sql)


def _members(profile: Profile, table: Table, group: Candidate) -> Iterator[Choice]:
    """A table of who takes part in which conversation: each of them is an owner."""
    if group.path:
        return
    targets = {link.target.name for link in links_of(profile, table) if link.names(group.column.name)}
    if table.primary_key == (group.column.name,):
        targets.add(table.name)
    for other in profile.tables:
        tokens = set(map(words.singular, words.tokens_of(other.name)))
        if other is table or not tokens & _MEMBERSHIP or tokens == {"user"}:
            continue
        ways = [link.pairs[-1][0] for link in links_of(profile, other) if link.target.name in targets]
        same = other.column(group.column.name) if group.column.name.lower() not in COMMON_KEYS else None
        mine = ways[0] if ways else same.name if same is not None and words.is_id(same.name) else None
        if mine is not None:
            yield from _everybody(profile, table, other, mine, group)


_MEMBERSHIP = words.listed(
    "member membership participant user subscriber subscription recipient mitglied teilnehmer 成员"
)


def _everybody(profile: Profile, table: Table, other: Table, mine: str, group: Candidate) -> Iterator[Choice]:
    for candidate in candidates_of(other):
        score = 0.0 if candidate.path or candidate.column.name == mine else _strength(candidate)
        if score < 0.6:
            continue
        plain = Choice(candidate.sql(), score, candidate.title, candidate)
        for choice in [*_known_as(profile, candidate, score, candidate.title), plain]:
            inner = candidate.sql("m.") if choice is plain else _realiased(choice.sql, other.name, "m")
            sql = (
                f"(SELECT json_group_array(who) FROM (SELECT DISTINCT {inner} AS who FROM {ident(other.name)} m "
                f"WHERE m.{ident(mine)} = {group.sql(ident(table.name) + '.')}{_still(other)} ORDER BY 1))"
            )
            is_one_row = any(
                set(key) <= {mine, candidate.column.name} for key in (other.primary_key, *other.unique) if key
            )
            reason = f"everybody in {other.name}: {choice.reason}"
            if not is_one_row:
                reason += "; one may stand there several times, so see whether those who left are left out"
            yield Choice(sql, min(0.95 if is_one_row else 0.7, choice.score), reason, confirm=not is_one_row)


def _still(other: Table) -> str:
    """Who left takes no part any more."""
    for column in other.columns:
        tokens = set(words.tokens_of(column.name))
        if tokens & {"left", "removed", "deleted", "banned"} and "at" in tokens:
            return f" AND m.{ident(column.name)} IS NULL"
        if tokens & {"membership", "status", "state"}:
            inside = sorted({str(value) for value in other.values(column.name)} & _INSIDE)
            if inside:
                return f" AND m.{ident(column.name)} IN ({', '.join(map(literal, inside))})"
    return ""


_INSIDE = words.listed("join joined active accepted member JOINED ACTIVE")


def _inside_id(group: Candidate) -> Iterator[Choice]:
    mark = judge.split(group)
    if mark is None:
        return
    sql = f"substr({group.sql()}, 1, instr({group.sql()}, '{mark}') - 1)"
    example = next(str(value) for value in group.present)
    head, _, rest = example.partition(mark)
    reason = (
        f"no owner column; {group.title} looks like OWNER{mark}CONV: {head[:30]!r} before the {mark!r} of {rest[:20]!r}"
    )
    yield Choice(sql, 0.5, reason, group, confirm=True)
