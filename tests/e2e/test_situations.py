"""What a writer may do to its rows, one after another on one running server in each journal mode and way of waking."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.clients import subject_of
from tests.e2e.harness import Walcast, eventually
from tests.e2e.legacy_process import Legacy
from tests.e2e.situations import VARIANTS, Scene, Variant, message, new_message, replacing, stage, task


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Each pair of a journal mode and a way of waking."""
    assert isinstance(request.param, Variant)
    return request.param


@pytest.fixture(scope="module")
def running(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Legacy, Walcast]]:
    """One server for all tests of a variant: each test has its own owners and ids."""
    folder = tmp_path_factory.mktemp("situations")
    with stage(folder, variant) as (writer, server):
        yield folder, writer, server


@pytest_asyncio.fixture
async def scene(variant: Variant, running: tuple[Path, Legacy, Walcast]) -> AsyncIterator[Scene]:
    """The running server and its writer, and the test's own clients."""
    folder, writer, server = running
    await server.ready()
    async with AsyncExitStack() as stack:
        yield Scene(variant, folder, writer, server, stack)


async def test_an_inserted_message_is_pushed_to_its_owner_alone(scene: Scene) -> None:
    """One row, one event, byte for byte the seed's; others get nothing."""
    mine, other = await scene.client("i-anna"), await scene.client("i-bert")
    scene.writer.commit(message("i1", "i-anna", 'naïve 漢字 🙂 "q" \\ \n'))
    assert await mine.next() == new_message("i1", 'naïve 漢字 🙂 "q" \\ \n')
    await scene.sees_nothing_more(mine, other)


async def test_a_task_updated_in_place_is_pushed_with_each_last_state(scene: Scene) -> None:
    """Status, history or artifacts: a change of any of them is an update."""
    client = await scene.client("u-anna")
    scene.writer.commit(task("u1", "u-anna", "submitted"))
    assert (await client.next())["task"]["status"]["state"] == "submitted"
    scene.writer.commit(("UPDATE tasks SET status = json_set(status, '$.state', 'working') WHERE id = 'u1'", ()))
    assert (await client.next())["task"]["status"]["state"] == "working"
    history = [{"role": "user", "parts": [{"kind": "text", "text": "q"}]}]
    scene.writer.commit(("UPDATE tasks SET history = ? WHERE id = 'u1'", (json.dumps(history),)))
    assert (await client.next())["task"]["history"] == [{"role": "user", "parts": [{"type": "text", "text": "q"}]}]
    artifacts = [{"name": "out", "parts": [{"text": "x" * 20_000}]}]
    scene.writer.commit(("UPDATE tasks SET artifacts = ? WHERE id = 'u1'", (json.dumps(artifacts),)))
    [artifact] = (await client.next())["task"]["artifacts"]
    assert artifact == {"name": "out", "parts": [{"type": "text", "text": "x" * 20_000}]}
    artifacts[0]["parts"][0]["text"] = "x" * 19_999 + "y"  # type: ignore[index]
    scene.writer.commit(("UPDATE tasks SET artifacts = ? WHERE id = 'u1'", (json.dumps(artifacts),)))
    [artifact] = (await client.next())["task"]["artifacts"]
    assert artifact["parts"][0]["text"].endswith("xy")
    await scene.sees_nothing_more(client)


async def test_a_message_rewritten_with_the_same_id_is_not_given_again(scene: Scene) -> None:
    """UPDATE, INSERT OR REPLACE under a text key (a new rowid) and under an integer key, a row without a rowid."""
    client = await scene.client("r-anna")
    rows = [message("r1", "r-anna"), message(71, "r-anna", table="numbered"), message("r2", "r-anna", table="keyed")]
    scene.writer.commit(*rows)
    assert {subject_of(await client.next()) for _ in rows} == {"r1", "71", "r2"}
    scene.writer.commit(*[replacing((sql, (*values[:2], "again", *values[3:]))) for sql, values in rows])
    await scene.sees_nothing_more(client)
    scene.writer.commit(*[(f"UPDATE {table} SET body = 'third'", ()) for table in ("named", "numbered", "keyed")])
    await scene.sees_nothing_more(client)


async def test_a_rowid_given_again_to_another_message_is_another_message(scene: Scene) -> None:
    """The highest row is deleted, and its rowid goes to a row with another id."""
    client = await scene.client("d-anna")
    for name in ("d1", "d2", "d3"):
        scene.writer.commit(message(name, "d-anna"))
        assert await client.next() == new_message(name)
        scene.writer.commit((f"DELETE FROM named WHERE id = '{name}'", ()))
    scene.writer.commit(message("d4", "d-anna"))
    scene.writer.commit(("DELETE FROM named WHERE id = 'd4'", ()), message("d5", "d-anna"))
    seen = [subject_of(await client.next())]
    if seen == ["d4"]:
        seen.append(subject_of(await client.next()))
    assert seen[-1] == "d5", "d4 may have come and gone between two looks, d5 is there"
    await scene.sees_nothing_more(client)


async def test_an_integer_id_given_again_in_another_conversation_is_another_message(scene: Scene) -> None:
    """SQLite hands a deleted highest id out again."""
    client = await scene.client("n-anna")
    gone = ("DELETE FROM numbered WHERE id = 9000", ())
    scene.writer.commit(message(9000, "n-anna", "1", "n-first", "numbered"))
    assert await client.next() == new_message(9000, "1", "n-first")
    scene.writer.commit(gone)
    await scene.sees_nothing_more(client)
    scene.writer.commit(message(9000, "n-anna", "2", "n-second", "numbered"))
    assert await client.next() == new_message(9000, "2", "n-second")
    scene.writer.commit(gone, message(9000, "n-anna", "3", "n-third", "numbered"))
    assert await client.next() == new_message(9000, "3", "n-third")
    await scene.sees_nothing_more(client)


async def test_rows_of_one_commit_are_pushed_in_their_order(scene: Scene) -> None:
    """A burst, and a commit that is rolled back, of which nothing may be seen."""
    client = await scene.client("b-anna")
    scene.writer.rolled_back(*[message(f"b-gone-{number}", "b-anna", "x" * 3000) for number in range(50)])
    scene.writer.commit(*[message(f"b{number:03}", "b-anna") for number in range(300)], task("b-task", "b-anna"))
    seen = [subject_of(await client.next()) for _ in range(301)]
    assert [name for name in seen if name != "b-task"] == [f"b{number:03}" for number in range(300)]
    await scene.sees_nothing_more(client)


async def test_what_comes_and_goes_in_one_commit_is_no_event(scene: Scene) -> None:
    """Nobody could have read it."""
    client = await scene.client("e-anna")
    scene.writer.commit(message("e1", "e-anna"), ("DELETE FROM named WHERE id = 'e1'", ()), message("e2", "e-anna"))
    assert await client.next() == new_message("e2")
    await scene.sees_nothing_more(client)


async def test_a_writer_that_opens_and_closes_for_every_write_is_followed(scene: Scene) -> None:
    """The side files vanish and return each time."""
    client = await scene.client("o-anna")
    scene.writer.close()
    for number in range(20):
        scene.writer.open()
        scene.writer.commit(message(f"o{number}", "o-anna"))
        scene.writer.close()
    assert [subject_of(await client.next()) for _ in range(20)] == [f"o{number}" for number in range(20)]
    scene.writer.open()
    scene.writer.commit(task("o-task", "o-anna"))
    scene.writer.close()
    assert subject_of(await client.next()) == "o-task"
    scene.writer.open()
    await scene.sees_nothing_more(client)


async def test_a_message_without_an_owner_is_delivered_when_the_owner_appears(scene: Scene) -> None:
    """Nobody gets it before; its owner gets it then, once."""
    owner, other = await scene.client("l-anna"), await scene.client("l-bert")
    scene.writer.commit(message("l1", None), task("l-task", None), message("l2", None, table="keyed"))
    await scene.sees_nothing_more(owner, other)
    for table in ("named", "keyed", "tasks"):
        scene.writer.commit((f"UPDATE {table} SET owner = 'l-anna' WHERE owner IS NULL", ()))
    assert {subject_of(await owner.next()) for _ in range(3)} == {"l1", "l2", "l-task"}
    await scene.sees_nothing_more(owner, other)


async def test_each_of_several_owners_gets_the_event(scene: Scene) -> None:
    """A JSON array of owners; nobody else."""
    anna, bert, cleo = [await scene.client(owner) for owner in ("a-anna", "a-bert", "a-cleo")]
    scene.writer.commit(message("a1", json.dumps(["a-anna", "a-bert", "a-anna", None])))
    assert await anna.next() == await bert.next() == new_message("a1")
    scene.writer.commit(message("a2", json.dumps([])), message("a3", ""))
    await scene.sees_nothing_more(anna, bert, cleo)


async def test_malformed_json_in_one_row_stops_no_other(scene: Scene) -> None:
    """The row is counted, the others of the same commit are pushed, and it follows when it is mended."""
    client = await scene.client("j-anna")
    failed = scene.server.get("/readyz").json["failed_rows"]
    insert = "INSERT INTO documents VALUES (?, 'c', ?, 'j-anna')"
    fine = json.dumps({"role": "user", "content": "hello"})
    scene.writer.commit((insert, ("j1", fine)), (insert, ("j2", '{"role": ')), (insert, ("j3", fine)))
    assert [await client.next() for _ in range(2)] == [new_message("j1"), new_message("j3")]
    scene.writer.commit(("INSERT INTO tasks VALUES ('j4', 'c', ?, '[{', '[]', 'j-anna')", ('{"state": "working"}',)))
    await scene.sees_nothing_more(client)
    await eventually(lambda: bool(scene.server.get("/readyz").json["failed_rows"] == failed + 2), "both are counted")
    scene.writer.commit(("UPDATE documents SET doc = ? WHERE id = 'j2'", (fine,)))
    assert await client.next() == new_message("j2")
    scene.writer.commit(("UPDATE tasks SET history = '[]' WHERE id = 'j4'", ()))
    assert subject_of(await client.next()) == "j4"
    await eventually(lambda: bool(scene.server.get("/readyz").json["failed_rows"] == failed), "both are mended")


async def test_tables_without_rowid_are_followed(scene: Scene) -> None:
    """Insert, update, delete and the same key again."""
    client = await scene.client("w-anna")
    job = ("INSERT INTO jobs VALUES ('w1', 'c', 'submitted', 'w-anna')", ())
    scene.writer.commit(message("w1", "w-anna", table="keyed"), job)
    assert {(await client.next())["type"] for _ in range(2)} == {"new_message", "task_update"}
    scene.writer.commit(("UPDATE jobs SET status = 'completed' WHERE id = 'w1'", ()))
    assert (await client.next())["task"]["status"]["state"] == "completed"
    scene.writer.commit(("DELETE FROM keyed WHERE id = 'w1'", ()), ("DELETE FROM jobs WHERE id = 'w1'", ()))
    await scene.sees_nothing_more(client)
    scene.writer.commit(message("w0", "w-anna", table="keyed"))
    assert await client.next() == new_message("w0")
    scene.writer.commit(("INSERT INTO jobs VALUES ('w1', 'c', 'submitted', 'w-anna')", ()))
    assert (await client.next())["task"]["status"]["state"] == "submitted"
    await scene.sees_nothing_more(client)


async def test_commits_that_touch_no_mapped_row_give_nothing(scene: Scene) -> None:
    """Noise in another table is not written to the event log."""
    client = await scene.client("x-anna", "resume=1")
    before = scene.server.get("/api/websocket-info").json["cursor"]
    for number in range(50):
        scene.writer.commit(("INSERT INTO noise(what) VALUES (?)", (f"{number}",)))
    assert scene.server.get("/api/websocket-info").json["cursor"] == before
    await scene.sees_nothing_more(client)


async def test_vacuum_gives_nothing_and_loses_nothing(scene: Scene) -> None:
    """It rewrites the file and may renumber hidden rowids."""
    client = await scene.client("v-anna")
    scene.writer.commit(*[message(f"v{number}", "v-anna") for number in range(20)])
    assert [subject_of(await client.next()) for _ in range(20)] == [f"v{number}" for number in range(20)]
    scene.writer.commit(("DELETE FROM named WHERE id IN ('v0', 'v7', 'v12')", ()))
    scene.writer.run("VACUUM")
    await scene.sees_nothing_more(client)
    scene.writer.run("VACUUM")
    scene.writer.commit(message("v99", "v-anna"))
    assert subject_of(await client.next()) == "v99"


async def test_the_writer_may_change_its_schema(scene: Scene) -> None:
    """A new column or index gives nothing, and what follows is pushed."""
    client = await scene.client("s-anna")
    scene.writer.commit(message("s1", "s-anna"))
    assert await client.next() == new_message("s1")
    scene.writer.script("ALTER TABLE noise ADD COLUMN more TEXT; CREATE INDEX by_owner ON named(owner)")
    await scene.sees_nothing_more(client)
    scene.writer.script("DROP INDEX by_owner; ALTER TABLE noise DROP COLUMN more")
    await scene.sees_nothing_more(client)
