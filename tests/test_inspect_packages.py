"""Published packages write; the mapping that inspect saves, with presets and without, brings all to its owner."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from bridge.inspect.inspection import inspect_database, save
from tests.e2e.drivers import WRITERS, driven, python_of
from tests.e2e.harness import Frame, Walcast, eventually, served

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not WRITERS.is_dir(), reason="the drivers are not there: put the folder `writers` at ../shared"),
]

PRESETS = {
    "a2a": "a2a-sdk", "openai_agents": "openai-agents", "adk": "google-adk",
    "langchain_community": "langchain-community",
    "agno": "agno", "celery": "celery", "chainlit": "chainlit", "llm_legacy": "llm",
}  # fmt: skip
IN_TASKS = {"agno"}
"""Whose messages come inside tasks only, unless a preset says better."""


def logged(state: Path) -> list[tuple[list[str], Frame]]:
    """The event log: owners and event, in order."""
    with closing(sqlite3.connect(state)) as connection:
        rows = connection.execute("SELECT owners, body FROM events ORDER BY seq").fetchall()
    return [(json.loads(owners), json.loads(body)) for owners, body in rows]


def text_of(parts: Sequence[Frame]) -> str:
    """The text of parts."""
    return "".join(part["text"] for part in parts)


def role_of(role: str | None) -> str | None:
    """A role as clients know it."""
    return {"human": "user", "ai": "assistant"}.get(role or "", role)


def serial_of(text: str) -> str:
    """What every text of a driver begins with."""
    found = re.match(r"\[[^]]*\]", text)
    assert found, text
    return found[0]


def messages_of(lines: Sequence[Frame]) -> dict[str, tuple[str, str | None, str]]:
    """Serial to (owner, role, last text) of the messages that have a text."""
    said = [line for line in lines if line["kind"] == "message" and line["text"]]
    return {
        serial_of(line["text"]): (line["owner"] or "somebody", role_of(line["role"]), line["conversation_id"])
        for line in said
    }


def pushed_messages(events: Sequence[tuple[list[str], Frame]]) -> dict[str, tuple[str, str | None, str]]:
    """The same of what was pushed; nothing twice."""
    found: dict[str, tuple[str, str | None, str]] = {}
    for owners, event in events:
        if event["type"] == "new_message":
            serial = serial_of(text_of(event["message"]["content"]))
            assert serial not in found, f"{serial} came twice"
            (owner,) = owners
            found[serial] = (owner, role_of(event["message"]["role"]), event["conversation_id"])
    return found


def tasks_of(lines: Sequence[Frame]) -> dict[str, tuple[str, str, list[str]]]:
    """Task to (owner, conversation, texts of its history) as last written."""
    return {
        line["id"]: (line["owner"], line["conversation_id"], [element["text"] for element in line["history"]])
        for line in lines
        if line["kind"] == "task"
    }


def pushed_tasks(events: Sequence[tuple[list[str], Frame]]) -> dict[str, tuple[str, str, list[str]]]:
    """The same of what was pushed last. Messages that a task repeats from earlier runs are not its own."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for owners, event in events:
        if event["type"] == "task_update":
            texts = [text_of(element["parts"]) for element in event["task"]["history"]]
            found[event["task"]["id"]] = (owners[0], event["conversation_id"], texts)
    return found


def states_of(events: Sequence[tuple[list[str], Frame]]) -> dict[str, str]:
    """Task to its last state."""
    return {
        event["task"]["id"]: event["task"]["status"]["state"] for _, event in events if event["type"] == "task_update"
    }


def plain(state: str) -> str:
    """A state as the mapping is to give it."""
    bare = state.removeprefix("TASK_STATE_").lower().replace("_", "-")
    return {"started": "working", "progress": "working", "success": "completed"}.get(bare, bare)


@pytest.mark.parametrize("rate", [0, 20], ids=["flat-out", "twenty-a-second"])
@pytest.mark.parametrize("use_presets", [True, False], ids=["preset", "alone"])
@pytest.mark.parametrize("writer", PRESETS)
async def test_the_mapping_that_inspect_saves_brings_what_a_package_writes(
    tmp_path: Path, writer: str, use_presets: bool, rate: int
) -> None:
    """One run before, so that there is something to look at; then serve, and a second run that must arrive whole.

    In the middle of it the bridge is killed and started again.
    """
    python_of(writer)
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    with driven(writer, database, "old", "--count", 60) as driver:
        await driver.done()
    looked = await asyncio.to_thread(inspect_database, database, use_presets=use_presets)
    assert (looked.preset.name if looked.preset else None) == (PRESETS[writer] if use_presets else None)
    await asyncio.to_thread(save, looked, mapping)
    mapping.write_text(mapping.read_text(encoding="utf-8").replace('"NULL"', "\"'somebody'\""), encoding="utf-8")
    with served(database, "--map", mapping, "--owner-format", "any") as server:
        await server.ready()
        with driven(writer, database, "new", "--count", 120, "--rate", rate) as driver:
            await eventually(lambda: len(logged(server.state)) >= 10, "some have come")
            server.kill()
            await server.start().ready()
            lines = await driver.done()
        await _arrived(server, writer, lines)
        events = logged(server.state)
    if writer not in IN_TASKS or use_presets:
        assert pushed_messages(events) == messages_of(lines)
    wanted, pushed = tasks_of(lines), pushed_tasks(events)
    assert pushed.keys() == wanted.keys()
    for task, (owner, conversation, texts) in wanted.items():
        assert pushed[task][:2] == (owner, conversation)
        assert (
            pushed[task][2][len(pushed[task][2]) - len(texts) :] == texts
            if writer == "agno"
            else pushed[task][2] == texts
        )
    assert states_of(events) == {line["id"]: plain(line["state"]) for line in lines if line["kind"] == "task"}


async def _arrived(server: Walcast, writer: str, lines: Sequence[Frame]) -> None:
    messages = len(messages_of(lines)) if writer not in IN_TASKS else 0
    last = {line["id"]: plain(line["state"]) for line in lines if line["kind"] == "task"}
    texts = {task: found[2][-1:] for task, found in tasks_of(lines).items()}

    def is_there() -> bool:
        events = logged(server.state)
        pushed = pushed_tasks(events)
        return (
            sum(event["type"] == "new_message" for _, event in events) >= messages
            and states_of(events) == last
            and all(pushed[task][2][-1:] == tail for task, tail in texts.items())
        )

    await eventually(is_there, f"the last of {writer}")
