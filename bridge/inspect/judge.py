"""Judge: what the values of a candidate look like, each from 0 (not at all) to 1. Nothing here looks at names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bridge.content import TEXT_TYPES, Json
from bridge.inspect.candidates import Candidate, Value, parsed
from bridge.inspect.words import is_speaker, is_state, role_of, share

STAMP = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?.*)?\Z")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.:/@#|-]*\Z")
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\Z", re.IGNORECASE)
WALLET = re.compile(r"([1-9A-HJ-NP-Za-km-z]{32,44}|0x[0-9a-fA-F]{40})\Z")
_SPLIT = re.compile(r"([^/:|#]{1,120})([/:|#])(.+)\Z")


def text(candidate: Candidate) -> float:
    """Text that somebody wrote, or parts that hold it."""
    present = candidate.present
    if not present:
        return 0.0
    looks = sum(map(_text_of_one, present)) / len(present)
    variety = min(1.0, 0.3 + candidate.distinct / len(present)) if len(present) > 4 else 1.0
    return looks * variety


def _text_of_one(value: Value) -> float:
    if isinstance(value, (dict, list)) or (isinstance(value, str) and value.lstrip()[:1] in ("{", "[")):
        found = parsed(value)
        if found is not None:
            return _parts(found)
    if not isinstance(value, str):
        return 0.0
    if STAMP.match(value) or _UUID.match(value) or value.replace(".", "").isdigit():
        return 0.0
    if role_of(value) or is_state(value):
        return 0.15
    if value.startswith(("http://", "https://", "data:")) and " " not in value:
        return 0.15
    if re.search(r"\s|[^\x00-\x7f]|[!?.,;]$", value):
        return 1.0
    return 0.25 if len(value) > 20 and _ID.match(value) else 0.45


def _parts(value: Json) -> float:
    if isinstance(value, dict):
        inner = value.get("parts")
        if isinstance(inner, list):
            return 0.8 * _parts(inner)
        is_part = isinstance(value.get("text"), str) and (
            value.get("type", value.get("kind")) in TEXT_TYPES or len(value) == 1
        )
        return 0.8 if is_part else 0.05
    if not isinstance(value, list):
        return 0.0
    if not value:
        return 0.5
    looks = [
        isinstance(element, str)
        or (isinstance(element, dict) and "role" not in element and element.keys() & {"text", "type", "kind"} != set())
        for element in value
    ]  # fmt: skip
    return 0.95 * share(looks)


def roles(candidate: Candidate) -> float:
    """Names of those who talk. Less when other words stand among them."""
    names = [value if isinstance(value, str) else None for value in candidate.present]
    if not names or candidate.distinct > 12:
        return 0.0
    known = [role_of(name) if name is not None else None for name in names]
    speaking = {role for role in known if role and is_speaker(role)}
    if not speaking:
        return 0.0
    whole = share(role is not None for role in known)
    return (0.25 + 0.65 * whole if whole < 1 else 1.0) * (1 if len(speaking) > 1 or len(names) < 4 else 0.8)


def states(candidate: Candidate) -> float:
    """States of a task."""
    present = candidate.present
    if not present or candidate.distinct > 20:
        return 0.0
    return share(isinstance(value, str) and is_state(value) for value in present)


def history(candidate: Candidate) -> float:
    """Arrays of messages: elements with a role and a text."""
    arrays = [parsed(value) for value in candidate.present]
    filled = [array for array in arrays if isinstance(array, list) and array]
    if not filled or len([array for array in arrays if isinstance(array, list)]) < len(arrays):
        return 0.0
    return share(share(is_message(element) for element in array) >= 0.5 for array in filled)


def is_message(element: Json) -> bool:
    """Whether a JSON value is a message: who, and what."""
    if not isinstance(element, dict):
        return False
    who = next((element[key] for key in ("role", "author", "sender", "from", "type") if key in element), None)
    if isinstance(who, dict):
        who = who.get("role", who.get("name"))
    has_text = any(element.get(key) is not None for key in ("parts", "content", "text", "body", "message"))
    return role_of(who) is not None and has_text


def arrays(candidate: Candidate) -> float:
    """JSON arrays of objects."""
    found = [parsed(value) for value in candidate.present]
    return share(isinstance(array, list) and all(isinstance(element, dict) for element in array) for array in found)


def stamps(candidate: Candidate) -> float:
    """Times: ISO text, or seconds, milliseconds or microseconds since 1970."""
    return share(
        (isinstance(value, str) and bool(STAMP.match(value)))
        or (isinstance(value, (int, float)) and unit_of(value) > 0)
        for value in candidate.present
    )


def unit_of(value: float) -> int:
    """How many of its units a second has: 1, 1000 or 1000000; 0 if the number is no time of our days."""
    return next((unit for unit in (1, 1_000, 1_000_000) if 9e8 * unit < value < 4e9 * unit), 0)


def flags(candidate: Candidate) -> bool:
    """Yes or no."""
    return bool(candidate.present) and all(
        isinstance(value, (int, float)) and value in (0, 1) for value in candidate.present
    )


def names(candidate: Candidate) -> float:
    """What an owner or an id can be: short, of one line, no time, no flag, no role, no JSON."""
    present = candidate.present
    if not present or flags(candidate):
        return 0.0

    def one(value: Value) -> float:
        if isinstance(value, (bool, float)):
            return 0.0
        if isinstance(value, int):
            return 0.0 if unit_of(value) == 1 and value > 1e9 else 0.85
        if not isinstance(value, str) or len(value) > 256 or "\n" in value or value.lstrip()[:1] in ("{", "["):
            return 0.0
        if STAMP.match(value) or value.startswith(("http://", "https://")):
            return 0.0
        if role_of(value) or is_state(value):
            return 0.1
        return 1.0 if value.count(" ") < 2 else 0.4 if value.count(" ") < 4 else 0.05

    return sum(map(one, present)) / len(present)


def wallets(values: Sequence[Value]) -> float:
    """Addresses of wallets."""
    return share(isinstance(value, str) and bool(WALLET.match(value)) and not value.isalpha() for value in values)


def split(candidate: Candidate) -> str | None:
    """The separator, if ids are of two parts and the first part repeats as owners do: OWNER/CONV."""
    found = [
        _SPLIT.match(value) if isinstance(value, str) and not _UUID.match(value) else None
        for value in candidate.present
    ]
    marks = {match[2] for match in found if match}
    if not found or len(marks) != 1 or share(match is not None for match in found) < 0.9:
        return None
    (mark,) = marks
    if any(match and match[1] in ("http", "https", "urn", "file") for match in found):
        return None
    heads = {match[1] for match in found if match}
    return mark if len(heads) < candidate.distinct or len(heads) > 1 else None


def is_varied(candidate: Candidate) -> bool:
    """Whether values repeat, as those that name a group of rows do."""
    return 0 < candidate.distinct < len(candidate.present)
