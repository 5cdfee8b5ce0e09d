"""Published packages as writers: their drivers, an environment for each, and what they say they wrote."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import REPO, SOON, Frame, eventually

WRITERS = Path(os.environ.get("WALCAST_WRITERS") or REPO.parent / "shared" / "writers")
ENVIRONMENTS = REPO / "build" / "writers"


def python_of(name: str) -> Path:
    """The interpreter of a driver's environment, made on first use; skips the test where that is not possible."""
    requirements = WRITERS / name / "requirements.txt"
    if not requirements.is_file():
        pytest.skip("the drivers are not there: put the folder `writers` at ../shared, or name it in WALCAST_WRITERS")
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    folder, wanted = ENVIRONMENTS / name, hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp, python = folder / "stamp", folder / "bin" / "python"
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            _install(name, folder, requirements)
            stamp.write_text(wanted)
    return python


def _install(name: str, folder: Path, requirements: Path) -> None:
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "-r", str(requirements)],
    )  # fmt: skip
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"the packages of the driver {name} could not be installed: {last[:200]}")


class Driver:
    """A run of a driver. Its lines go to a file, so that it never waits for us."""

    def __init__(self, name: str, database: Path, tag: str, *options: object) -> None:
        self._lines = database.with_name(f"{tag}.jsonl")
        arguments = [str(WRITERS / name / "drive.py"), str(database), "--tag", tag, *map(str, options)]
        with self._lines.open("wb") as out:
            self._process = subprocess.Popen(
                [str(python_of(name)), *arguments], stdout=out, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
            )

    async def done(self) -> list[Frame]:
        """Wait for its end; the lines about what it wrote."""
        await eventually(lambda: self._process.poll() is not None, "the driver's end")
        assert self._process.returncode == 0
        lines = [json.loads(line) for line in self._lines.read_text(encoding="utf-8").splitlines()]
        assert lines[-1]["kind"] == "end"
        return [line for line in lines if line["kind"] in ("message", "task")]

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait(SOON)


@contextmanager
def driven(name: str, database: Path, tag: str, *options: object) -> Iterator[Driver]:
    """A driver that is gone at the end of the block."""
    driver = Driver(name, database, tag, *options)
    try:
        yield driver
    finally:
        driver.kill()


def owners_of(tag: str) -> list[str]:
    """The two owners that a driver writes for."""
    return [f"user-{tag}-0", f"user-{tag}-1"]


# -- what is written, and how it has to look when it is pushed

A2A = """
[tasks]
table           = "tasks"
id              = "id"
conversation_id = "context_id"
state           = "replace(lower(substr(json_extract(status, '$.state'), 12)), '_', '-')"
status_message  = "json_extract(status, '$.message')"
timestamp       = "json_extract(status, '$.timestamp')"
history         = "history"
artifacts       = "artifacts"
owner           = "owner"
"""

OPENAI_AGENTS = """
[messages]
table           = "agent_messages"
where           = "json_extract(message_data, '$.role') IS NOT NULL"
id              = "id"
conversation_id = "session_id"
role            = "json_extract(message_data, '$.role')"
content         = "json_extract(message_data, '$.content')"
owner           = "substr(session_id, 1, instr(session_id, '/') - 1)"
"""

AGNO = """
[messages]
table           = "agno_runs"
each            = "json_each(agno_runs.run_data, '$.messages')"
where           = "json_extract(value, '$.role') IN ('user', 'assistant')"
id              = "json_extract(value, '$.id')"
conversation_id = "session_id"
role            = "json_extract(value, '$.role')"
content         = "json_extract(value, '$.content')"
owner           = "user_id"
"""

MESSAGES = ("openai_agents", "agno")
"""Writers of messages; those of agno are elements of a JSON array that is rewritten with each step of a run."""

MAPPINGS = {"a2a": A2A, "openai_agents": OPENAI_AGENTS, "agno": AGNO}

MARKERS = {
    "a2a": (
        "INSERT INTO tasks(id, context_id, kind, owner, status) "
        "VALUES ('marker-' || ?1, 'marker', 'task', ?1, '{\"state\": \"TASK_STATE_WORKING\"}')"
    ),
    "openai_agents": (
        "INSERT INTO agent_messages(session_id, message_data) "
        "VALUES (?1 || '/marker', json_object('role', 'user', 'content', 'marker'))"
    ),
    "agno": (
        "INSERT INTO agno_runs(run_id, session_id, run_type, user_id, created_at, run_data) "
        "VALUES ('marker-' || ?1, 'marker', 'agent', ?1, 0, "
        "json_object('messages', json_array(json_object('id', 'marker-' || ?1, 'role', 'user', 'content', 'x'))))"
    ),
}
"""A row for one owner (?1), written when the driver has ended: what was not pushed before it is not pushed at all."""


def _text(text: str) -> list[Frame]:
    return [{"type": "text", "text": text}]


def message_event(line: Frame) -> Frame:
    """The event that a written message has to give."""
    message = {"id": str(line["id"]), "role": line["role"], "content": _text(line["text"])}
    return {"type": "new_message", "conversation_id": line["conversation_id"], "message": message}


def task_event(line: Frame) -> Frame:
    """The event that a written state of a task has to give."""
    task = {
        "id": line["id"],
        "sessionId": line["session_id"],
        "status": {
            "state": line["state"].removeprefix("TASK_STATE_").lower().replace("_", "-"),
            "message": line["status_message"],
            "timestamp": line["status_ts"],
        },
        "history": [{"role": element["role"], "parts": _text(element["text"])} for element in line["history"]],
        "artifacts": [{"name": element["name"], "parts": None} for element in line["artifacts"]],
    }
    for artifact, element in zip(task["artifacts"], line["artifacts"], strict=True):
        artifact["parts"] = element["text"]
    return {"type": "task_update", "conversation_id": line["conversation_id"], "task": task}


def comparable(event: Frame) -> Frame:
    """An event without cursors, the text of its artifacts joined: a driver does not tell the chunks apart."""
    event = {name: value for name, value in event.items() if name not in ("cursor", "prev")}
    if event["type"] == "task_update":
        artifacts = [
            {"name": artifact["name"], "parts": "".join(part["text"] for part in artifact["parts"])}
            for artifact in event["task"]["artifacts"]
        ]
        event["task"] = event["task"] | {"artifacts": artifacts}
    return event


def marker_of(event: Frame) -> bool:
    """Whether an event is that of a marker row."""
    return bool(event["conversation_id"].endswith("marker"))


def check(name: str, lines: list[Frame], owner: str, events: list[Frame]) -> None:
    """Everything written for an owner was pushed to it as promised, and nothing else was."""
    mine = [line for line in lines if line["owner"] == owner]
    pushed = [comparable(event) for event in events if not marker_of(event)]
    assert mine, "the driver wrote nothing for this owner"
    if name in MESSAGES:
        written = [message_event(line) for line in mine if line["kind"] == "message" and line["role"] is not None]
        ids, wanted = ([event["message"]["id"] for event in some] for some in (pushed, written))
        assert ids == wanted, "lost, repeated or out of order"
        assert pushed == written
        return
    states: dict[str, list[Frame]] = {}
    for line in mine:
        states.setdefault(line["id"], []).append(task_event(line))
    last: dict[str, int] = {}
    for event in pushed:
        task = event["task"]["id"]
        here = states[task].index(event)  # a state that was never committed is found here
        assert here > last.get(task, -1), f"{event} came twice, or after a later state"
        last[task] = here
    assert last == {task: len(written) - 1 for task, written in states.items()}
