"""Decide: a changed row becomes an event, or is only remembered. Pure."""

from __future__ import annotations

import json
from contextlib import suppress
from math import isfinite

import msgspec

from bridge.content import Json, content_parts, element_parts, joined_text, parse_json
from storage.types import NOWHERE, Change, Draft, Op, Outcome, Row, Section, Value, digest_of, place_of, text_of

NEW_MESSAGE = "new_message"
TASK_UPDATE = "task_update"
MESSAGE_UPDATE = "message_update"
MESSAGE_DELETED = "message_deleted"
TASK_DELETED = "task_deleted"
OWNER_LIMIT = 256
"""Characters of an owner (contract section 5)."""


class Unrenderable(ValueError):
    """A row that cannot become an event: the reason is kept beside it, and it is delivered when it is mended."""


def decide(change: Change) -> Outcome:
    """What to remember of a change, and which events it gives. Never raises for what stands in a row."""
    row, told = change.row, _told(change)
    if change.op is Op.GONE or row is None:
        return Outcome(change, farewell=_farewell(change, told))
    is_due = _is_due(change, row)
    if not is_due and not _is_edited(change, row):
        return Outcome(change)
    try:
        owners = owners_of(row.values[1]) if is_due else _owners_if_any(row.values[1])
        farewell = None
        if told:
            farewell = _farewell(change, told if _is_elsewhere(change, row) else _without(told, owners))
        if not is_due:
            draft = _update(change, row, owners, told)
            return Outcome(change, draft=draft, farewell=farewell)
        if not owners:
            return Outcome(change, pending=True, farewell=farewell)
        return Outcome(change, draft=render(change.section, row, owners), farewell=farewell)
    except Unrenderable as error:
        problem = str(error)
    except RecursionError:  # what could just be read may be too deep to be written
        problem = "the row's JSON is nested too deeply"
    return Outcome(change, pending=True, problem=problem) if is_due else Outcome(change)


def _is_due(change: Change, row: Row) -> bool:
    """Whether the row owes its owners an event that every client gets."""
    known = change.known
    if known is None or known.pending:
        return True
    if change.section.kind == "task":
        return known.digest != row.digest
    place = place_of(change.section, row.values)
    return NOWHERE not in (place, known.place) and place != known.place


def _is_edited(change: Change, row: Row) -> bool:
    """Whether it is another one than those who asked for more have been told."""
    known = change.known
    return known is not None and (known.digest != row.digest or known.is_hidden)


def _told(change: Change) -> tuple[str, ...]:
    """Who has been told of the row as it was, and is not told yet that it is gone."""
    return () if change.home is None else _owners_if_any(change.home.owner)


def _owners_if_any(value: Value) -> tuple[str, ...]:
    with suppress(Unrenderable, RecursionError):
        return owners_of(value)
    return ()


def _without(owners: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(owner for owner in owners if owner not in others)


def _is_elsewhere(change: Change, row: Row) -> bool:
    return change.home is not None and change.home.conversation != text_of(row.values[2])


def _farewell(change: Change, owners: tuple[str, ...]) -> Draft | None:
    """For these owners it is not there any more: it is gone, or is another's, or in another conversation."""
    home, known = change.home, change.known
    if home is None or known is None or known.id is None or not owners:
        return None
    kind, name = (MESSAGE_DELETED, "message_id") if change.section.kind == "message" else (TASK_DELETED, "task_id")
    subject, conversation = str(known.id), home.conversation
    event: Json = {"type": kind, "conversation_id": conversation, name: subject}
    return Draft(kind, conversation or "", subject, encode(event), owners, is_optional=True)


def _update(change: Change, row: Row, owners: tuple[str, ...], told: tuple[str, ...]) -> Draft | None:
    """For who asked for it: how the row is now. An owner who came to it gets it whole, and the others need nothing."""
    if change.home is not None and not _is_elsewhere(change, row):
        before = digest_of((row.values[0], change.home.owner, *row.values[2:]))
        if change.known is not None and before == change.known.digest:
            owners = _without(owners, told)
    return render(change.section, row, owners, is_new=False)._replace(is_optional=True) if owners else None


def render(section: Section, row: Row, owners: tuple[str, ...], *, is_new: bool = True) -> Draft:
    """The event of a row. A message that is not new is updated. Raises Unrenderable."""
    fields = {name: text_of(value) for (name, _), value in zip(section.fields, row.values, strict=True)}
    subject, conversation = fields["id"], fields["conversation_id"]
    if subject is None:
        raise Unrenderable("the id is NULL")
    event: Json
    if section.kind == "message":
        message: Json = {"id": subject, "role": fields["role"], "content": list(content_parts(fields["content"]))}
        kind = NEW_MESSAGE if is_new else MESSAGE_UPDATE
        event = {"type": kind, "conversation_id": conversation, "message": message}
    else:
        kind = TASK_UPDATE
        event = {"type": kind, "conversation_id": conversation, "task": _task(subject, fields, row, section)}
    return Draft(kind, conversation or "", subject, encode(event), owners)


_ENCODER = msgspec.json.Encoder()


def encode(event: Json) -> bytes:
    """Compact UTF-8 JSON. A lone surrogate, which is no UTF-8, stays an escape; a number beyond all bounds is null."""
    try:
        return _ENCODER.encode(event)
    except UnicodeEncodeError:
        return json.dumps(_finite(event), separators=(",", ":")).encode()


def _finite(value: Json) -> Json:
    if isinstance(value, list):
        return [_finite(element) for element in value]
    if isinstance(value, dict):
        return {name: _finite(element) for name, element in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def _task(subject: str, fields: dict[str, str | None], row: Row, section: Section) -> Json:
    names = [name for name, _ in section.fields]
    stamp = row.values[names.index("timestamp")]
    return {
        "id": subject,
        "sessionId": fields["session_id"],
        "status": {
            "state": fields["state"],
            "message": _status_message(fields["status_message"]),
            "timestamp": text_of(stamp) if isinstance(stamp, bytes) else stamp,
        },
        "history": [
            {"role": _role(element), "parts": list(element_parts(element))}
            for element in _array(fields["history"], "history")
        ],
        "artifacts": [
            {"name": element.get("name") if isinstance(element, dict) else None, "parts": list(element_parts(element))}
            for element in _array(fields["artifacts"], "artifacts")
        ],
    }


def _status_message(text: str | None) -> str | None:
    if text is None or text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return joined_text(parse_json(text))
    except ValueError:
        return text


def _array(text: str | None, name: str) -> list[Json]:
    if text is None or not text.strip():
        return []
    try:
        value = parse_json(text)
    except ValueError as error:
        raise Unrenderable(f"{name} is not JSON: {error}") from error
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unrenderable(f"{name} is a JSON {type(value).__name__}, not an array")
    return value


def _role(element: Json) -> Json:
    """The role of a history element; A2A 1.0 writes the name of its enumeration."""
    role = element.get("role") if isinstance(element, dict) else None
    return role.removeprefix("ROLE_").lower() if isinstance(role, str) and role.startswith("ROLE_") else role


def owners_of(value: Value) -> tuple[str, ...]:
    """The owners that a value names: none, one string, or a JSON array of strings. Raises Unrenderable."""
    text = text_of(value)
    if not text:
        return ()
    owners = [text]
    if text.startswith("["):
        try:
            named = parse_json(text)
        except ValueError:
            named = None
        if isinstance(named, list):
            owners = list(dict.fromkeys(str(owner) for owner in named if owner is not None and owner != ""))
    if max(map(len, owners), default=0) > OWNER_LIMIT:
        raise Unrenderable(f"an owner has more than {OWNER_LIMIT} characters")
    return tuple(owners)
