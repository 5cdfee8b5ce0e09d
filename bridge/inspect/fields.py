"""Fields: the best candidate for the id, the conversation, the role and the content of a row."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.inspect import judge, words
from bridge.inspect.candidates import Candidate, candidates_of, ident, literal
from bridge.inspect.choice import NONE, Choice, best
from bridge.inspect.links import Link
from storage.profile import Table

MODEL_TOKENS = words.listed("parent reply quoted forwarded previous next original root ref reference prev")


def blend(name: float, data: float | None) -> float:
    """Name and data together. Without data a name alone is never certain."""
    if data is None:
        return 0.72 * name
    if data < 0.08:
        return 0.0
    return max(0.4 * name + 0.6 * data, 0.97 * min(name, data)) if name else 0.5 * data


def data_of(candidate: Candidate, look: float) -> float | None:
    """What the data says; None when there is none."""
    return look if candidate.present else None


def percent(share: float) -> str:
    """A share for a sentence."""
    return f"{share:.0%}".replace("%", " %")


# -- content


def content(candidates: Sequence[Candidate]) -> Choice:
    """What was said."""
    return best(_content(candidate) for candidate in candidates)


def _content(candidate: Candidate) -> Choice:
    column = candidate.column
    if column.key or not _can_hold_text(candidate):
        return NONE
    name = words.weight(candidate.name, words.CONTENT)
    tokens = set(words.tokens_of(candidate.name))
    if tokens & {"id", "at", "type", "count", "date", "error", "model", "system", "title", "hash", "embedding", "url"}:
        name *= 0.3
    look = judge.text(candidate)
    score = blend(name, data_of(candidate, look))
    if candidate.values:
        score *= 0.5 + 0.5 * min(1.0, candidate.coverage * 1.6)
    score *= 1 - 0.02 * len(candidate.path)
    what = "text or parts" if any(isinstance(value, list) for value in candidate.present) else "text"
    reason = f"{candidate.title} holds {what}" if candidate.present else f"named {candidate.name}; no rows to look at"
    return Choice(candidate.sql(), score, reason, candidate)


def _can_hold_text(candidate: Candidate) -> bool:
    declared = candidate.column.declared.upper()
    if candidate.present:
        return any(isinstance(value, (str, list, dict)) for value in candidate.present)
    return not any(word in declared for word in ("INT", "REAL", "BOOL", "DATE", "TIME", "NUM", "FLOAT", "BLOB"))


# -- roles


def role(candidates: Sequence[Candidate], links: Sequence[Link]) -> Choice:
    """Who said it, as far as a column of the row, or of the row it points to, tells."""
    own = best([*map(_role, candidates), *map(_flag, candidates), *map(_coded, candidates)])
    return best([own, *(_joined_role(link) for link in links)]) if own.score < 0.75 else own


def _role(candidate: Candidate) -> Choice:
    name = words.weight(candidate.name, words.ROLE)
    if not candidate.present:
        return Choice(candidate.sql(), blend(name, None) if name > 0.9 else 0.0, f"named {candidate.name}", candidate)
    look = judge.roles(candidate)
    if not look:
        return NONE
    spoken: dict[str, str] = {}
    others: set[str] = set()
    for value in candidate.present:
        found = words.role_of(value) if isinstance(value, str) else None
        if found:
            spoken[str(value)] = found
        else:
            others.add(str(value))
    score = blend(max(name, 0.3), look) * (0.75 + 0.25 * min(1.0, candidate.coverage * 2))
    score *= 1 - 0.02 * len(candidate.path)
    listed = ", ".join(sorted(spoken)[:6])
    where = None
    if others and _is_author(candidate, spoken):
        users = [value for value, found in sorted(spoken.items()) if found in words.USER_ROLES]
        told = f"{candidate.title} says {', '.join(users)}, and names others who are taken to be assistants"
        cases = f"CASE WHEN {candidate.sql()} IN ({', '.join(map(literal, users))}) THEN 'user' ELSE 'assistant' END"
        where = f"{candidate.sql()} IS NOT NULL" if candidate.coverage < 1 else None
        return Choice(cases, 0.75, told, candidate, where)
    if others or (name < 0.9 and words.plain(candidate.name) in ("type", "kind")):
        shown = sorted(value for value, found in spoken.items() if words.is_speaker(found) or not others)
        shown += [] if not others else sorted(v for v, f in spoken.items() if f == "system" and v not in shown)
        where = f"{candidate.sql()} IN ({', '.join(map(literal, shown))})"
        listed = f"{', '.join(shown)} among other values"
        if not others and candidate.coverage == 1 and not all(value.lower().endswith("message") for value in shown):
            where, listed = None, ", ".join(shown)
        score = max(score, 0.86) if len({f for f in spoken.values() if words.is_speaker(f)}) > 1 and others else score
    if look == 1 and len({found for found in spoken.values() if words.is_speaker(found)}) > 1:
        score = max(score, 0.9 - 0.01 * len(candidate.path))
    if candidate.coverage < 1 and where is None and candidate.values:
        where = f"{candidate.sql()} IS NOT NULL"
    return Choice(_renamed(candidate, spoken), score, f"{candidate.title} says {listed}", candidate, where)


def _is_author(candidate: Candidate, spoken: dict[str, str]) -> bool:
    """Whether a column names who wrote, users by one word and others by their own names."""
    is_who = bool(set(words.tokens_of(candidate.name)) & {"source", "author", "sender", "speaker", "role", "from"})
    return is_who and "user" in spoken.values() and candidate.distinct <= 12


def _renamed(candidate: Candidate, spoken: dict[str, str]) -> str:
    """`human` and `ai` as clients know them; what they know already stays as it is."""
    sql = candidate.sql()
    changed = {value: found for value, found in sorted(spoken.items()) if value != found and value.lower() != found}
    if not changed:
        return sql if all(value == value.lower() for value in spoken) else f"lower({sql})"
    cases = " ".join(f"WHEN {literal(value)} THEN {literal(found)}" for value, found in changed.items())
    return f"CASE {sql} {cases} ELSE {sql} END"


_MINE = words.listed("me user mine own outgoing sent human customer client requester outbound")
_THEIRS = words.listed(
    "bot ai assistant agent staff support llm system model admin operator automated incoming received ki"
)


def _flag(candidate: Candidate) -> Choice:
    """A yes or no that tells who: `is_bot`, `from_me`."""
    tokens = set(words.tokens_of(candidate.name))
    is_named = bool(tokens & {"is", "from", "by", "sent", "ist", "von"}) or len(tokens) == 1
    if not is_named or tokens & {"id", "active", "deleted", "read", "edited"}:
        return NONE
    if candidate.present and not judge.flags(candidate):
        return NONE
    if not candidate.present and "BOOL" not in candidate.column.declared.upper():
        return NONE
    if tokens & _THEIRS:
        sql, said = f"CASE WHEN {candidate.sql()} THEN 'assistant' ELSE 'user' END", "one that is not a user"
    elif tokens & _MINE:
        sql, said = f"CASE WHEN {candidate.sql()} THEN 'user' ELSE 'assistant' END", "the user"
    else:
        return NONE
    return Choice(sql, 0.87 if candidate.present else 0.65, f"{candidate.title} is true for {said}", candidate)


def _coded(candidate: Candidate) -> Choice:
    """A role as a number: what opens the table is taken to be a user's."""
    numbers = [value for value in candidate.present if isinstance(value, int)]
    if words.weight(candidate.name, words.ROLE) < 0.65 or not numbers or len(numbers) < len(candidate.present):
        return NONE
    kinds = sorted(set(numbers))
    if not 1 < len(kinds) <= 3 or "id" in words.tokens_of(candidate.name):
        return NONE
    sql = f"CASE {candidate.sql()} WHEN {numbers[0]} THEN 'user' ELSE 'assistant' END"
    reason = f"{candidate.title} is a number, {numbers[0]} in the first row: taken to be the user"
    return Choice(sql, 0.6, reason, candidate, confirm=True)


def _joined_role(link: Link) -> Choice:
    found = best([*map(_role, candidates_of(link.target)), *map(_flag, candidates_of(link.target))])
    if found.candidate is None or found.score < 0.5 or found.candidate.path or not _is_person(link):
        return NONE
    inner = found.sql.replace(ident(found.candidate.column.name), f"p.{ident(found.candidate.column.name)}")
    sql = f"(SELECT {inner} FROM {ident(link.target.name)} p WHERE {link.condition('p', ident(link.source.name))})"
    return Choice(sql, min(0.8, 0.92 * found.score), f"{found.reason}, in {link.target.name} ({link.reason})")


def _is_person(link: Link) -> bool:
    return max(words.weight(link.target.name, words.OWNER), words.weight(link.pairs[0][0], words.OWNER)) >= 0.5


# -- conversations


def conversation(candidates: Sequence[Candidate], links: Sequence[Link]) -> Choice:
    """What groups the rows."""
    return best(_conversation(candidate, links) for candidate in candidates)


def _conversation(candidate: Candidate, links: Sequence[Link]) -> Choice:
    tokens = set(words.tokens_of(candidate.name))
    link = None if candidate.path else next((link for link in links if link.names(candidate.column.name)), None)
    name = words.weight(candidate.name, words.CONVERSATION)
    name *= 1 if words.is_id(candidate.name) or link or name >= 0.95 else 0.75
    if link is not None:
        name = max(name, 0.9 * words.weight(link.target.name, words.CONVERSATION))
        if words.weight(link.target.name, words.OWNER) > words.weight(link.target.name, words.CONVERSATION):
            name *= 0.4
    if tokens & MODEL_TOKENS or tokens & {"type", "count", "name", "title", "status", "state", "data", "at", "task"}:
        name *= 0.3
    is_whole_key = candidate.table.primary_key == (candidate.column.name,) and not candidate.path
    if is_whole_key or name < 0.2:
        return NONE
    look = judge.names(candidate)
    if len(candidate.present) > 12 and candidate.is_unique and link is None and name < 0.9:
        look *= 0.6
    score = blend(name, data_of(candidate, look)) * (0.6 + 0.4 * candidate.coverage if candidate.values else 1)
    score += 0.05 if link is not None and score else 0
    reason = link.reason if link is not None else f"{candidate.title} names a conversation"
    if candidate.present:
        reason += f", {candidate.distinct} in {len(candidate.present)} rows"
    return Choice(candidate.sql(), min(1.0, score) * (1 - 0.02 * len(candidate.path)), reason, candidate)


# -- ids


def _is_called(name: str, nouns: words.Weights) -> bool:
    if words.tokens_of(name) == ("id",):
        return True
    return words.is_id(name) and (
        words.weight(name, nouns) >= 0.5 or bool({"uuid", "guid"} & set(words.tokens_of(name)))
    )


def identity(table: Table, candidates: Sequence[Candidate], nouns: words.Weights, *, public: bool) -> Choice:
    """The id of a row. `public`: a unique id with the name of what it is goes before a bare row number."""
    columns = [candidate for candidate in candidates if not candidate.path]
    key = table.primary_key
    unique = {names[0] for names in table.unique if len(names) == 1}
    named = [c for c in columns if c.column.name in unique and _is_called(c.name, nouns)]
    if key and words.tokens_of(key[0]) != ("id",):
        public = public or any(words.tokens_of(c.name) == ("id",) for c in named)
    if len(key) == 1:
        alone = next(c for c in columns if c.column.name == key[0])
        is_number = all(isinstance(value, int) for value in alone.present) and "INT" in alone.column.declared.upper()
        if public and is_number and named and named[0].coverage in (0.0, 1.0):
            return Choice(named[0].sql(), 0.95, f"{named[0].name} is unique and named after what it is", named[0])
        return Choice(alone.sql(), 0.98, "the primary key", alone)
    if named:
        return Choice(named[0].sql(), 0.92, "it is unique", named[0])
    inside = [c for c in columns if c.column.name in key] or columns
    by_name = [c for c in inside if words.tokens_of(c.name) in (("id",), ("uuid",)) or (
        words.is_id(c.name) and words.weight(c.name, nouns) >= 0.7)]  # fmt: skip
    for candidate in by_name:
        if candidate.is_unique or not candidate.values:
            where = "part of the primary key" if key else "no key is declared"
            score = 0.9 if candidate.is_unique and key else 0.75 if candidate.is_unique else 0.6
            return Choice(
                candidate.sql(), score, f"{candidate.name} is different in every row looked at; {where}", candidate
            )
    if key:
        joined = " || ':' || ".join(ident(name) for name in key)
        return Choice(joined, 0.86, "the parts of the primary key together")
    single = next((c for c in columns if c.column.name in unique), None)
    if single is not None:
        return Choice(single.sql(), 0.8, "it is unique", single)
    if not table.has_rowid:
        return NONE
    return Choice("rowid", 0.5, "there is no key: the row's number, which VACUUM may change", confirm=True)
