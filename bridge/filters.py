"""Filters: which of its owner's events a client wants. Pure, and never a way to see another owner's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bridge.decide import MESSAGE_DELETED, MESSAGE_UPDATE, NEW_MESSAGE, TASK_DELETED, TASK_UPDATE
from storage.types import Event

EVENT_TYPES = (NEW_MESSAGE, TASK_UPDATE, MESSAGE_UPDATE, MESSAGE_DELETED, TASK_DELETED)
"""What `?events=` may name."""
DEFAULT_TYPES = frozenset(EVENT_TYPES[:2])
MOST_CONVERSATIONS = 1000
MOST_CHARACTERS = 512
"""Bounds of what one client can make us keep."""


class BadFilter(ValueError):
    """What was asked for cannot be a filter. `code` is one of the documented error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Filter:
    """`chosen` is None for every conversation but the `muted` ones; an empty set is none at all."""

    types: frozenset[str] = DEFAULT_TYPES
    chosen: frozenset[str] | None = None
    muted: frozenset[str] = frozenset()

    @classmethod
    def asked(cls, conversations: Sequence[str], types: Sequence[str]) -> Filter:
        """From the values of `conversation_id` and of `events` in a query. Raises BadFilter."""
        names = [name.strip() for value in types for name in value.split(",")]
        for name in names:
            if name not in EVENT_TYPES:
                raise BadFilter("bad_events", f'unknown event type "{name[:64]}"; known: {", ".join(EVENT_TYPES)}')
        chosen = frozenset(map(_checked, conversations)) if conversations else None
        if chosen is not None and len(chosen) > MOST_CONVERSATIONS:
            raise _too_many()
        if chosen is None and not names:
            return EVERYTHING
        return cls(frozenset(names) or DEFAULT_TYPES, chosen)

    @property
    def is_wide(self) -> bool:
        """Whether more was asked for than the two types of the seed: then optional events count in `prev`."""
        return not self.types <= DEFAULT_TYPES

    def wants(self, event: Event) -> bool:
        """Whether an event of the owner is to be sent."""
        if event.type not in self.types or (event.is_optional and not self.is_wide):
            return False
        if self.chosen is None:
            return event.conversation_id not in self.muted
        return event.conversation_id in self.chosen

    def subscribed(self, conversation: str) -> Filter:
        """With one conversation more. The first one narrows to it."""
        return _within(replace(self, chosen=(self.chosen or frozenset()) | {_checked(conversation)}, muted=frozenset()))

    def unsubscribed(self, conversation: str) -> Filter:
        """With one conversation less. The last one leaves none; where all were heard, this one is muted."""
        if self.chosen is not None:
            return replace(self, chosen=self.chosen - {conversation})
        return _within(replace(self, muted=self.muted | {_checked(conversation)}))


EVERYTHING = Filter()
"""What a client gets that asks for nothing: every conversation, the two types of the seed."""


def _checked(conversation: str) -> str:
    if len(conversation) > MOST_CHARACTERS:
        raise BadFilter("bad_conversation_id", f"a conversation_id has at most {MOST_CHARACTERS} characters")
    return conversation


def _within(changed: Filter) -> Filter:
    if len(changed.chosen or changed.muted) > MOST_CONVERSATIONS:
        raise _too_many()
    return changed


def _too_many() -> BadFilter:
    return BadFilter("too_many_conversations", f"a connection names at most {MOST_CONVERSATIONS} conversations")
