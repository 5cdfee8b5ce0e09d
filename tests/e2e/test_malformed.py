"""What is no HTTP: refused, counted, and no defect in the log; the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import SOON, Walcast
from tests.e2e.legacy_process import legacy
from tests.e2e.situations import MAPPING, SCHEMA

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
MALFORMED = {
    "garbage": b"\x00\xff\xfe\x01SECRET\r\n\r\n",
    "a TLS ClientHello": bytes.fromhex("16030100f8010000f40303") + b"SECRET" * 30,
    "another protocol": b"SSH-2.0-SECRET\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version that there is not": b"GET /SECRET HTTP/9.9\r\nHost: x\r\n\r\n",
    "an address that is none": b"GET http://[SECRET HTTP/1.1\r\nHost: x\r\n\r\n",
    "a byte that no address has": b"GET /SECRET\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\nX: SECRET\r\n\r\n",
    "a header that is none": GET + b"SECRET is no header\r\n\r\n",
    "a zero byte in a header": GET + b"Authorization: SECRET\x00\r\n\r\n",
    "a header that is too long": GET + b"Authorization: " + b"SECRET" * 4000 + b"\r\n\r\n",
    "too many headers": GET + b"".join(b"X-%d: SECRET\r\n" % number for number in range(5000)) + b"\r\n",
    "an address that is too long": b"GET /" + b"SECRET" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length that is no number": GET + b"Content-Length: SECRET\r\n\r\n",
    "chunks that are none": GET + b"Transfer-Encoding: chunked\r\n\r\nSECRET\r\n",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Walcast]:
    """It logs all it can."""
    (tmp_path / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    server = Walcast(
        tmp_path / "legacy.db", "--map", tmp_path / "mapping.toml", "--owner-format", "any", "--log-level", "debug"
    )
    with legacy(server.database, SCHEMA, "WAL"):
        try:
            yield server.start()
        finally:
            server.kill()


def answer(server: Walcast, sent: bytes, *, after: bytes = b"") -> bytes:
    """All that is answered, to the end of the connection; `after` is a request that is answered before."""
    assert server.port is not None
    with socket.create_connection(("127.0.0.1", server.port), SOON) as peer:
        if after:
            peer.sendall(after)
            assert peer.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        peer.sendall(sent)
        read = b""
        while True:
            try:
                piece = peer.recv(1 << 16)
            except ConnectionResetError:  # it closed with more from us unread
                return read
            if not piece:
                return read
            read += piece


def test_what_is_no_http_is_refused_in_one_line(server: Walcast) -> None:
    """400 and a code; one line with address and reason, none of what was sent, no traceback; and each is counted."""
    for number, (name, sent) in enumerate(MALFORMED.items(), 1):
        head, _, body = answer(server, sent).partition(b"\r\n\r\n")
        assert head.split()[1] == b"400", name
        assert json.loads(body)["code"] == "malformed", name
        assert server.metric('walcast_refused_total{reason="malformed"}') == number, name
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert "SECRET" not in log
    assert log.count("the request cannot be read: ") == log.count(", from 127.0.0.1") == len(MALFORMED)
    assert server.get("/healthz").status == 200


def test_garbage_after_a_request_is_refused_like_any(server: Walcast) -> None:
    """On one connection: the first is answered, and what follows is refused."""
    for name in ("garbage", "a TLS ClientHello", "a header that is none"):
        assert b'"code": "malformed"' in answer(server, MALFORMED[name], after=GET + b"\r\n"), name
    assert "Traceback" not in server.log.read_text()


def test_a_body_that_cannot_be_unpacked_is_no_defect(server: Walcast) -> None:
    """Nobody asked for it, so the request itself is answered."""
    sent = GET + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\nSECRET"
    assert answer(server, sent).startswith(b"HTTP/1.1 200 ")
    assert server.metric('walcast_refused_total{reason="malformed"}') == 1
    log = server.log.read_text()
    assert "the request cannot be read: bad body" in log
    assert "Traceback" not in log
