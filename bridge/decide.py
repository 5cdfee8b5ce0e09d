"""Decide: a changed row becomes an event, or is only remembered. Pure."""

from __future__ import annotations

import json
from math import isfinite

from bridge.content import Json, content_parts, element_parts, joined_text, parse_json
from storage.types import NOWHERE, Change, Draft, Op, Outcome, Row, Section, Value, place_of, text_of

NEW_MESSAGE = "new_message"
TASK_UPDATE = "task_update"
OWNER_LIMIT = 256
"""Characters of an owner (contract section 5)."""


class Unrenderable(ValueError):
    """A row that cannot become an event: the reason is kept beside it, and it is delivered when it is mended."""


def decide(change: Change) -> Outcome:
    """What to remember of a change, and which event it gives. Never raises for what stands in a row."""
    row = change.row
    if change.op is Op.GONE or row is None:
        return Outcome(change)
    if not _is_due(change, row):
        return Outcome(change)
    try:
        owners = owners_of(row.values[1])
        if not owners:
            return Outcome(change, pending=True)
        return Outcome(change, draft=render(change.section, row, owners))
    except Unrenderable as error:
        return Outcome(change, pending=True, problem=str(error))
    except RecursionError:  # what could just be read may be too deep to be written
        return Outcome(change, pending=True, problem="the row's JSON is nested too deeply")


def _is_due(change: Change, row: Row) -> bool:
    """Whether the row owes its owners an event."""
    known = change.known
    if known is None or known.pending:
        return True
    if change.section.kind == "task":
        return known.digest != row.digest
    place = place_of(change.section, row.values)
    return NOWHERE not in (place, known.place) and place != known.place


def render(section: Section, row: Row, owners: tuple[str, ...]) -> Draft:
    """The event of a row. Raises Unrenderable."""
    fields = {name: text_of(value) for (name, _), value in zip(section.fields, row.values, strict=True)}
    subject, conversation = fields["id"], fields["conversation_id"]
    if subject is None:
        raise Unrenderable("the id is NULL")
    event: Json
    if section.kind == "message":
        message: Json = {"id": subject, "role": fields["role"], "content": list(content_parts(fields["content"]))}
        kind, event = NEW_MESSAGE, {"type": NEW_MESSAGE, "conversation_id": conversation, "message": message}
    else:
        kind, event = (
            TASK_UPDATE,
            {"type": TASK_UPDATE, "conversation_id": conversation, "task": _task(subject, fields, row, section)},
        )
    return Draft(kind, conversation or "", subject, encode(event), owners)


def encode(event: Json) -> bytes:
    """Compact UTF-8 JSON. A lone surrogate, which is no UTF-8, stays an escape; a number beyond all bounds is null."""
    try:
        return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(_finite(event), separators=(",", ":")).encode()
    except ValueError:  # 1e999 is JSON, and is read as an infinity, which is not
        return encode(_finite(event))


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
    if any(len(owner) > OWNER_LIMIT for owner in owners):
        raise Unrenderable(f"an owner has more than {OWNER_LIMIT} characters")
    return tuple(owners)
