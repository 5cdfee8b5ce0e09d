"""One connection: what is our own defect is logged whole."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from bridge.metrics import Metrics
from handlers.peer import Peer, reason_of


async def test_an_error_of_ours_is_still_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """500 and the traceback, wherever it got past what catches the errors of handlers."""

    async def fails(_: web.BaseRequest) -> web.StreamResponse:
        raise RuntimeError("a defect")

    manager, metrics = web.Server(fails), Metrics()
    listener = await asyncio.get_running_loop().create_server(lambda: Peer(manager, metrics), "127.0.0.1", 0)
    try:
        port = listener.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 500
    finally:
        listener.close()
        await manager.shutdown(1)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a defect"


@pytest.mark.parametrize(
    "error",
    [
        BadHttpMessage("Invalid header token:\n\n  b'SECRET'\n    ^"),
        BadStatusLine("SECRET"),
        BadHttpMethod("SECRET"),
        InvalidHeader(b"SECRET"),
        InvalidURLError("SECRET"),
        LineTooLong(b"SECRET", 8190),
        web.RequestPayloadError("SECRET"),
    ],
)
def test_a_reason_holds_nothing_of_what_was_sent(error: Exception) -> None:
    """Neither from the parser in C nor from the one in Python."""
    reason = reason_of(error)
    assert reason
    assert "SECRET" not in reason
    assert "\n" not in reason
