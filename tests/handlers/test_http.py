"""The endpoints beside the socket: errors that say what is wrong, and answers that pages may read."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientResponse, web

from bridge.protocol import Close
from handlers.problems import Problem
from storage.capture import Capture
from tests.handlers.service import Service, eventually

Serve = Callable[..., Awaitable[Service]]


async def problem(answer: ClientResponse) -> dict[str, Any]:
    """The body of an error, which has the same shape everywhere."""
    assert answer.content_type == "application/problem+json"
    body = json.loads(await answer.text())
    assert body.keys() >= {"type", "title", "status", "detail", "code"}
    assert body["status"] == answer.status
    return dict(body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/no/such", 404, "http"),
        ("POST", "/healthz", 405, "http"),
        ("HEAD", "/api/events", 405, "http"),
        ("GET", "/api/ws", 401, "missing_owner"),
        ("GET", "/api/ws?publicKey=W", 400, "http"),
    ],
)
async def test_every_error_is_a_problem(serve: Serve, method: str, path: str, status: int, code: str) -> None:
    """application/problem+json with what is wrong; 405 also says what is allowed."""
    service = await serve()
    answer = await service.client.request(method, path)
    assert answer.status == status
    if method != "HEAD":
        assert (await problem(answer))["code"] == code
    assert answer.content_type == "application/problem+json"
    assert (status == 405) == ("Allow" in answer.headers)
    assert f'walcast_refused_total{{reason="{code}"}} 1.0' in service.bridge.metrics.exposition().decode()


@pytest.mark.parametrize("path", ["/healthz", "/no/such"])
async def test_an_expectation_that_nobody_knows_is_a_problem_too(serve: Serve, path: str) -> None:
    """It is refused before any middleware is asked, and was told as plain text."""
    service = await serve()
    answer = await service.client.get(path, headers={"Expect": "miracles"})
    assert (answer.status, (await problem(answer))["code"]) == (417, "http")


async def test_an_owner_that_is_not_utf_8_is_refused(serve: Serve) -> None:
    """The databases take no such text: with `owner_format` any it was answered 500."""
    service = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"GET /api/conversations HTTP/1.0\r\nX-Solana-PublicKey: caf\xe9\r\n\r\n")
    head, body = (await reader.read()).split(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.0 401 ")
    assert json.loads(body)["code"] == "bad_owner"


async def test_a_defect_is_told_in_one_line_and_logged_whole(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """No traceback ever reaches a client, and the service goes on."""
    service = await serve()

    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    service.bridge.metrics.exposition = broken  # type: ignore[method-assign,assignment]
    answer = await service.client.get("/metrics")
    assert (answer.status, (await problem(answer))["code"]) == (500, "internal")
    assert "secret" not in await answer.text()
    assert "secret detail" in caplog.text
    assert (await service.client.get("/healthz")).status == 200


def test_a_problem_carries_its_headers() -> None:
    """Such as Retry-After."""
    response = Problem(503, "Not ready", "because", "not_ready", {"Retry-After": "1"}).response()
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert isinstance(response, web.Response)


# -- origins


async def test_a_page_of_an_allowed_origin_may_read_the_answers(serve: Serve) -> None:
    """Errors too, and caches are told that the answer depends on it; nobody else's page may."""
    service = await serve(allowed_origins="http://a.example")
    for path in ("/healthz", "/no/such", "/api/ws"):
        answer = await service.client.get(path, headers={"Origin": "http://a.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "http://a.example"
        assert answer.headers["Vary"] == "Origin"
        answer = await service.client.get(path, headers={"Origin": "http://evil.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_preflight_is_answered_for_allowed_origins_only(serve: Serve) -> None:
    """With the headers that our endpoints read."""
    service = await serve(allowed_origins="null")
    asked = {"Access-Control-Request-Method": "GET"}
    answer = await service.client.options("/api/websocket-info", headers={"Origin": "null", **asked})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "null")
    for name in ("X-Solana-PublicKey", "X-Solana-Nonce", "X-Solana-Signature", "Last-Event-ID"):
        assert name in answer.headers["Access-Control-Allow-Headers"]
    answer = await service.client.options("/api/websocket-info", headers={"Origin": "http://evil.example", **asked})
    assert (answer.status, (await problem(answer))["code"]) == (403, "origin")


async def test_a_socket_is_not_opened_for_a_page_of_another_origin(serve: Serve) -> None:
    """The same-origin policy does not hold for WebSockets: the server has to."""
    service = await serve()
    answer = await service.client.get("/api/ws", headers={"Origin": "http://evil.example", "X-Solana-PublicKey": "W"})
    assert (answer.status, (await problem(answer))["code"]) == (403, "origin")
    assert service.bridge.hub.count == 0


# -- what it is and how it is


async def test_the_service_describes_itself(serve: Serve) -> None:
    """Configuration, message types, active connections, the current cursor, the close codes."""
    service = await serve(outbox_frames=77)
    async with service.client.ws_connect("/api/ws", headers={"X-Solana-PublicKey": "W"}):
        info = await (await service.client.get("/api/websocket-info")).json()
        assert info["active_connections"] == 1
    assert {"connection_established", "new_message", "task_update", "pong", "error"} <= set(info["message_types"])
    assert info["limits"]["outbox_frames"] == 77
    assert info["cursor"] == str(service.bridge.hub.cursor)
    assert info["close_codes"] == {str(int(code)): code.name.lower() for code in Close}
    assert [stream["section"] for stream in info["capture"]["streams"]] == ["messages", "tasks"]
    for path in info["endpoints"].values():
        assert (await service.client.get(path)).status in {200, 401, 426}


async def test_readiness_is_freshness(serve: Serve, database: sqlite3.Connection) -> None:
    """A mapping that fits no more is 503 with the reason, and alive all the same."""
    service = await serve()
    answer = await service.client.get("/readyz")
    assert (answer.status, (await answer.json())["status"]) == (200, "ready")
    database.execute("ALTER TABLE messages RENAME COLUMN body TO other")
    await eventually(lambda: service.bridge.worker.status.phase == "paused")
    answer = await service.client.get("/readyz")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "no such column" in (await problem(answer))["detail"]
    assert (await service.client.get("/healthz")).status == 200


async def test_a_bridge_that_is_too_far_behind_is_not_ready(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it pushes is old then, though everything works; it is ready again when it has caught up."""
    service = await serve(max_behind_seconds=0.05, poll_interval=0.01)
    await eventually(lambda: service.bridge.worker.status.phase == "live")
    since = time.monotonic() - 1
    with monkeypatch.context() as patch:
        patch.setattr(Capture, "behind_since", since)
        await eventually(lambda: service.bridge.worker.status.behind_since == since)
        answer = await service.client.get("/readyz")
        assert answer.status == 503
        assert "still being looked for" in (await problem(answer))["detail"]
    await eventually(lambda: service.bridge.status.snapshot().is_ready)
    assert (await service.client.get("/readyz")).status == 200


async def test_a_lag_of_less_than_a_millisecond_is_not_none(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 says that nothing waits, which is what a script waits for before it compares."""
    service = await serve()
    now = service.bridge.status.snapshot()
    monkeypatch.setattr(service.bridge.status, "snapshot", lambda: replace(now, behind_seconds=0.0001))
    assert (await (await service.client.get("/readyz")).json())["lag_ms"] == 1
    assert (await (await service.client.get("/api/websocket-info")).json())["capture"]["lag_ms"] == 1


async def test_a_watcher_that_hangs_is_not_ready(serve: Serve) -> None:
    """It cannot say so itself: its silence does."""
    service = await serve(stall_seconds=0.2, poll_interval=0.01)
    assert (await service.client.get("/readyz")).status == 200
    hanging = threading.Event()
    service.bridge.capture.look = lambda **_: hanging.wait()  # type: ignore[method-assign]
    try:
        await eventually(lambda: not service.bridge.status.snapshot().is_ready)
        answer = await service.client.get("/readyz")
        assert answer.status == 503
        assert "no sign of life" in (await problem(answer))["detail"]
    finally:
        hanging.set()


async def test_a_watcher_that_looks_seldom_is_not_taken_for_one_that_hangs(serve: Serve) -> None:
    """It is silent for as long as it was told to sleep."""
    service = await serve(stall_seconds=0.05, poll_interval=1.0, inotify=False)
    for _ in range(30):
        assert service.bridge.status.snapshot().is_ready
        await asyncio.sleep(0.01)
    assert service.bridge.status.snapshot().beat_seconds > 0.1


async def test_metrics_are_in_the_text_format(serve: Serve) -> None:
    """With the figures of this service, also of connections that were closed and requests that were refused."""
    service = await serve()
    await service.client.get("/api/ws")
    async with service.client.ws_connect("/api/ws", headers={"X-Solana-PublicKey": "W"}):
        answer = await service.client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = (await answer.text()).splitlines()
    assert "walcast_ready 1.0" in lines
    assert "walcast_baseline_ratio 1.0" in lines
    assert 'walcast_refused_total{reason="missing_owner"} 1.0' in lines


async def test_the_sample_page_is_served(serve: Serve) -> None:
    """As HTML that is asked for anew each time."""
    service = await serve()
    answer = await service.client.get("/samples/websocket_client_example.html")
    assert (answer.status, answer.content_type, answer.headers["Cache-Control"]) == (200, "text/html", "no-cache")
    assert "/api/ws" in await answer.text()
