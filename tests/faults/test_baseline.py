"""The baseline of a big table meets a full disk: what was there before stays without events, whatever fails."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.clients import subject_of, subscriber
from tests.e2e.harness import Walcast, eventually
from tests.e2e.legacy_process import legacy
from tests.e2e.situations import MAPPING, SCHEMA, message
from tests.faults.rig import grow, linux, small_disk, unready

pytestmark = linux

ROWS = 12_000
OLD = (
    f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
    "INSERT INTO named SELECT 'old' || i, 'c', 'user', 'hello', 'anna' FROM n"
)


async def test_a_disk_that_fills_up_during_the_baseline_makes_no_events_of_old_rows(tmp_path: Path) -> None:
    """With room again the baseline ends, and a moved row is still known by its id."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    with small_disk(tmp_path / "disk", 1000) as disk, legacy(database, SCHEMA, "WAL") as writer:
        writer.commit((OLD, ()))
        server = Walcast(database, "--map", mapping, "--owner-format", "any", state=disk / "state")
        server.log = tmp_path / "log"
        try:
            server.start()
            async with subscriber(server, "anna", "resume=1") as client:
                await unready(server, "state file cannot be used")
                grow(disk, 64_000)
                await server.ready()
                await eventually(lambda: server.metric("walcast_behind_seconds") == 0, "every pass is over")
                writer.commit(("REPLACE INTO named SELECT * FROM named WHERE id IN ('old1', 'old600', 'old5000')", ()))
                writer.commit(message("marker", "anna"))
                assert subject_of(await client.next()) == "marker"
        finally:
            server.kill()
