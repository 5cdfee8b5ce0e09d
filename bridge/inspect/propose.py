"""Propose: which tables are the messages, the tasks and the conversations of a database, each with its section."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bridge.inspect import fields, messages, owners, tasks, words
from bridge.inspect.candidates import Candidate, candidates_of, ident
from bridge.inspect.choice import Choice, Draft, best
from bridge.inspect.links import links_of
from storage.profile import Profile, Table


@dataclass
class Found:
    """What a look at a profile came to: sections to propose, and what else there was."""

    drafts: list[Draft] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Tables that could have been meant too."""
    notes: list[str] = field(default_factory=list)


def propose(profile: Profile, *, with_each: bool) -> Found:
    """The best sections for a database. `with_each`: arrays of messages inside a row can be mapped."""
    found = Found()
    work = _best_tasks(profile, found)
    taken = {draft.table.name for draft in work}
    talk = _best_messages(profile, found, taken) or _best_many(profile, found, taken, with_each=with_each)
    found.drafts = [*talk, *work]
    heard = _conversations(profile, found.drafts)
    if heard is not None:
        found.drafts.insert(0, heard)
    return found


def _best_tasks(profile: Profile, found: Found) -> list[Draft]:
    drafts = [draft for table in profile.tables if (draft := tasks.draft(profile, table)) is not None]
    drafts = sorted((draft for draft in drafts if draft.score >= tasks.LEAST), key=_rank)
    found.others += [_other(draft) for draft in drafts[1:]]
    return drafts[:1]


def _best_messages(profile: Profile, found: Found, taken: set[str]) -> list[Draft]:
    groups = [messages.drafts(profile, table) for table in profile.tables if table.name not in taken]
    ranked = sorted(
        (group for group in groups if group and group[0].score >= messages.LEAST), key=lambda g: _rank(g[0])
    )
    found.others += [_other(group[0]) for group in ranked[1:]]
    return ranked[0] if ranked else []


def _best_many(profile: Profile, found: Found, taken: set[str], *, with_each: bool) -> list[Draft]:
    """Arrays of messages; those of a task are its history, unless they are called messages."""
    drafts = [draft for table in profile.tables if (draft := messages.many(profile, table)) is not None]
    drafts = [
        draft for draft in drafts if draft.table.name not in taken or "message" in draft.lines["each"].sql.lower()
    ]
    if not drafts:
        return []
    draft = min(drafts, key=_rank)
    if with_each:
        return [draft]
    found.notes.append(
        f"{draft.table.name} holds many messages in each row ({draft.lines['each'].sql}), which this version cannot map"
    )
    return []


def _rank(draft: Draft) -> tuple[bool, float]:
    return (not draft.table.rows, -draft.score)


def _other(draft: Draft) -> str:
    return f"{draft.table.name} could be {draft.kind} too ({fields.percent(draft.score)})"


# -- conversations


def _conversations(profile: Profile, drafts: Iterable[Draft]) -> Draft | None:
    """The table that the messages' conversation ids name; without messages, that of the tasks."""
    for draft in drafts:
        group = draft.conversation
        if "each" in draft.lines and (group is None or group.table.primary_key == (group.name,)):
            return _section(profile, draft.table, _key(draft.table, draft.lines["conversation_id"]), draft)
        if group is None or group.path:
            continue
        named = [link for link in links_of(profile, draft.table) if link.names(group.column.name)]
        ranked = sorted(named, key=lambda link: -words.weight(link.target.name, words.CONVERSATION))
        for link in ranked:
            if words.weight(link.target.name, words.OWNER) > words.weight(link.target.name, words.CONVERSATION):
                continue
            theirs = link.other(group.column.name)
            key = next(c for c in candidates_of(link.target) if c.column.name.lower() == theirs.lower() and not c.path)
            return _section(profile, link.target, replace_reason(key, link.reason), draft)
    return None


def replace_reason(key: Candidate, reason: str) -> Choice:
    """The key that the other table points to."""
    return Choice(key.sql(), 0.95, f"the other end of the {reason}" if "foreign" in reason else reason, key)


def _key(table: Table, group: Choice) -> Choice:
    return replace(group, reason=f"each row of {table.name} is a conversation")


def _section(profile: Profile, table: Table, key: Choice, draft: Draft) -> Draft:
    candidates = [candidate for candidate in candidates_of(table) if candidate.sql() != key.sql]
    found = owners.owner(profile, table, candidates, key.candidate)
    if not found or found[0].confirm:
        found = [*_from_messages(table, key, draft), *found]
    owner = found[0] if found else owners.NO_OWNER
    lines = {"id": key, "owner": owner}
    name = best(_title(candidate) for candidate in candidates if candidate.sql() != owner.sql)
    if name.score >= 0.5:
        lines["name"] = name
    return Draft("conversations", table, lines, draft.score, f"{table.name} holds conversations")


def _title(candidate: Candidate) -> Choice:
    name = words.weight(candidate.name, words.TITLE)
    beside = set(words.tokens_of(candidate.name)) & {
        "app",
        "model",
        "file",
        "agent",
        "provider",
        "host",
        "class",
        "system",
    }
    if candidate.path or not name or beside or words.weight(candidate.name, words.OWNER) > 0.6:
        return Choice("NULL", 0.0, "")
    kinds = candidate.column.storage.keys() - {"null"}
    is_text = kinds <= {"text"} and (
        kinds or "CHAR" in candidate.column.declared.upper() or "TEXT" in candidate.column.declared.upper()
    )
    return Choice(candidate.sql(), name if is_text else 0.0, f"named {candidate.name}", candidate)


def _from_messages(table: Table, key: Choice, draft: Draft) -> list[Choice]:
    """The owner that a conversation's messages carry, when it has none itself."""
    owner, group = draft.lines["owner"], draft.conversation
    if owner.candidate is None or owner.confirm or group is None or owner.sql != owner.candidate.sql():
        return []
    if draft.table.name == table.name:
        return [owner]
    sql = (
        f"(SELECT {owner.candidate.sql('m.')} FROM {ident(draft.table.name)} m "
        f"WHERE {group.sql('m.')} = {ident(table.name)}.{key.sql} AND {owner.candidate.sql('m.')} IS NOT NULL LIMIT 1)"
    )
    return [Choice(sql, 0.9 * owner.score, f"the owner of its rows in {draft.table.name}", owner.candidate)]
