"""What the program says about itself: configuration, liveness, freshness, figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import KEY_HEADER, subject_of, subscriber
from tests.e2e.harness import Walcast, eventually
from tests.e2e.legacy_process import Legacy
from tests.e2e.situations import VARIANTS, message, stage


@pytest.fixture(params=[VARIANTS[0], VARIANTS[3]], ids=str)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Legacy, Walcast]]:
    """A writer and a server, in two ways."""
    with stage(tmp_path, request.param) as both:
        yield both


async def test_the_info_says_what_the_service_is_and_can(running: tuple[Legacy, Walcast]) -> None:
    """Configuration, message types and active connections, as the seed asks; and what the extensions add."""
    _, server = running
    await server.ready()
    async with subscriber(server, "anna"), subscriber(server, "bert"):
        answer = server.get("/api/websocket-info")
        assert answer.headers["Content-Type"].startswith("application/json")
        info = answer.json
        assert info["active_connections"] == 2
        assert {"connection_established", "new_message", "task_update", "pong"} <= set(info["message_types"])
        assert info["endpoint"] == "/api/ws"
        assert info["auth"]["mode"] == "header"
        assert KEY_HEADER in info["auth"]["headers"]
        assert info["limits"]["max_frame_bytes"] == 65_536
        streams = {stream["table"]: stream["state"] for stream in info["capture"]["streams"]}
        assert streams == dict.fromkeys(("named", "numbered", "keyed", "documents", "tasks", "jobs"), "live")
        assert info["close_codes"]["4100"]
        assert ":" in info["cursor"]
    await eventually(lambda: bool(server.get("/api/websocket-info").json["active_connections"] == 0), "they left")


async def test_the_figures_move_with_what_happens(running: tuple[Legacy, Walcast]) -> None:
    """Prometheus text: events, deliveries, connections, refusals."""
    writer, server = running
    await server.ready()
    assert server.get("/metrics").headers["Content-Type"].startswith("text/plain; version=0.0.4")
    async with subscriber(server, "anna") as first, subscriber(server, "anna") as second:
        for number in range(3):
            writer.commit(message(f"m{number}", "anna"))
            await first.next()
            await second.next()
        assert server.metric("walcast_connections") == 2
        assert server.metric('walcast_events_total{type="new_message"}') == 3
        assert server.metric("walcast_deliveries_total") == 6
        assert server.metric("walcast_ready") == 1
        assert server.get("/api/ws").status == 401
        assert server.metric('walcast_refused_total{reason="missing_owner"}') == 1


async def test_a_database_that_goes_away_is_told_and_waited_for(running: tuple[Legacy, Walcast]) -> None:
    """503 with the reason and a time to come back; alive all the while; ready by itself when it returns."""
    writer, server = running
    await server.ready()
    async with subscriber(server, "anna") as client:
        writer.run("PRAGMA wal_checkpoint(TRUNCATE)")
        away = server.database.with_name("away.db")
        server.database.rename(away)
        await eventually(lambda: server.get("/readyz").status == 503, "it is noticed")
        answer = server.get("/readyz")
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert answer.headers["Retry-After"]
        assert (answer.json["status"], answer.json["code"]) == (503, "not_ready")
        assert "legacy.db" in answer.json["detail"]
        assert server.get("/healthz").status == 200
        assert server.metric("walcast_ready") == 0
        away.rename(server.database)
        await server.ready()
        writer.commit(message("back", "anna"))
        assert subject_of(await client.next()) == "back"


async def test_a_table_that_goes_away_is_told_and_the_others_go_on(running: tuple[Legacy, Walcast]) -> None:
    """503 names the table; the other sections are pushed meanwhile, and this one again when it returns."""
    writer, server = running
    await server.ready()
    async with subscriber(server, "anna") as client:
        [[schema]] = writer.run("SELECT sql FROM sqlite_master WHERE name = 'numbered'")
        writer.run("DROP TABLE numbered")
        await eventually(lambda: server.get("/readyz").status == 503, "it is noticed")
        assert "numbered" in server.get("/readyz").json["detail"]
        writer.commit(message("other", "anna"))
        assert subject_of(await client.next()) == "other"
        writer.run(schema)
        await server.ready()
        writer.commit(message(5, "anna", table="numbered"))
        assert subject_of(await client.next()) == "5"


def test_unknown_addresses_and_methods_are_problems(running: tuple[Legacy, Walcast]) -> None:
    """404 and the sample page where it is promised."""
    _, server = running
    answer = server.get("/nowhere")
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    page = server.get("/samples/websocket_client_example.html")
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")
