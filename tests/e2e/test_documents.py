"""A backend that keeps each chat in one JSON document: the whole program over it, killed and started again."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import KEY_HEADER, Resuming, subject_of
from tests.e2e.harness import Walcast, run_to_its_end, served
from tests.e2e.legacy_process import Legacy, legacy

OWNERS = {"c1": "anna", "c2": "anna", "c3": "bert"}

SCHEMA = "CREATE TABLE chats(id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT, doc TEXT NOT NULL);"

MAPPING = """
[conversations]
table = "chats"
id    = "id"
owner = "owner"
name  = "title"

[messages]
table           = "chats"
each            = "json_each(chats.doc, '$.messages')"
id              = "json_extract(value, '$.id')"
conversation_id = "id"
role            = "json_extract(value, '$.role')"
content         = "json_extract(value, '$.content')"
owner           = "owner"
"""


class Chats:
    """What the backend holds in memory, and writes whole with every change."""

    def __init__(self, writer: Legacy) -> None:
        self._writer = writer
        self.messages: dict[str, list[dict[str, str]]] = {chat: [] for chat in OWNERS}
        self.added: dict[str, list[str]] = defaultdict(list)
        self._number = 0
        self._settled: set[str] = set()

    def settle(self) -> None:
        """Whatever stands there now has been seen: taken out unseen, nobody would know of it."""
        self._settled = {message["id"] for messages in self.messages.values() for message in messages}

    def append(self, chat: str, count: int = 1) -> str:
        """Messages more at the end; the id of the last."""
        for _ in range(count):
            self._number += 1
            name = f"m{self._number}"
            self.messages[chat].append({"id": name, "role": "user", "content": f"[{name}] hello"})
            self.added[chat].append(name)
        return self.added[chat][-1]

    def write(self, *chats: str, verb: str = "UPDATE") -> None:
        """Some chats, in one commit."""
        statement = "INSERT OR REPLACE INTO chats(doc, id, owner, title) VALUES (?1, ?2, ?3, 'about ' || ?2)"
        if verb == "UPDATE":
            statement = "UPDATE chats SET doc = ?1 WHERE id = ?2 AND owner = ?3"
        docs = {chat: json.dumps({"version": 1, "messages": self.messages[chat]}) for chat in chats}
        self._writer.commit(*((statement, (doc, chat, OWNERS[chat])) for chat, doc in docs.items()))

    def rewrite(self, chance: random.Random) -> None:
        """What backends do: an answer grows, an old message is taken out, several come at once."""
        chat = chance.choice(list(OWNERS))
        kind = chance.random()
        if kind < 0.6:
            self.append(chat, chance.choice((1, 1, 2)))
        elif self.messages[chat] and kind < 0.9:
            chance.choice(self.messages[chat])["content"] += " and more" * chance.randrange(200)
        elif self.messages[chat] and self.messages[chat][0]["id"] in self._settled:
            del self.messages[chat][0]
        self.write(chat, verb=chance.choice(("UPDATE", "UPDATE", "REPLACE")))


def _loaded(server: Walcast, owner: str, chat: str) -> list[dict[str, Any]]:
    """All messages of a chat over HTTP, oldest first."""
    items: list[dict[str, Any]] = []
    before = ""
    while True:
        answer = server.get(f"/api/conversations/{chat}/messages?limit=3{before}", {KEY_HEADER: owner})
        assert answer.status == 200, answer
        items += answer.json["messages"]
        if answer.json["before"] is None:
            return items[::-1]
        before = f"&before={answer.json['before']}"


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_documents_that_are_rewritten_give_each_new_message_once_through_every_kill(
    tmp_path: Path, journal: str
) -> None:
    """In the order of the arrays, to the owners of their chats alone; what can be loaded is what stands there."""
    database, mapping, chance = tmp_path / "legacy.db", tmp_path / "mapping.toml", random.Random(7)
    mapping.write_text(MAPPING, encoding="utf-8")
    with legacy(database, SCHEMA, journal) as writer, served(
        database, "--map", mapping, "--owner-format", "any", start=False
    ) as server:
        chats = Chats(writer)
        for chat in OWNERS:
            chats.append(chat, 2)
        chats.write(*OWNERS, verb="REPLACE")
        chats.added.clear()  # what is there before is not pushed
        await server.start().ready()
        async with Resuming(server, "anna") as anna, Resuming(server, "bert") as bert:
            await anna.connected()
            await bert.connected()
            for strike in range(4):
                chats.settle()
                for _ in range(12):
                    chats.rewrite(chance)
                server.kill()
                for _ in range(4):
                    chats.rewrite(chance)
                server.spawn()
                await server.ready()
                await anna.connected(strike + 2)
            for chat, client in (("c1", anna), ("c2", anna), ("c3", bert)):
                last = chats.append(chat)
                chats.write(chat)
                await client.saw(last)
            for client in (anna, bert):
                assert client.refetches == []
                pushed: dict[str, list[str]] = defaultdict(list)
                for event in client.events:
                    pushed[event["conversation_id"]].append(subject_of(event))
                assert pushed == {chat: chats.added[chat] for chat in OWNERS if OWNERS[chat] == client.owner}
        for chat, owner in OWNERS.items():
            loaded = [(item["id"], item["content"][0]["text"]) for item in _loaded(server, owner, chat)]
            assert loaded == [(message["id"], message["content"]) for message in chats.messages[chat]]
        assert server.get("/api/conversations/c1/messages", {KEY_HEADER: "bert"}).status == 404


async def test_a_document_that_breaks_stops_nobody_and_repeats_nothing(tmp_path: Path) -> None:
    """It is counted, and what is new in it is pushed when it can be read again."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    with legacy(database, SCHEMA, "WAL") as writer, served(
        database, "--map", mapping, "--owner-format", "any", start=False
    ) as server:
        chats = Chats(writer)
        chats.write(*OWNERS, verb="REPLACE")
        await server.start().ready()
        async with Resuming(server, "anna") as anna:
            await anna.connected()
            first = chats.append("c1")
            chats.write("c1")
            await anna.saw(first)
            writer.commit(("UPDATE chats SET doc = substr(doc, 1, length(doc) - 2) WHERE id = 'c1'", ()))
            beside = chats.append("c2")
            chats.write("c2")
            await anna.saw(beside)
            assert server.metric("walcast_failed_rows") == 1
            last = chats.append("c1")
            chats.write("c1")
            await anna.saw(last)
            assert [subject_of(event) for event in anna.events] == [first, beside, last]
            assert server.metric("walcast_failed_rows") == 0


def test_an_each_that_does_not_fit_is_refused_at_the_start(tmp_path: Path) -> None:
    """With exit code 3, the key and the nearest name."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING.replace("chats.doc", "chats.dco"), encoding="utf-8")
    with legacy(database, SCHEMA, "WAL"):
        ended = run_to_its_end("--db", database, "--map", mapping, "--port", 0)
    assert ended.returncode == 3
    assert "[messages] each" in ended.stderr
    assert 'did you mean "doc"?' in ended.stderr
