"""`walcast tail`: a subscriber for the terminal, and an example of a client that keeps the rules.

It keeps the newest cursor it was given, reconnects with exponential back-off and full jitter, resumes from that cursor,
and obeys the close codes: 40xx ends it, 42xx reconnects at once.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError

from bridge.decide import MESSAGE_DELETED, MESSAGE_UPDATE, TASK_DELETED
from bridge.errors import ConfigurationError
from bridge.filters import BadFilter, Filter

BASE, CAP = 0.5, 30.0
"""Seconds of the first back-off, and of the longest."""

Say = Callable[[str], None]


class Tail:
    """One subscription. `emit` gets a line per event, `note` what happens to the connection."""

    def __init__(
        self, url: str, owner: str, since: str | None, emit: Say, note: Say, *, as_json: bool, events: str | None = None
    ) -> None:
        self._url = url.rstrip("/").replace("ws", "http", 1) if url.startswith("ws") else url.rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{url} is not an address", "give it as http://HOST:PORT")
        self._owner, self._cursor, self._emit, self._note, self._as_json = owner, since, emit, note, as_json
        try:
            Filter.asked([], [] if events is None else [events])
        except BadFilter as bad:
            raise ConfigurationError(f"--events: {bad}", "separate the types by commas") from bad
        self._events = {} if events is None else {"events": events}
        self._tries = 0

    async def run(self) -> None:
        """Run until cancelled. Raises ConfigurationError when the server refuses for good."""
        async with ClientSession() as http:
            while True:
                code = await self._connection(http)
                if code is not None and 4000 <= code < 4100:
                    raise ConfigurationError(
                        f"the server closed with {code}: it will not have this client", "check --owner"
                    )
                self._tries += 1
                pause = random.uniform(
                    0, BASE if code is not None and code >= 4200 else min(CAP, BASE * 2**self._tries)
                )
                self._note(f"connection lost{f' ({code})' if code else ''}; trying again in {pause:.1f} s")
                await asyncio.sleep(pause)

    async def _connection(self, http: ClientSession) -> int | None:
        """One connection from beginning to end; its close code, None if it could not be made."""
        query = ({"since": self._cursor} if self._cursor else {"resume": "1"}) | self._events
        try:
            async with http.ws_connect(
                f"{self._url}/api/ws", params=query, headers={"X-Solana-PublicKey": self._owner}, heartbeat=20
            ) as ws:
                await self._read(ws)
                return ws.close_code
        except WSServerHandshakeError as error:
            if 400 <= error.status < 500 and error.status != 429:
                raise ConfigurationError(f"the server refuses this client ({error.status})", "check --owner") from error
        except (ClientError, OSError, TimeoutError) as error:
            self._note(f"cannot connect: {error}")
        return None

    async def _read(self, ws: ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                self._take(json.loads(message.data), message.data)

    def _take(self, frame: dict[str, Any], text: str) -> None:
        self._cursor = frame.get("cursor", self._cursor)
        if frame.get("type") != "connection_established":
            self._tries = 0
            self._emit(text if self._as_json else describe(frame))
        elif frame.get("recovered") is False:
            self._note(f"not recovered ({frame.get('reason')}): what was missed is at {frame.get('refetch')}")
        else:
            self._note(f"connected, at {self._cursor}")


def describe(frame: dict[str, Any]) -> str:
    """One line for a person."""
    conversation = frame.get("conversation_id")
    kind = frame.get("type")
    if kind in (MESSAGE_DELETED, TASK_DELETED):
        return f"{conversation}  {kind.partition('_')[0]} {frame.get('message_id') or frame.get('task_id')} deleted"
    if (message := frame.get("message")) and isinstance(message, dict):
        mark = f"(edit of {message.get('id')}) " if kind == MESSAGE_UPDATE else ""
        return f"{conversation}  {mark}{message.get('role')}: {_text(message.get('content', []))}"
    if task := frame.get("task"):
        status = task.get("status", {})
        return f"{conversation}  task {task.get('id')} {status.get('state')}: {status.get('message') or ''}"
    return json.dumps(frame, ensure_ascii=False)


def _text(parts: list[dict[str, Any]]) -> str:
    shown = [part["text"] if part.get("type") == "text" else f"[{part.get('type', 'part')}]" for part in parts]
    return " ".join(shown).replace("\n", " ")
