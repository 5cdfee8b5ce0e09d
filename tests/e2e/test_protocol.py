"""The plain protocol, frame by frame, and what a client may not do, as a client sees it on a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.e2e.clients import KEY_HEADER, WELCOME, aiohttp_link, subscriber, url_of
from tests.e2e.harness import SOON, Walcast, eventually, served
from tests.e2e.legacy_process import Legacy, legacy
from tests.e2e.raw import CLOSE, PING, RawSocket
from tests.e2e.situations import MAPPING, SCHEMA, message, task

WALLET = base58.b58encode(bytes(range(32))).decode()


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Legacy]:
    """A database for all servers of this file, and who writes to it."""
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    with legacy(folder / "legacy.db", SCHEMA, "WAL") as process:
        yield process


def _served(writer: Legacy, name: str, *options: object) -> Iterator[Walcast]:
    folder = writer.path.parent
    with served(writer.path, "--map", folder / "mapping.toml", *options, state=folder / f"{name}.state") as server:
        yield server


@pytest.fixture(scope="module")
def server(writer: Legacy) -> Iterator[Walcast]:
    """As the seed has it, for any owner."""
    yield from _served(
        writer, "plain", "--owner-format", "any", "--max-bad-frames", 5, "--max-frame-bytes", 4096,
        "--allowed-origins", "https://app.example,null", "--max-connections-per-owner", 3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def strict(writer: Legacy) -> Iterator[Walcast]:
    """Wallets only."""
    yield from _served(writer, "strict")


@pytest.fixture(scope="module")
def signed(writer: Legacy) -> Iterator[Walcast]:
    """Wallets that prove it."""
    yield from _served(writer, "signed", "--auth", "signed", "--signature-max-age", 60)


# -- frames


async def test_the_frames_are_the_seeds_and_carry_nothing_more(server: Walcast, writer: Legacy) -> None:
    """Field names, nesting and values, for a client of another library that asks for nothing."""
    async with subscriber(server, "p-anna", dial=aiohttp_link) as client:
        assert client.established == {
            "type": "connection_established", "message": WELCOME, "wallet_address": "p-anna",
        }  # fmt: skip
        writer.commit(
            message("p1", "p-anna", '{"parts": [{"type": "input_text", "text": "hi"}, {"kind": "file", "file": {}}]}')
        )
        assert await client.next() == {
            "type": "new_message",
            "conversation_id": "c",
            "message": {
                "id": "p1",
                "role": "user",
                "content": [{"type": "text", "text": "hi"}, {"kind": "file", "file": {}}],
            },
        }
        writer.commit(task("p-task", "p-anna"))
        assert await client.next() == {
            "type": "task_update",
            "conversation_id": "c",
            "task": {
                "id": "p-task",
                "sessionId": "c",
                "status": {"state": "working", "message": "going", "timestamp": "2026-01-01T00:00:00Z"},
                "history": [],
                "artifacts": [],
            },
        }


@pytest.mark.parametrize(
    "timestamp",
    ['"2026-01-01"', "5", "1.10", "1e3", "-0", "null", "true", '{"a": [1, {"b": null}]}', "[]",
     "123456789012345678901234567890", '"\\u00e9 é"'],
)  # fmt: skip
async def test_a_pong_echoes_the_very_timestamp(server: Walcast, timestamp: str) -> None:
    """Byte for byte, whatever JSON type it has."""
    async with subscriber(server, "pong") as client:
        await client.send(f'{{"type": "ping", "timestamp": {timestamp}}}')
        assert await client.raw() == f'{{"type":"pong","timestamp":{timestamp}}}'


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"), ("", "invalid_json"), ("[]", "not_an_object"), ("5", "not_an_object"),
        ("{}", "missing_type"), ('{"type": 5}', "missing_type"), ('{"type": "dance"}', "unknown_type"),
        ("[" * 2000, "not_an_object"),
    ],
)  # fmt: skip
async def test_an_invalid_frame_gets_an_error_and_the_connection_stays(server: Walcast, frame: str, code: str) -> None:
    """A code, a message, and the next ping is answered."""
    async with subscriber(server, "invalid") as client:
        await client.send(frame)
        answer = await client.next()
        assert answer.keys() == {"type", "code", "message"}
        assert (answer["type"], answer["code"]) == ("error", code)
        await client.send({"type": "ping", "timestamp": 1})
        assert await client.next() == {"type": "pong", "timestamp": 1}


async def test_too_many_invalid_frames_close_with_4008(server: Walcast) -> None:
    """As many as --max-bad-frames says."""
    async with subscriber(server, "bad") as client:
        for _ in range(4):
            await client.send("{")
            assert (await client.next())["type"] == "error"
        await client.send("{")
        assert await client.closed() == 4008


async def test_a_frame_that_is_too_big_closes_with_1009(server: Walcast) -> None:
    """Bigger than --max-frame-bytes."""
    async with subscriber(server, "big") as client:
        frame = json.dumps({"type": "ping", "timestamp": ""})
        just = frame.replace('""', f'"{"x" * (4096 - len(frame))}"')
        await client.send(just)
        assert (await client.next())["type"] == "pong"
        await client.send(just + " ")
        assert await client.closed() == 1009


async def test_one_connection_too_many_closes_with_4101(server: Walcast) -> None:
    """The others of the owner stay, and another owner is not concerned."""
    async with (
        subscriber(server, "many") as first, subscriber(server, "many"), subscriber(server, "many"),
        connect(url_of(server), additional_headers={KEY_HEADER: "many"}) as fourth, subscriber(server, "few"),
    ):  # fmt: skip
        await fourth.wait_closed()
        assert fourth.close_code == 4101
        await first.send({"type": "ping", "timestamp": 1})
        assert (await first.next())["type"] == "pong"


def test_a_frame_that_breaks_the_websocket_protocol_closes_with_1002(server: Walcast) -> None:
    """An opcode that does not exist."""
    with RawSocket(server, "broken") as raw:
        raw.frame()
        raw.send(3, b"")
        assert raw.close_code() == 1002


def test_a_control_ping_is_answered_and_a_close_is_echoed(server: Walcast) -> None:
    """With the same payload, and the same code."""
    with RawSocket(server, "control") as raw:
        raw.frame()
        raw.send(PING, b"abc")
        assert raw.frame() == (10, b"abc")
        raw.send(CLOSE, (1000).to_bytes(2))
        assert raw.close_code() == 1000


# -- who may connect


async def refused(server: Walcast, headers: dict[str, str], query: str = "") -> tuple[int, str]:
    """The status and the problem's code of a connection that is not let in."""
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(url_of(server, query), additional_headers=headers, open_timeout=SOON):
            pass
    response = refusal.value.response
    assert response.headers["Content-Type"].startswith("application/problem+json")
    problem = json.loads(response.body or b"")
    assert problem["status"] == response.status_code
    assert problem["detail"]
    return response.status_code, problem["code"]


@pytest.mark.parametrize("owner", [WALLET[:-2], WALLET + "11", "0OIl" * 11, "alice", "钱包", "1" * 500])
async def test_an_owner_that_is_not_base58_of_32_bytes_is_refused(strict: Walcast, owner: str) -> None:
    """401, with the reason."""
    assert await refused(strict, {}, f"publicKey={owner}") == (401, "bad_owner")


async def test_a_wallet_is_let_in_by_header_and_by_query(strict: Walcast) -> None:
    """Browsers cannot set headers."""
    async with subscriber(strict, WALLET):
        pass
    async with connect(url_of(strict, f"publicKey={WALLET}")) as socket:
        assert json.loads(await socket.recv())["wallet_address"] == WALLET


async def test_a_missing_owner_is_refused(strict: Walcast) -> None:
    """401."""
    assert await refused(strict, {}) == (401, "missing_owner")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1", "https://app.example.evil.example"])
async def test_a_foreign_origin_is_refused(server: Walcast, origin: str) -> None:
    """403 for a page that was not allowed."""
    assert await refused(server, {KEY_HEADER: "anna", "Origin": origin}) == (403, "origin")


@pytest.mark.parametrize("origin", ["https://app.example", "null", "own"])
async def test_an_allowed_origin_is_let_in(server: Walcast, origin: str) -> None:
    """The server's own, and those that were named."""
    headers = {KEY_HEADER: "origin", "Origin": f"http://{server.address}" if origin == "own" else origin}
    async with connect(url_of(server), additional_headers=headers) as socket:
        assert json.loads(await socket.recv())["type"] == "connection_established"


# -- signed

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
SIGNER = base58.b58encode(KEY.public_key().public_bytes_raw()).decode()


def proof(seconds: float = 30, key: Ed25519PrivateKey = KEY, signature: str | None = None) -> dict[str, str]:
    """The headers of a client whose signature expires in so many seconds."""
    nonce = str(int((time.time() + seconds) * 1000))
    return {
        KEY_HEADER: SIGNER,
        "X-Solana-Nonce": nonce,
        "X-Solana-Signature": signature or base64.b64encode(key.sign(nonce.encode())).decode(),
    }


async def test_a_signature_is_taken_by_header_and_by_query(signed: Walcast) -> None:
    """The same proof under its two names."""
    headers = proof()
    async with connect(url_of(signed), additional_headers=headers) as socket:
        assert json.loads(await socket.recv())["wallet_address"] == SIGNER
    quoted = headers["X-Solana-Signature"].replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    query = f"publicKey={SIGNER}&nonce={headers['X-Solana-Nonce']}&signature={quoted}"
    async with connect(url_of(signed, query)) as socket:
        assert json.loads(await socket.recv())["wallet_address"] == SIGNER


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (lambda: {KEY_HEADER: SIGNER}, "missing_signature"),
        (lambda: proof(-1), "expired"),
        (lambda: proof(600), "bad_nonce"),
        (lambda: proof() | {"X-Solana-Nonce": "soon"}, "bad_nonce"),
        (lambda: proof() | {"X-Solana-Nonce": str(int((time.time() + 31) * 1000))}, "bad_signature"),
        (lambda: proof(key=Ed25519PrivateKey.generate()), "bad_signature"),
        (lambda: proof(signature=base64.b64encode(bytes(63)).decode()), "bad_signature"),
        (lambda: proof(signature="!!!"), "bad_signature"),
        (lambda: proof() | {KEY_HEADER: WALLET}, "bad_signature"),
    ],
    ids=["none", "expired", "far ahead", "no time", "other nonce", "other key", "short", "no base64", "other wallet"],
)  # fmt: skip
async def test_a_proof_that_does_not_hold_is_refused(signed: Walcast, headers: object, code: str) -> None:
    """401, with the reason."""
    assert callable(headers)
    assert await refused(signed, headers()) == (401, code)


# -- slow, dead and many


async def test_a_client_that_stops_reading_is_cut_and_delays_nobody(writer: Legacy) -> None:
    """4100 for it; a reading client of the same owner gets everything."""
    folder = writer.path.parent
    options = ("--owner-format", "any", "--outbox-bytes", 65536, "--close-grace", 50)
    with (
        served(writer.path, "--map", folder / "mapping.toml", *options, state=folder / "slow.state") as server,
        RawSocket(server, "s-anna", buffer=4096) as slow,
    ):
        async with subscriber(server, "s-anna") as reader:
            for number in range(120):
                writer.commit(message(f"s{number}", "s-anna", "x" * 100_000))
                assert (await reader.next())["message"]["id"] == f"s{number}"
            assert server.metric('walcast_closed_total{code="4100"}') == 1
            assert slow.close_code() == 4100


async def test_a_peer_that_is_silent_is_noticed_and_one_that_answers_is_kept(writer: Legacy) -> None:
    """Two heartbeats without a sign of life; a client that answers pings may be silent otherwise."""
    folder = writer.path.parent
    options = ("--owner-format", "any", "--heartbeat", 0.5)
    with served(writer.path, "--map", folder / "mapping.toml", *options, state=folder / "dead.state") as server:
        async with subscriber(server, "h-anna") as alive:
            with RawSocket(server, "h-dead") as dead:
                assert server.get("/api/websocket-info").json["active_connections"] == 2
                await eventually(
                    lambda: bool(server.get("/api/websocket-info").json["active_connections"] == 1), "it is cut"
                )
                assert dead.close_code() is None
            writer.commit(message("h1", "h-anna"))
            assert (await alive.next())["message"]["id"] == "h1"


async def test_an_end_as_asked_closes_with_1001_within_a_second(writer: Legacy) -> None:
    """For who answers the close and who does not; exit code 0."""
    folder = writer.path.parent
    options = ("--owner-format", "any", "--map", folder / "mapping.toml")
    took: list[float] = []
    while min(took, default=SOON) > 1 and len(took) < 3:  # a busy machine may need more than one try
        with served(writer.path, *options, state=folder / "end.state") as server:
            async with subscriber(server, "anna") as client, subscriber(server, "bert", dial=aiohttp_link) as other:
                with RawSocket(server, "mute") as mute:
                    begun = time.monotonic()
                    server.signal()
                    assert list(await asyncio.gather(client.closed(), other.closed())) == [1001, 1001]
                    assert mute.close_code() == 1001
                    took.append(time.monotonic() - begun)
                    assert server.wait() == 0
    assert min(took) <= 1


async def test_too_many_frames_per_second_close_with_4102(writer: Legacy) -> None:
    """On average, with a burst of two seconds' worth."""
    folder = writer.path.parent
    options = ("--owner-format", "any", "--max-frames-per-second", 5)
    with served(writer.path, "--map", folder / "mapping.toml", *options, state=folder / "rate.state") as server:
        async with subscriber(server, "fast") as client:
            for _ in range(20):
                await client.send({"type": "ping", "timestamp": 1})
            assert await client.closed() == 4102
