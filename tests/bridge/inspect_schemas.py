"""Plausible legacy databases that no package publishes, each with what a person would map."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

Rows = Callable[[sqlite3.Connection], None]
SAID = (
    "hello, is anybody there?",
    "ja, wir sind da!",
    "please cancel my order",
    "什么时候发货？",
    "thanks a lot",
    "one more thing: the invoice",
)


@dataclass(frozen=True)
class Schema:
    """`expected` maps `section.line` to its SQL; `role`, `state` and `owner` alone name a value to come of it."""

    name: str
    ddl: str
    fill: Rows
    expected: dict[str, object] = field(default_factory=dict)

    def build(self, path: Path) -> Path:
        """Write the database."""
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(self.ddl)
            self.fill(connection)
        return path


def said(number: int) -> str:
    """Something to say."""
    return f"{SAID[number % len(SAID)]} ({number})"


def _camel(sql: sqlite3.Connection) -> None:
    sql.executemany("INSERT INTO appUsers VALUES (?, ?, ?)", [(n, f"nick{n}", f"{n}@example.org") for n in range(3)])
    sql.executemany(
        "INSERT INTO chatSessions VALUES (?, ?, ?, 1700000000000)", [(f"s{n}", n % 3, f"Chat {n}") for n in range(5)]
    )
    for n in range(40):
        sender = "USER" if n % 2 == 0 else "ASSISTANT"
        sql.execute(
            "INSERT INTO chatMessages VALUES (?, ?, ?, ?, ?)",
            (f"m{n}", f"s{n % 5}", sender, said(n), 1700000000000 + n),
        )


def _german(sql: sqlite3.Connection) -> None:
    sql.executemany(
        "INSERT INTO gespraeche VALUES (?, ?, ?)", [(n, f"kunde-{n % 4}", f"Anfrage {n}") for n in range(1, 7)]
    )
    for n in range(40):
        sql.execute(
            "INSERT INTO nachrichten(gespraech_id, absender, inhalt, erstellt_am) VALUES (?, ?, ?, ?)",
            (1 + n % 6, "nutzer" if n % 2 == 0 else "assistent", said(n), f"2024-03-0{1 + n % 9} 10:00:00"),
        )


def _chinese(sql: sqlite3.Connection) -> None:
    sql.executemany("INSERT INTO 会话 VALUES (?, ?, ?)", [(n, f"钱包{n % 2}", f"主题{n}") for n in range(1, 5)])
    for n in range(30):
        sql.execute("INSERT INTO 消息 VALUES (?, ?, ?, ?)", (n, 1 + n % 4, "user" if n % 3 else "assistant", said(n)))


def _single(sql: sqlite3.Connection) -> None:
    for n in range(40):
        sql.execute(
            "INSERT INTO messages(user_id, is_bot, text, ts) VALUES (?, ?, ?, ?)",
            (f"u-{n % 3}", n // 3 % 2, said(n), 1_700_000_000 + n),
        )


def _arrays(sql: sqlite3.Connection) -> None:
    for n in range(12):
        turns = [{"id": f"{n}-{k}", "role": ("user", "assistant")[k % 2], "content": said(k)} for k in range(4)]
        document = json.dumps({"title": f"t{n}", "messages": turns})
        sql.execute(
            "INSERT INTO chat VALUES (?, ?, ?, ?, ?)", (f"c{n}", f"user-{n % 3}", f"t{n}", document, 1_700_000_000 + n)
        )


def _discord(sql: sqlite3.Connection) -> None:
    sql.executemany("INSERT INTO users VALUES (?, ?, ?)", [(900 + n, f"name{n}", int(n == 3)) for n in range(4)])
    sql.execute("INSERT INTO guilds VALUES (1, 'guild', 900)")
    sql.executemany("INSERT INTO channels VALUES (?, 1, ?)", [(10 + n, f"general-{n}") for n in range(3)])
    sql.executemany(
        "INSERT INTO channel_members VALUES (?, ?)", [(10 + c, 900 + u) for c in range(3) for u in range(c + 2)]
    )
    for n in range(40):
        sql.execute("INSERT INTO messages VALUES (?, ?, ?, ?, NULL)", (10**17 + n, 10 + n % 3, 900 + n % 4, said(n)))


def _tickets(sql: sqlite3.Connection) -> None:
    sql.executemany(
        "INSERT INTO customers VALUES (?, ?, ?)", [(n, f"c{n}@example.org", f"Customer {n}") for n in range(1, 4)]
    )
    sql.executemany("INSERT INTO staff VALUES (?, ?)", [(n, f"Agent {n}") for n in range(1, 3)])
    sql.executemany(
        "INSERT INTO tickets VALUES (?, ?, ?, 'open', ?)",
        [(n, 1 + n % 3, f"broken {n}", 1 + n % 2) for n in range(1, 8)],
    )
    for n in range(40):
        sql.execute(
            "INSERT INTO ticket_replies(ticket_id, author_name, is_staff, body, created_at) VALUES (?, ?, ?, ?, ?)",
            (1 + n % 7, f"someone {n % 5}", n // 7 % 2, said(n), f"2024-01-01T00:00:{n:02}Z"),
        )
    sql.executemany("INSERT INTO ticket_attachments VALUES (?, ?, ?)", [(n, n, f"file {n}.pdf") for n in range(1, 10)])


def _jobs(sql: sqlite3.Connection) -> None:
    sql.executemany("INSERT INTO accounts VALUES (?, ?)", [(n, f"acct-{n}") for n in range(1, 4)])
    states = ("queued", "running", "done", "failed")
    for n in range(24):
        log = json.dumps([{"role": "agent", "text": said(k)} for k in range(n % 3)])
        sql.execute(
            "INSERT INTO jobs(uuid, account_id, thread_id, status, result, log, updated) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (f"job-{n:04}", 1 + n % 3, f"th{n % 5}", states[n % 4], said(n), log, 1_700_000_000 + n),
        )


def _payload(sql: sqlite3.Connection) -> None:
    for n in range(30):
        payload = {
            "author": {"role": ("human", "ai")[n % 2], "name": "x"},
            "body": {"parts": [{"type": "text", "text": said(n)}]},
            "meta": {"wallet": f"w{n % 3}"},
        }
        if n % 5 == 4:
            payload = {"kind": "typing", "meta": {"wallet": f"w{n % 3}"}}
        sql.execute("INSERT INTO events VALUES (?, ?, ?)", (f"e{n}", f"room-{n % 3}", json.dumps(payload).encode()))


def _qa(sql: sqlite3.Connection) -> None:
    for n in range(20):
        answer = json.dumps({"text": said(n), "sources": []})
        sql.execute(
            "INSERT INTO workspace_chats(workspaceId, prompt, response, user_id, thread_id) VALUES (1, ?, ?, ?, ?)",
            (said(n + 1), answer, 1 + n % 2, n % 4),
        )
    sql.executemany("INSERT INTO users VALUES (?, ?, 'default')", [(n, f"login{n}") for n in range(1, 3)])


SCHEMAS = [
    Schema(
        "camel case",
        """CREATE TABLE appUsers(userId INTEGER PRIMARY KEY, userName TEXT UNIQUE, mail TEXT);
        CREATE TABLE chatSessions(sessionId TEXT PRIMARY KEY, userId INTEGER REFERENCES appUsers(userId),
            title TEXT, createdAt INTEGER);
        CREATE TABLE chatMessages(messageId TEXT PRIMARY KEY, sessionId TEXT NOT NULL, senderRole TEXT,
            messageText TEXT, createdAt INTEGER);""",
        _camel,
        {
            "conversations.table": "chatSessions",
            "conversations.id": "sessionId",
            "conversations.name": "title",
            "messages.table": "chatMessages",
            "messages.id": "messageId",
            "messages.conversation_id": "sessionId",
            "messages.content": "messageText",
            "role": "user",
            "owner": "0",
        },
    ),
    Schema(
        "german",
        """CREATE TABLE gespraeche(id INTEGER PRIMARY KEY, kunden_nr TEXT NOT NULL, betreff TEXT);
        CREATE TABLE nachrichten(id INTEGER PRIMARY KEY AUTOINCREMENT, gespraech_id INTEGER REFERENCES gespraeche,
            absender TEXT, inhalt TEXT, erstellt_am TEXT);""",
        _german,
        {
            "conversations.table": "gespraeche",
            "conversations.name": "betreff",
            "messages.table": "nachrichten",
            "messages.id": "id",
            "messages.conversation_id": "gespraech_id",
            "messages.content": "inhalt",
            "role": "nutzer",
            "owner": "kunde-1",
        },
    ),
    Schema(
        "chinese",
        """CREATE TABLE 会话(编号 INTEGER PRIMARY KEY, 所有者 TEXT, 标题 TEXT);
        CREATE TABLE 消息(编号 INTEGER PRIMARY KEY, 会话编号 INTEGER REFERENCES 会话(编号), 角色 TEXT, 内容 TEXT);""",
        _chinese,
        {
            "conversations.table": "会话",
            "messages.table": "消息",
            "messages.id": '"编号"',
            "messages.conversation_id": '"会话编号"',
            "messages.content": '"内容"',
            "role": "assistant",
            "owner": "钱包1",
        },
    ),
    Schema(
        "one table",
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, user_id TEXT, is_bot INTEGER, text TEXT, ts INTEGER);",
        _single,
        {
            "messages.table": "messages",
            "messages.id": "id",
            "messages.content": "text",
            "messages.owner": "user_id",
            "messages.conversation_id": "user_id",
            "role": "user",
            "owner": "u-0",
        },
    ),
    Schema(
        "arrays",
        "CREATE TABLE chat(id TEXT PRIMARY KEY, user_id TEXT, title TEXT, chat JSON, updated_at INTEGER);",
        _arrays,
        {"note": "chat holds many messages"},
    ),
    Schema(
        "discord",
        """CREATE TABLE users(id INTEGER PRIMARY KEY, username TEXT UNIQUE, bot INTEGER);
        CREATE TABLE guilds(id INTEGER PRIMARY KEY, name TEXT, owner_id INTEGER);
        CREATE TABLE channels(id INTEGER PRIMARY KEY, guild_id INTEGER REFERENCES guilds(id), name TEXT);
        CREATE TABLE channel_members(channel_id INTEGER REFERENCES channels(id), user_id INTEGER REFERENCES users(id),
            PRIMARY KEY(channel_id, user_id));
        CREATE TABLE messages(id INTEGER PRIMARY KEY, channel_id INTEGER REFERENCES channels(id),
            author_id INTEGER REFERENCES users(id), content TEXT, edited_at TEXT);""",
        _discord,
        {
            "conversations.table": "channels",
            "messages.table": "messages",
            "messages.id": "id",
            "messages.conversation_id": "channel_id",
            "messages.content": "content",
            "role": "user",
            "owner": "901",
        },
    ),
    Schema(
        "tickets",
        """CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT UNIQUE, full_name TEXT);
        CREATE TABLE staff(id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE tickets(id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), subject TEXT,
            status TEXT,
            assignee_id INTEGER REFERENCES staff(id));
        CREATE TABLE ticket_replies(id INTEGER PRIMARY KEY, ticket_id INTEGER REFERENCES tickets(id), author_name TEXT,
            is_staff INTEGER, body TEXT, created_at TEXT);
        CREATE TABLE ticket_attachments(id INTEGER PRIMARY KEY, reply_id INTEGER, comment TEXT);""",
        _tickets,
        {
            "conversations.table": "tickets",
            "conversations.name": "subject",
            "messages.table": "ticket_replies",
            "messages.conversation_id": "ticket_id",
            "messages.content": "body",
            "role": "user",
            "owner": "2",
        },
    ),
    Schema(
        "jobs",
        """CREATE TABLE accounts(id INTEGER PRIMARY KEY, handle TEXT UNIQUE);
        CREATE TABLE jobs(id INTEGER PRIMARY KEY, uuid TEXT UNIQUE, account_id INTEGER REFERENCES accounts(id),
            thread_id TEXT,
            status TEXT, result TEXT, log TEXT, updated INTEGER);""",
        _jobs,
        {
            "tasks.table": "jobs",
            "tasks.conversation_id": "thread_id",
            "tasks.state": "status",
            "tasks.history": "log",
            "tasks.status_message": "result",
            "owner": "1",
        },
    ),
    Schema(
        "payload",
        "CREATE TABLE events(event_id TEXT PRIMARY KEY, room TEXT, payload BLOB);",
        _payload,
        {
            "messages.table": "events",
            "messages.id": "event_id",
            "messages.conversation_id": "room",
            "messages.content": "json_extract(CAST(payload AS TEXT), '$.body.parts')",
            "role": "user",
            "owner": "w0",
        },
    ),
    Schema(
        "questions and answers",
        """CREATE TABLE users(id INTEGER PRIMARY KEY, username TEXT UNIQUE, role TEXT);
        CREATE TABLE workspace_chats(id INTEGER PRIMARY KEY, workspaceId INTEGER, prompt TEXT, response TEXT,
            user_id INTEGER,
            thread_id INTEGER);""",
        _qa,
        {
            "messages.table": "workspace_chats",
            "messages.conversation_id": "thread_id",
            "messages.content": "prompt",
            "messages[2].content": "json_extract(response, '$.text')",
            "role": "user",
            "owner": "1",
        },
    ),
]
