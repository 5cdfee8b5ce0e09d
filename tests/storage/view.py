"""What a client that asks for every event type makes of them: messages and tasks as they are in the tables now."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.storage.oracle import Scan, told

Item = tuple[str, str, str | None, str]
"""(owner, `message` or `task`, conversation, id)."""


class View:
    """Every owner's client at once. It begins with what was there at the first attach, as a client that fetched it."""

    def __init__(self, baseline: Scan) -> None:
        self._items: dict[Item, str] = {item: min(payloads) for item, payloads in _truth(baseline).items()}

    def take(self, events: Iterable[tuple[str, Any]]) -> None:
        """(owner, event) in the order of the log."""
        for owner, event in events:
            kind = "task" if event["type"].startswith("task") else "message"
            conversation = event["conversation_id"]
            if event["type"].endswith("_deleted"):
                name = f"{kind}_id"
                assert event.keys() == {"type", "conversation_id", name}
                gone = self._items.pop((owner, kind, conversation, event[name]), None)
                assert gone is not None, f"{owner} was told of the end of something it never had: {event}"
            else:
                self._items[owner, kind, conversation, event[kind]["id"]] = told(event[kind])

    def check(self, rows: Scan) -> None:
        """Nothing is missing, nothing is left over, nothing is old."""
        truth = _truth(rows)
        assert self._items.keys() == truth.keys()
        for item, payload in self._items.items():
            assert payload in truth[item], item


def _truth(rows: Scan) -> dict[Item, set[str]]:
    """What each owner may see; where several rows have one id, any of them."""
    found = dict[Item, set[str]]()
    for (kind, name), state in rows.items():
        if state.visible and state.owner is not None:
            found[state.owner, kind, state.conversation, name] = {told(state_of(one, kind)) for one in state.payloads}
    return found


def state_of(payload: str, kind: str) -> object:
    """The message or task of an event."""
    return json.loads(payload)[kind]
