"""Content normalisation: whatever a backend stores as the content of a message becomes a list of parts.

Known dialects of a text part: A2A 0.1 (`type`), 0.3 (`kind`), 1.0 (no discriminator), OpenAI (`input_text`,
`output_text`); all become {"type": "text", "text": ...}. Every other part passes through whole.
"""

from __future__ import annotations

import json
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Part = dict[str, Json]

TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_BARE_KEYS = frozenset({"text", "raw", "url", "data", "metadata", "mediaType", "filename"})
"""The keys of an A2A 1.0 part, which carries no discriminator."""


def parse_json(text: str) -> Json:
    """JSON as backends write it. Raises ValueError. NaN and Infinity, which are no JSON, become null."""
    try:
        value: Json = json.loads(text, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def text_part(text: str) -> Part:
    """The one form in which text is pushed."""
    return {"type": "text", "text": text}


def content_parts(text: str | None) -> list[Part]:
    """The parts of a content column: plain text, a JSON part, a JSON array of parts, or a JSON object with `parts`.

    Text that merely looks like JSON (a user may well send `[1, 2]`) stays text.
    """
    if text is None:
        return []
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = parse_json(text)
        except ValueError:
            return [text_part(text)]
        if _is_structured(value):
            return parts_of(value)
    return [text_part(text)]


def parts_of(value: Json) -> list[Part]:
    """The parts of a JSON value that is known to be content."""
    if value is None:
        return []
    if isinstance(value, list):
        return [_part(element) for element in value]
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        return parts_of(value["parts"])
    return [_part(value)]


def element_parts(element: Json) -> list[Part]:
    """The parts of one element of a history or of artifacts: its text stands in `parts`, `content` or `text`."""
    if not isinstance(element, dict):
        return parts_of(element)
    for name in ("parts", "content", "text"):
        if element.get(name) is not None:
            return parts_of(element[name])
    return []


def joined_text(value: Json) -> str:
    """The text parts of a message object, joined; what a status message is pushed as."""
    parts = element_parts(value) if isinstance(value, dict) and not _is_part(value) else parts_of(value)
    return "".join(text for part in parts if part.get("type") == "text" and isinstance(text := part.get("text"), str))


def _part(element: Json) -> Part:
    if isinstance(element, dict):
        text = element.get("text")
        return text_part(text) if isinstance(text, str) and _discriminator(element) in (None, *TEXT_TYPES) else element
    return text_part(element if isinstance(element, str) else json.dumps(element, ensure_ascii=False))


def _discriminator(element: dict[str, Json]) -> Json:
    kind = element.get("type", element.get("kind"))
    return kind if isinstance(kind, str) else None


def _is_part(value: Json) -> bool:
    if not isinstance(value, dict):
        return False
    if _discriminator(value) in TEXT_TYPES:
        return isinstance(value.get("text"), str)
    if _discriminator(value) is not None:
        return len(value) > 1  # {"type": "file", "file": ...}
    if "text" in value and not isinstance(value["text"], str):
        return False
    return value.keys() <= _BARE_KEYS and any(key in value for key in ("text", "raw", "url", "data"))


def _is_structured(value: Json) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("parts"), list) or _is_part(value)
    if isinstance(value, list):
        has_part = any(_is_part(element) for element in value) or not value
        return has_part and all(isinstance(element, str) or _is_part(element) for element in value)
    return False
