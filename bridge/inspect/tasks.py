"""Tasks: how much a table looks like tasks, and the section that would map it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bridge.inspect import fields, judge, owners, words
from bridge.inspect.candidates import Candidate, candidates_of, ident, literal
from bridge.inspect.choice import NONE, Choice, Draft, best
from bridge.inspect.links import links_of
from bridge.inspect.messages import table_weight
from storage.profile import Profile, Table

LEAST = 0.55


def draft(profile: Profile, table: Table) -> Draft | None:
    """The section for one table, None if it does not look like tasks."""
    candidates = candidates_of(table)
    state = best(_state(candidate) for candidate in candidates)
    if state.candidate is None or state.score < 0.4:
        return None
    key = fields.identity(table, candidates, words.TASK, public=True)
    links = links_of(profile, table)
    group = fields.conversation(candidates, links)
    rest = [c for c in candidates if c.sql() not in (state.sql, key.sql, group.sql)]
    history = best(_array(c, words.HISTORY, judge.history) for c in rest)
    artifacts = best(_array(c, words.ARTIFACTS, judge.arrays) for c in rest if c.sql() != history.sql)
    noun = max(table_weight(table, words.TASK), 0.8 * words.weight(key.sql, words.TASK) if key.candidate else 0.0)
    aside = 0.5 if {words.singular(t) for t in words.tokens_of(table.name)} & words.ASIDE else 1.0
    extras = max(history.score, artifacts.score)
    score = 0.42 * state.score + 0.46 * noun + 0.12 * max(extras, 0.5 if group.score > 0.6 else 0)
    score *= aside * (1 if table.rows else 0.85)
    if noun < 0.4:
        return None
    found = owners.owner(profile, table, candidates, group.candidate, is_shared=False)
    lines = {
        "id": key,
        "conversation_id": group if group.score >= 0.3 else _alone(key),
        "state": state,
        "owner": found[0] if found else owners.NO_OWNER,
    }
    lines |= _optional(candidates, rest, state, group, {"history": history, "artifacts": artifacts})
    return Draft("tasks", table, lines, min(1.0, score), f"{table.name} holds tasks", conversation=group.candidate)


def _alone(key: Choice) -> Choice:
    return Choice(key.sql, 0.45, "nothing names a conversation: each task is its own", key.candidate, confirm=True)


def _optional(
    candidates: Sequence[Candidate], rest: Sequence[Candidate], state: Choice, group: Choice, arrays: dict[str, Choice]
) -> dict[str, Choice]:
    lines: dict[str, Choice] = {}
    session = next(
        (
            c
            for c in candidates
            if words.tokens_of(c.name) == ("session", "id") and c.coverage and not _is_same(c, group)
        ),
        None,
    )
    if session is not None:
        lines["session_id"] = Choice(session.sql(), 0.9, f"named {session.name}", session)
    lines["status_message"] = best(_told(candidate, state) for candidate in rest)
    lines["timestamp"] = best(_stamp(candidate, state) for candidate in rest)
    lines |= arrays
    return {key: replace(choice, score=min(1.0, choice.score)) for key, choice in lines.items() if choice.score >= 0.4}


def _is_same(candidate: Candidate, choice: Choice) -> bool:
    other = choice.candidate
    return other is not None and (candidate.sql() == other.sql() or candidate.values == other.values)


def _state(candidate: Candidate) -> Choice:
    name = words.weight(candidate.name, words.STATE)
    if not candidate.present:
        score = fields.blend(name, None) if name > 0.9 and not candidate.values else 0.0
        return Choice(candidate.sql(), score, f"named {candidate.name}; no rows to look at", candidate)
    look = judge.states(candidate)
    if look < 0.5 or (not name and look < 0.95):
        return NONE
    score = fields.blend(max(name, 0.3), look) * (0.5 + 0.5 * candidate.coverage) * (1 - 0.02 * len(candidate.path))
    seen = sorted({str(value) for value in candidate.present})
    shown = ", ".join(seen[:6]) + (" ..." if len(seen) > 6 else "")
    return Choice(normalised(candidate, seen), score, f"{candidate.title} says {shown}", candidate)


def normalised(candidate: Candidate, seen: Sequence[str]) -> str:
    """The states in the words of A2A where that is plain to see."""
    sql = candidate.sql()
    bare = {value: words.bare_state(value) for value in seen}
    if any(value.upper().startswith("TASK_STATE_") for value in seen):
        return f"lower(replace(replace({sql}, 'TASK_STATE_', ''), '_', '-'))"
    if any(not value.isascii() for value in seen):
        return _cased(sql, seen)
    if set(bare.values()) & {"success", "failure", "started", "revoked", "progress"} and all(
        v == v.upper() for v in seen
    ):
        return _cased(
            sql, ["PENDING", "RECEIVED", "STARTED", "PROGRESS", "RETRY", "SUCCESS", "FAILURE", "REVOKED", *seen]
        )
    if all(value == bare[value] for value in seen):
        return sql
    lowered = f"lower({sql})"
    return f"replace({lowered}, '_', '-')" if any("_" in value for value in seen) else lowered


def _cased(sql: str, seen: Sequence[str]) -> str:
    known = {value: words.STATE_ALIAS.get(words.bare_state(value), words.bare_state(value)) for value in seen}
    cases = " ".join(f"WHEN {literal(value)} THEN {literal(state)}" for value, state in known.items())
    return f"CASE {sql} {cases} ELSE lower({sql}) END"


def _told(candidate: Candidate, state: Choice) -> Choice:
    name = words.weight(candidate.name, words.STATUS_MESSAGE)
    if set(words.tokens_of(candidate.name)) & {"id", "at", "type", "name", "count", "json", "traceback"} or not name:
        return NONE
    beside = state.candidate is not None and state.candidate.column == candidate.column and bool(candidate.path)
    sparse = [value for value in candidate.present if not isinstance(value, (int, float))]
    if not sparse:
        return NONE
    look = 1.0 if all(isinstance(value, dict) and ("parts" in value or "content" in value) for value in sparse) else 0.0
    score = (
        fields.blend(name, max(look, judge.text(candidate))) * (1.1 if beside else 1) * (1 - 0.02 * len(candidate.path))
    )
    score *= 0.7 + 0.3 * candidate.coverage
    return Choice(candidate.sql(), min(1.0, score), f"{candidate.title} holds text", candidate)


def _stamp(candidate: Candidate, state: Choice) -> Choice:
    look = judge.stamps(candidate)
    if look < 0.8:
        return NONE
    beside = state.candidate is not None and state.candidate.column == candidate.column and bool(candidate.path)
    score = fields.blend(words.weight(candidate.name, words.STAMP) or 0.2, look)
    score = score + 0.2 if beside else score * (1 if not candidate.path else 0.8)
    score *= 0.5 + 0.5 * candidate.coverage
    sql, numbers = candidate.sql(), [value for value in candidate.present if isinstance(value, (int, float))]
    unit = judge.unit_of(numbers[0]) if numbers and len(numbers) == len(candidate.present) else 0
    if unit:
        seconds = sql if unit == 1 else f"{sql} / {unit}.0"
        sql = f"strftime('%Y-%m-%dT%H:%M:%fZ', {seconds}, 'unixepoch')"
    return Choice(sql, score, f"{candidate.title} is a time", candidate)


def _array(candidate: Candidate, nouns: words.Weights, look_of: Callable[[Candidate], float]) -> Choice:
    name = words.weight(candidate.name, nouns)
    if not name:
        return NONE
    if not candidate.present:
        declared = candidate.column.declared.upper()
        return (
            Choice(candidate.sql(), 0.6 * name, f"named {candidate.name}", candidate)
            if "JSON" in declared or name == 1
            else NONE
        )
    look = look_of(candidate)
    if nouns is words.ARTIFACTS:
        look *= 1 - judge.history(candidate)
    sql = candidate.sql()
    if not candidate.path and any(isinstance(value, bytes) for value in candidate.values):
        sql = f"CAST({ident(candidate.column.name)} AS TEXT)"
    score = fields.blend(name, look) * (1 - 0.02 * len(candidate.path))
    return Choice(sql, score, f"{candidate.title} is a JSON array", candidate)
