"""The schemas of the packages in ../shared/writers, with rows as those packages write them."""

from __future__ import annotations

import json
import sqlite3

from tests.bridge.inspect_schemas import Schema, said


def _when(number: int) -> str:
    return f"2026-01-01 00:00:{number % 60:02}.000000"


def _a2a(sql: sqlite3.Connection) -> None:
    for n in range(12):
        message = {"messageId": f"t{n}-m", "role": "ROLE_AGENT", "parts": [{"text": said(n)}]}
        status: dict[str, object] = {
            "state": ("TASK_STATE_WORKING", "TASK_STATE_COMPLETED")[n % 2],
            "timestamp": "2026-01-01T00:00:00Z",
        }
        status |= {"message": message} if n % 2 == 0 else {}
        history = [{"messageId": f"t{n}-0", "role": "ROLE_USER", "parts": [{"text": said(n + 1)}]}]
        artifacts = [{"artifactId": f"t{n}-a", "name": "artifact-2", "parts": [{"text": said(n + 2)}]}]
        sql.execute(
            "INSERT INTO tasks VALUES (?, ?, 'task', ?, ?, ?, ?, ?, '1.0', '{}')",
            (
                f"task-{n}",
                f"conv-{n % 4}",
                f"user-{n % 2}",
                _when(n),
                json.dumps(status),
                json.dumps(artifacts if n % 3 else []),
                json.dumps(history),
            ),
        )


def _openai(sql: sqlite3.Connection) -> None:
    sql.executemany(
        "INSERT INTO agent_sessions(session_id) VALUES (?)", [(f"user-{n % 2}/conv-{n}",) for n in range(4)]
    )
    for n in range(40):
        answer = {
            "id": f"msg_{n}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": said(n), "annotations": []}],
        }
        item = [
            {"role": "user", "content": said(n)},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "some result"},
            answer,
        ][n % 4]
        c = n // 4 % 4
        sql.execute(
            "INSERT INTO agent_messages(session_id, message_data) VALUES (?, ?)",
            (f"user-{c % 2}/conv-{c}", json.dumps(item)),
        )


def _adk(sql: sqlite3.Connection) -> None:
    sql.executemany(
        "INSERT INTO sessions VALUES ('app', ?, ?, '{}', ?, ?)",
        [(f"user-{n % 2}", f"conv-{n}", _when(n), _when(n)) for n in range(4)],
    )
    sql.executemany("INSERT INTO user_states VALUES ('app', ?, '{}', ?)", [(f"user-{n}", _when(n)) for n in range(2)])
    for n in range(30):
        who = ("user", "model")[n % 2]
        data: dict[str, object] = {
            "content": {"parts": [{"text": said(n)}], "role": who},
            "author": ("user", "helper")[n % 2],
            "invocation_id": "e",
        }
        data |= {} if n % 10 else {"content": None}
        c = n // 2 % 4
        row = (f"event-{n}", f"user-{c % 2}", f"conv-{c}", "e-1", _when(n), json.dumps(data))
        sql.execute("INSERT INTO events VALUES (?, 'app', ?, ?, ?, ?, ?)", row)


def _langchain(sql: sqlite3.Connection) -> None:
    for n in range(30):
        kind, c = ("human", "ai")[n % 2], n // 2 % 4
        message = {
            "type": kind,
            "data": {
                "content": said(n),
                "additional_kwargs": {},
                "response_metadata": {},
                "type": kind,
                "name": None,
                "id": None,
            },
        }
        sql.execute(
            "INSERT INTO message_store(session_id, message) VALUES (?, ?)",
            (f"user-{c % 2}/conv-{c}", json.dumps(message)),
        )


def _agno(sql: sqlite3.Connection) -> None:
    for n in range(4):
        sql.execute(
            "INSERT INTO agno_sessions(session_id, session_type, agent_id, user_id, session_data, created_at, "
            "updated_at) "
            "VALUES (?, 'agent', 'helper', ?, '{\"session_state\": {}}', 1700000000, 1700000001)",
            (f"conv-{n}", f"user-{n % 2}"),
        )
    for n in range(14):
        messages = [
            {"id": f"m{n}-{k}", "role": ("user", "assistant")[k], "content": said(k), "from_history": False}
            for k in range(2)
        ]
        data = {
            "run_id": f"run-{n}",
            "session_id": f"conv-{n % 4}",
            "user_id": f"user-{n % 2}",
            "content": said(n),
            "model": "fake-1",
            "status": "COMPLETED",
            "messages": messages,
        }
        sql.execute(
            "INSERT INTO agno_runs(run_id, session_id, run_type, agent_id, user_id, status, run_index, run_data, "
            "created_at, updated_at) "
            "VALUES (?, ?, 'agent', 'helper', ?, ?, ?, ?, 1700000000, 1700000001)",
            (
                f"run-{n}",
                f"conv-{n % 4}",
                f"user-{n % 2}",
                ("COMPLETED", "RUNNING", "PENDING")[n % 3],
                n,
                json.dumps(data),
            ),
        )


def _celery(sql: sqlite3.Connection) -> None:
    for n in range(15):
        history = [{"role": "agent", "text": said(k)} for k in range(n % 4)]
        results: list[dict[str, object]] = [
            {"pid": 1},
            {"step": n, "history": history},
            {"answer": said(n), "history": history},
        ]
        result = results[n % 3]
        kwargs = {"user_id": f"user-{n % 2}", "conversation_id": f"conv-{n % 4}"}
        sql.execute(
            "INSERT INTO celery_taskmeta(task_id, status, result, date_done, name, args, kwargs, retries) VALUES "
            "(?, ?, ?, ?, 'chat.answer', ?, ?, 0)",
            (
                f"task-{n}",
                ("STARTED", "PROGRESS", "SUCCESS")[n % 3],
                json.dumps(result).encode(),
                _when(n),
                b'["a", "b"]',
                json.dumps(kwargs).encode(),
            ),
        )


def _chainlit(sql: sqlite3.Connection) -> None:
    sql.executemany(
        "INSERT INTO users VALUES (?, ?, '{}', ?)",
        [(f"00000000-0000-4000-8000-00000000000{n}", f"user-{n}", _when(n)) for n in range(2)],
    )
    for n in range(4):
        user = f"00000000-0000-4000-8000-00000000000{n % 2}"
        sql.execute(
            'INSERT INTO threads(id, name, "userId") VALUES (?, ?, ?)',
            (f"10000000-0000-4000-8000-00000000000{n}", f"chat {n}", user),
        )
    for n in range(24):
        kind = ("user_message", "assistant_message")[n % 2]
        sql.execute(
            "INSERT INTO steps(id, name, type, threadId, streaming, waitForAnswer, isError, metadata, input, "
            "output, createdAt, defaultOpen) "
            "VALUES (?, ?, ?, ?, 0, 0, 0, '{}', '', ?, ?, 0)",
            (
                f"20000000-0000-4000-8000-0000000000{n:02}",
                "bot",
                kind,
                f"10000000-0000-4000-8000-00000000000{n // 2 % 4}",
                said(n),
                _when(n),
            ),
        )


def _llm(sql: sqlite3.Connection) -> None:
    sql.executemany("INSERT INTO conversations VALUES (?, ?, 'fake-1')", [(f"conv-{n}", f"chat {n}") for n in range(4)])
    for n in range(20):
        sql.execute(
            "INSERT INTO responses(id, model, prompt, system, options_json, response, response_json, "
            "conversation_id, datetime_utc) "
            "VALUES (?, 'fake-1', ?, '', '{}', ?, '{}', ?, ?)",
            (f"01m81j{n:04}", said(n), said(n + 1), f"conv-{n % 4}", _when(n)),
        )


WRITERS = [
    Schema(
        "a2a-sdk",
        """CREATE TABLE tasks(id VARCHAR(36) NOT NULL, context_id VARCHAR(36) NOT NULL, kind VARCHAR(16) NOT NULL,
            owner VARCHAR(255),
            last_updated DATETIME, status JSON NOT NULL, artifacts JSON, history JSON, protocol_version VARCHAR(16),
            metadata JSON, PRIMARY KEY(id));
        CREATE INDEX idx_tasks_owner_last_updated ON tasks(owner, last_updated);""",
        _a2a,
        {
            "tasks.table": "tasks",
            "tasks.id": "id",
            "tasks.conversation_id": "context_id",
            "tasks.history": "history",
            "tasks.artifacts": "artifacts",
            "tasks.status_message": "json_extract(status, '$.message')",
            "tasks.timestamp": "json_extract(status, '$.timestamp')",
            "state": "completed",
            "owner": "user-1",
        },
    ),
    Schema(
        "openai-agents",
        """CREATE TABLE agent_sessions(session_id TEXT PRIMARY KEY, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
            updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
        CREATE TABLE agent_messages(id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL,
            message_data TEXT NOT NULL,
            created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
            FOREIGN KEY(session_id) REFERENCES agent_sessions(session_id) ON DELETE CASCADE);
        CREATE INDEX idx_agent_messages_session_id ON agent_messages(session_id, id);""",
        _openai,
        {
            "conversations.table": "agent_sessions",
            "messages.table": "agent_messages",
            "messages.id": "id",
            "messages.conversation_id": "session_id",
            "messages.content": "json_extract(message_data, '$.content')",
            "role": "assistant",
            "confirm": True,
            "owner": "user-1",
        },
    ),
    Schema(
        "google-adk",
        """CREATE TABLE sessions(app_name VARCHAR(128) NOT NULL, user_id VARCHAR(128) NOT NULL,
            id VARCHAR(128) NOT NULL, state TEXT NOT NULL,
            create_time DATETIME NOT NULL, update_time DATETIME NOT NULL, PRIMARY KEY(app_name, user_id, id));
        CREATE TABLE user_states(app_name VARCHAR(128) NOT NULL, user_id VARCHAR(128) NOT NULL, state TEXT NOT NULL,
            update_time DATETIME NOT NULL, PRIMARY KEY(app_name, user_id));
        CREATE TABLE events(id VARCHAR(128) NOT NULL, app_name VARCHAR(128) NOT NULL, user_id VARCHAR(128) NOT NULL,
            session_id VARCHAR(128) NOT NULL,
            invocation_id VARCHAR(256) NOT NULL, timestamp DATETIME NOT NULL, event_data TEXT, PRIMARY KEY(id,
            app_name, user_id, session_id),
            FOREIGN KEY(app_name, user_id, session_id) REFERENCES sessions(app_name, user_id,
            id) ON DELETE CASCADE);""",
        _adk,
        {
            "conversations.table": "sessions",
            "messages.table": "events",
            "messages.id": "id",
            "messages.conversation_id": "session_id",
            "messages.content": "json_extract(event_data, '$.content.parts')",
            "messages.owner": "user_id",
            "role": "model",
            "owner": "user-0",
        },
    ),
    Schema(
        "langchain-community",
        "CREATE TABLE message_store(id INTEGER NOT NULL, session_id TEXT, message TEXT, PRIMARY KEY(id));",
        _langchain,
        {
            "messages.table": "message_store",
            "messages.id": "id",
            "messages.conversation_id": "session_id",
            "messages.content": "json_extract(message, '$.data.content')",
            "role": "assistant",
            "confirm": True,
            "owner": "user-0",
        },
    ),
    Schema(
        "agno",
        """CREATE TABLE agno_sessions(session_id VARCHAR NOT NULL, session_type VARCHAR NOT NULL, agent_id VARCHAR,
            team_id VARCHAR,
            workflow_id VARCHAR, user_id VARCHAR, session_data JSON, agent_data JSON, summary JSON,
            created_at BIGINT NOT NULL, updated_at BIGINT,
            PRIMARY KEY(session_id));
        CREATE TABLE agno_runs(run_id VARCHAR NOT NULL, session_id VARCHAR NOT NULL, run_type VARCHAR NOT NULL,
            agent_id VARCHAR, team_id VARCHAR,
            workflow_id VARCHAR, user_id VARCHAR, parent_run_id VARCHAR, status VARCHAR, run_index BIGINT,
            run_data JSON NOT NULL,
            created_at BIGINT NOT NULL, updated_at BIGINT, PRIMARY KEY(run_id),
            FOREIGN KEY(session_id) REFERENCES agno_sessions(session_id) ON DELETE CASCADE);
        CREATE INDEX idx_agno_runs_session_id ON agno_runs(session_id);""",
        _agno,
        {
            "conversations.table": "agno_sessions",
            "tasks.table": "agno_runs",
            "tasks.id": "run_id",
            "tasks.conversation_id": "session_id",
            "tasks.owner": "user_id",
            "tasks.status_message": "json_extract(run_data, '$.content')",
            "tasks.history": "json_extract(run_data, '$.messages')",
            "state": "running",
            "owner": "user-1",
        },
    ),
    Schema(
        "celery",
        """CREATE TABLE celery_taskmeta(id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155),
            status VARCHAR(50), result BLOB,
            date_done DATETIME, traceback TEXT, children BLOB, name VARCHAR(155), args BLOB, kwargs BLOB,
            worker VARCHAR(155), retries INTEGER,
            queue VARCHAR(155), stamps BLOB, UNIQUE(task_id));
        CREATE TABLE celery_tasksetmeta(id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, taskset_id VARCHAR(155),
            result BLOB, date_done DATETIME,
            UNIQUE(taskset_id));""",
        _celery,
        {
            "tasks.table": "celery_taskmeta",
            "tasks.id": "task_id",
            "tasks.conversation_id": "json_extract(CAST(kwargs AS TEXT), '$.conversation_id')",
            "tasks.owner": "json_extract(CAST(kwargs AS TEXT), '$.user_id')",
            "tasks.status_message": "json_extract(CAST(result AS TEXT), '$.answer')",
            "state": "completed",
            "owner": "user-0",
        },
    ),
    Schema(
        "chainlit",
        """CREATE TABLE users("id" UUID PRIMARY KEY, "identifier" TEXT NOT NULL UNIQUE, "metadata" JSONB NOT NULL,
            "createdAt" TEXT);
        CREATE TABLE threads("id" UUID PRIMARY KEY, "createdAt" TEXT, "name" TEXT, "userId" UUID,
            "userIdentifier" TEXT, "tags" TEXT[],
            "metadata" JSONB, FOREIGN KEY("userId") REFERENCES users("id") ON DELETE CASCADE);
        CREATE TABLE steps("id" UUID PRIMARY KEY, "name" TEXT NOT NULL, "type" TEXT NOT NULL,
            "threadId" UUID NOT NULL, "parentId" UUID,
            "streaming" BOOLEAN NOT NULL, "waitForAnswer" BOOLEAN, "isError" BOOLEAN, "metadata" JSONB,
            "tags" TEXT[], "input" TEXT, "output" TEXT,
            "createdAt" TEXT, "command" TEXT, "start" TEXT, "end" TEXT, "generation" JSONB, "showInput" TEXT,
            "language" TEXT, "indent" INT,
            "defaultOpen" BOOLEAN, FOREIGN KEY("threadId") REFERENCES threads("id") ON DELETE CASCADE);
        CREATE TABLE feedbacks("id" UUID PRIMARY KEY, "forId" UUID NOT NULL, "threadId" UUID NOT NULL,
            "value" INT NOT NULL, "comment" TEXT,
            FOREIGN KEY("threadId") REFERENCES threads("id") ON DELETE CASCADE);""",
        _chainlit,
        {
            "conversations.table": "threads",
            "conversations.name": "name",
            "messages.table": "steps",
            "messages.id": "id",
            "messages.conversation_id": "threadId",
            "messages.content": "output",
            "role": "assistant",
            "owner": "user-1",
        },
    ),
    Schema(
        "llm",
        """CREATE TABLE conversations(id TEXT PRIMARY KEY, name TEXT, model TEXT);
        CREATE TABLE attachments(id TEXT PRIMARY KEY, type TEXT, path TEXT, url TEXT, content BLOB);
        CREATE TABLE responses(id TEXT PRIMARY KEY, model TEXT, prompt TEXT, system TEXT, prompt_json TEXT,
            options_json TEXT, response TEXT,
            response_json TEXT, conversation_id TEXT REFERENCES conversations(id), duration_ms INTEGER,
            datetime_utc TEXT, input_tokens INTEGER,
            output_tokens INTEGER, token_details TEXT, schema_id TEXT, resolved_model TEXT);
        CREATE TABLE tool_results(id INTEGER PRIMARY KEY, response_id TEXT REFERENCES responses(id), name TEXT,
            output TEXT);""",
        _llm,
        {
            "conversations.table": "conversations",
            "messages.table": "responses",
            "messages.id": "id || ':prompt'",
            "messages[2].id": "id || ':response'",
            "messages.conversation_id": "conversation_id",
            "messages.content": "prompt",
            "messages[2].content": "response",
            "role": "user",
            "confirm": True,
            "owner": None,
        },
    ),
]
