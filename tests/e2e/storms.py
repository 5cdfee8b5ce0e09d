"""What a random writer wrote against what its clients were sent: nothing lost, nothing twice, in order."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tests.e2e.clients import Resuming, subject_of, text_of
from tests.e2e.harness import Frame, Walcast
from tests.e2e.legacy_process import CONVERSATIONS, Legacy

OWNERS = ("anna", "bert")

SCHEMA = """
CREATE TABLE conversations(id TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, conversation_id TEXT NOT NULL, role TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE tasks(
    id TEXT PRIMARY KEY, conversation_id TEXT NOT NULL, state TEXT NOT NULL, stamp INTEGER NOT NULL,
    history TEXT NOT NULL, artifacts TEXT NOT NULL);
""" + "".join(
    f"INSERT INTO conversations VALUES ('c{number}', '{OWNERS[number % 2]}');" for number in range(CONVERSATIONS)
)

MAPPING = """
[messages]
table           = "messages"
id              = "id"
conversation_id = "conversation_id"
role            = "role"
content         = "body"
owner           = "(SELECT owner FROM conversations c WHERE c.id = messages.conversation_id)"

[tasks]
table           = "tasks"
id              = "id"
conversation_id = "conversation_id"
state           = "state"
timestamp       = "stamp"
history         = "history"
artifacts       = "artifacts"
owner           = "(SELECT owner FROM conversations c WHERE c.id = tasks.conversation_id)"
"""

@contextmanager
def seeded() -> Iterator[int]:
    """A seed of this run, which its failure names."""
    seed = random.SystemRandom().randrange(1 << 30)
    try:
        yield seed
    except BaseException as failure:
        failure.add_note(f"seed {seed}")
        raise


async def settled(server: Walcast, writer: Legacy, clients: Sequence[Resuming]) -> None:
    """Everything that was written has been seen and sent, if it ever will be.

    A message that is seen shows that the commits before it were looked at; what those looks left to a pass over the
    tables, as is right when a journal was missed, is through when the server is no longer behind, which is more than to
    be ready; and a second message comes behind that.
    """
    await server.caught_up()
    for number in (1_000_001, 2_000_001):
        for owner in range(len(OWNERS)):
            statement = "INSERT INTO messages VALUES (?, ?, 'user', ?)"
            writer.commit((statement, (number + owner, f"c{owner}", f"[{number + owner}]")))
        for client in clients:
            await client.saw(str(number + OWNERS.index(client.owner)))
        await server.caught_up()


def compare(database: Path, client: Resuming) -> None:
    """What a client was sent against what stands in the database."""
    assert client.refetches == []
    messages: dict[str, list[str]] = defaultdict(list)
    tasks: dict[str, list[Frame]] = defaultdict(list)
    for event in client.events:
        if event["type"] == "new_message":
            messages[event["conversation_id"]].append(subject_of(event))
            assert text_of(event).startswith(f"[{subject_of(event)}]")
        else:
            tasks[subject_of(event)].append(event["task"])
    with closing(sqlite3.connect(database)) as connection:
        for conversation, pushed in _messages(connection, client.owner).items():
            assert messages.pop(conversation, []) == pushed, conversation
        for task, state, stamp, history, artifacts in _tasks(connection, client.owner):
            pushed_states = tasks.pop(task)
            stamps = [pushed["status"]["timestamp"] for pushed in pushed_states]
            assert stamps == sorted(set(stamps)), f"a state of {task} came twice, or after a later one"
            status = {"state": state, "message": None, "timestamp": stamp}
            assert pushed_states[-1]["status"] == status
            assert pushed_states[-1]["history"] == json.loads(history)
            assert pushed_states[-1]["artifacts"] == json.loads(artifacts)
    assert messages == {}
    assert tasks == {}


def _messages(connection: sqlite3.Connection, owner: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for conversation, message in connection.execute(
        "SELECT conversation_id, m.id FROM messages m JOIN conversations c ON c.id = conversation_id "
        "WHERE owner = ? ORDER BY m.id",
        (owner,),
    ):
        found[conversation].append(str(message))
    return found


def _tasks(connection: sqlite3.Connection, owner: str) -> list[tuple[str, str, int, str, str]]:
    return connection.execute(
        "SELECT t.id, state, stamp, history, artifacts FROM tasks t JOIN conversations c ON c.id = conversation_id "
        "WHERE owner = ?",
        (owner,),
    ).fetchall()
