"""TOML: drafts as the text of a mapping file, with what is known about each line beside it."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.inspect.choice import Choice, Draft
from bridge.inspect.fields import percent

ORDER = (
    "each", "id", "conversation_id", "session_id", "role", "content", "state", "status_message", "timestamp", "history",
    "artifacts", "owner", "name",
)  # fmt: skip
WIDTH = 15
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def string(text: str) -> str:
    """A TOML string, in the quotes that need no escapes if there are such."""
    is_plain = all(character.isprintable() for character in text)
    if is_plain and '"' in text and "'" not in text:
        return f"'{text}'"
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES or character.isprintable():
        return _ESCAPES.get(character, character)
    return f"\\u{ord(character):04X}" if ord(character) < 65536 else f"\\U{ord(character):08X}"


def rendered(drafts: Sequence[Draft], heading: Sequence[str] = (), *, comments: bool = True) -> str:
    """The whole file."""
    blocks = ["\n".join(f"# {line}".rstrip() for line in heading)] if heading and comments else []
    several = {draft.kind for draft in drafts if sum(other.kind == draft.kind for other in drafts) > 1}
    blocks += [_section(draft, draft.kind in several, comments) for draft in drafts]
    return "\n\n".join(blocks) + "\n"


def _section(draft: Draft, is_repeated: bool, comments: bool) -> str:
    header = f"[[{draft.kind}]]" if is_repeated else f"[{draft.kind}]"
    lines = [f"# {draft.reason} ({percent(draft.score)})"] if comments else []
    lines += [header, _line("table", draft.table.name)]
    if draft.condition is not None:
        lines.append(_line("where", draft.condition))
    for key in ORDER:
        if key in draft.lines:
            lines += _commented(key, draft.lines[key]) if comments else [_line(key, draft.lines[key].sql)]
    return "\n".join(lines)


def _commented(key: str, choice: Choice) -> list[str]:
    reason = " ".join(choice.reason.split())
    if choice.confirm:
        return [f"# CONFIRM ({percent(choice.score)}): {reason}", _line(key, choice.sql)]
    return [f"# {percent(choice.score)}: {reason}", _line(key, choice.sql)]


def _line(key: str, value: str) -> str:
    return f"{key:{WIDTH}} = {string(value)}"
