"""Messages: how much a table looks like messages, and the section that would map it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bridge.content import Json
from bridge.inspect import fields, judge, owners, words
from bridge.inspect.candidates import Candidate, Value, candidates_of, ident, json_path, literal, parsed
from bridge.inspect.choice import NONE, Choice, Draft, best
from bridge.inspect.links import links_of
from storage.profile import Profile, Table

LEAST = 0.55
_GROWING = words.listed("streaming stream updated complete completed final finished finish partial done pending")


def table_weight(table: Table, nouns: words.Weights) -> float:
    """What the name of a table says, less where it is a table beside."""
    aside = {words.singular(token) for token in words.tokens_of(table.name)} & words.ASIDE
    return words.weight(table.name, nouns) * (0.3 if aside else 1)


def drafts(profile: Profile, table: Table) -> list[Draft]:
    """The sections for one table: one, two when each row holds a question and its answer, none when it does not fit."""
    candidates = candidates_of(table)
    links = links_of(profile, table)
    group = fields.conversation(candidates, links)
    role = fields.role(candidates, links)
    content = fields.content([c for c in candidates if c.sql() not in (group.sql, role.sql)])
    pair = _pair(candidates) if role.score < 0.6 and (role.candidate is None or not role.candidate.present) else None
    name = table_weight(table, words.MESSAGE)
    aside = 0.4 if {words.singular(t) for t in words.tokens_of(table.name)} & words.ASIDE else 1.0
    filled = 1.0 if table.rows else 0.9
    if pair is not None:
        score = 0.35 + 0.25 * min(choice.score for choice in pair) + 0.2 * group.score + 0.2 * max(name, 0.6)
        return _two(profile, table, candidates, group, pair, min(1.0, score) * aside * filled)
    score = (0.4 * content.score + 0.22 * role.score + 0.18 * group.score + 0.2 * name) * aside * filled
    is_grouped = group.score >= 0.8 and content.score >= 0.85
    if content.score < 0.4 or (role.score < 0.4 and name < 0.5 and not is_grouped):
        return []
    return [_one(profile, table, candidates, {"group": group, "role": role, "content": content}, score)]


def _one(
    profile: Profile, table: Table, candidates: Sequence[Candidate], chosen: dict[str, Choice], score: float
) -> Draft:
    content, role, group = chosen["content"], chosen["role"], chosen["group"]
    lines = _common(profile, table, candidates, group)
    if role.score < 0.3:
        role = Choice("'user'", 0.35, "no column tells who wrote it; every message is given to a user", confirm=True)
    draft = Draft("messages", table, lines, score, f"{table.name} holds messages", conversation=group.candidate)
    lines |= {"role": role, "content": content}
    if role.where:
        draft.where.append(role.where)
    if (ready := _ready(table, content)) is not None:
        draft.where.append(ready)
    return draft


def _common(profile: Profile, table: Table, candidates: Sequence[Candidate], group: Choice) -> dict[str, Choice]:
    """The lines that every message has: its id, its conversation, its owner."""
    found = owners.owner(profile, table, candidates, group.candidate)
    owner = found[0] if found else owners.NO_OWNER
    if group.score < 0.2 and owner.score:
        reason = "there is no conversation in the data: each owner's messages are taken to be one"
        group = Choice(owner.sql, 0.6, reason, owner.candidate, confirm=owner.confirm)
    elif group.score < 0.2:
        group = Choice("'all'", 0.2, "there is no conversation in the data: all messages are one", confirm=True)
    return {
        "id": fields.identity(table, candidates, words.MESSAGE, public=False),
        "conversation_id": group,
        "owner": owner,
    }


def _ready(table: Table, content: Choice) -> str | None:
    """Rows without content are none yet: streaming writers insert an empty message first and fill it."""
    candidate = content.candidate
    if candidate is None:
        return None
    sql = candidate.sql()
    grows = any(set(words.tokens_of(column.name)) & _GROWING for column in table.columns)
    if any(isinstance(value, str) and not value for value in candidate.values) or (
        grows and any(isinstance(value, str) for value in candidate.present)
    ):
        return f"{sql} <> ''"
    return f"{sql} IS NOT NULL" if candidate.values and any(value is None for value in candidate.values) else None


# -- two messages in a row


def _pair(candidates: Sequence[Candidate]) -> tuple[Choice, Choice] | None:
    texts = [c for c in candidates if not c.present or judge.text(c) > 0.4]
    asked = best(_half(candidate, words.PROMPT) for candidate in texts if _is_short(candidate))
    answered = best(_half(candidate, words.REPLY) for candidate in _opened(texts, candidates))
    if asked.score < 0.6 or answered.score < 0.6 or asked.sql == answered.sql:
        return None
    return asked, answered


def _is_short(candidate: Candidate) -> bool:
    return len(candidate.path) < 2 and not set(words.tokens_of(candidate.name)) & {
        "json",
        "id",
        "system",
        "tokens",
        "at",
    }


def _opened(texts: Sequence[Candidate], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Texts, and the text inside a column of JSON that is named as an answer: `response` $.text."""
    inner = [
        replace(c, path=c.path) for c in candidates
        if len(c.path) == 1 and c.path[0] in ("text", "content", "message", "answer") and judge.text(c) > 0.4
    ]  # fmt: skip
    return [c for c in texts if not c.path and _is_short(c)] + inner


def _half(candidate: Candidate, nouns: words.Weights) -> Choice:
    name = words.weight(candidate.column.name, nouns)
    if not name or (candidate.coverage < 0.5 and candidate.values):
        return NONE
    look = judge.text(candidate) if candidate.present else None
    return Choice(candidate.sql(), fields.blend(name, look), f"{candidate.title} holds text", candidate)


def _two(
    profile: Profile, table: Table, candidates: Sequence[Candidate], group: Choice, pair: tuple[Choice, Choice],
    score: float,
) -> list[Draft]:  # fmt: skip
    found: list[Draft] = []
    for half, who in zip(pair, ("user", "assistant"), strict=True):
        lines = _common(profile, table, candidates, group)
        key = lines["id"]
        suffix = "prompt" if who == "user" else "response"
        lines["id"] = replace(
            key, sql=f"{key.sql} || {literal(':' + suffix)}",
            reason=f"{key.reason}; each row holds two messages, so each gets an ending",
        )  # fmt: skip
        beside = pair[1] if who == "user" else pair[0]
        mine, other = (choice.candidate.title if choice.candidate else "" for choice in (half, beside))
        told = f"{mine} stands beside {other}"
        lines |= {"role": Choice(literal(who), half.score, f"{told}: the {who}'s half of the row"), "content": half}
        draft = Draft("messages", table, lines, score, f"each row of {table.name} is a question and its answer")
        draft.conversation = group.candidate
        draft.where.append(f"{half.sql} <> ''")
        found.append(draft)
    return found


# -- many messages in a row


def many(profile: Profile, table: Table) -> Draft | None:
    """The section for rows that hold an array of messages each."""
    candidates = candidates_of(table)
    holder = max(candidates, key=_holds_messages, default=None)
    if holder is None or _holds_messages(holder) < 0.5:
        return None
    elements = [element for value in holder.values for element in _elements(value)]
    key, who, what = (_key_of(elements, names) for names in (_IDS, _ROLES, _CONTENTS))
    if who is None or what is None:
        return None
    row = fields.identity(table, candidates, words.CONVERSATION, public=False)
    group = fields.conversation(candidates, links_of(profile, table))
    group = group if group.score > 0.5 else replace(row, reason="each row is a conversation")
    found = owners.owner(profile, table, candidates, group.candidate)
    value = "json_extract(value, '{}')".format
    ids = Choice(value(json_path((key,))), 0.9, "the element's own id") if key else Choice(
        f"{row.sql} || ':' || key", 0.7, "the elements have no id: the row's id and their place in the array"
    )  # fmt: skip
    content = Choice(value(json_path((what,))), 0.9, f"the element's {what}")
    role = Choice(value(json_path((who,))), 0.9, "the element's role")
    lines = {
        "each": Choice(_each(table, holder), 0.9, f"{holder.title} is an array of messages"),
        "id": ids, "conversation_id": group, "role": role, "content": content,
        "owner": found[0] if found else owners.NO_OWNER,
    }  # fmt: skip
    score = 0.75 if table.rows else 0.5
    return Draft(
        "messages", table, lines, score, f"each row of {table.name} holds many messages", conversation=group.candidate
    )


_IDS = ("id", "message_id", "messageId", "uuid", "_id")
_ROLES = ("role", "author", "sender", "from", "type")
_CONTENTS = ("content", "text", "parts", "body", "message")


def _key_of(elements: Sequence[dict[str, Json]], names: Sequence[str]) -> str | None:
    counts = {name: sum(element.get(name) is not None for element in elements) for name in names}
    name = max(names, key=lambda name: counts[name])
    return name if counts[name] * 2 > len(elements) else None


def _elements(value: Value) -> list[dict[str, Json]]:
    found = parsed(value)
    found_all: list[Json] = (
        list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
    )
    return [element for element in found_all if isinstance(element, dict)]


def _holds_messages(candidate: Candidate) -> float:
    filled = [elements for value in candidate.present if (elements := _elements(value))]
    if len(filled) * 2 < len(candidate.present) or not filled:
        return 0.0
    look = words.share(judge.is_message(element) for elements in filled for element in elements)
    arrays = words.share(isinstance(parsed(value), list) for value in candidate.present)
    return look * (0.95 + 0.05 * arrays) * (1 - 0.02 * len(candidate.path))


def _each(table: Table, holder: Candidate) -> str:
    column = f"{ident(table.name)}.{ident(holder.column.name)}"
    column = (
        f"CAST({column} AS TEXT)"
        if any(isinstance(value, bytes) for value in table.values(holder.column.name))
        else column
    )
    return f"json_each({column}, {literal(json_path(holder.path))})" if holder.path else f"json_each({column})"
