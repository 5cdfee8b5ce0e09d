"""Frames that other libraries can read, and frames of clients that may be anything."""

import json
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from bridge import protocol
from bridge.protocol import BadFrame, Close, Cursor, Recovery, parse_request
from storage.types import Event

CURSOR = Cursor("e1", 7)


def read(data: bytes) -> Frame:
    """One frame through the parser of another library; nothing may be left over."""
    reader = StreamReader()
    reader.feed_data(data)
    none: list[Extension] = []
    parser: Generator[None, None, Frame] = Frame.parse(reader.read_exact, mask=False, max_size=1 << 22, extensions=none)
    with pytest.raises(StopIteration) as stopped:
        next(parser)
    frame = stopped.value.value
    assert isinstance(frame, Frame)
    assert not reader.buffer
    return frame


def said(data: bytes) -> Any:
    frame = read(data)
    assert (frame.opcode, frame.fin) == (Opcode.TEXT, True)
    return json.loads(bytes(frame.data))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 1 << 20])
def test_a_text_frame_of_any_size_is_read_by_another_library(size: int) -> None:
    """Each of the three forms of the length, on both sides of each border."""
    frame = read(protocol.text_frame(b"x" * size))
    assert (frame.opcode, frame.fin, len(frame.data)) == (Opcode.TEXT, True, size)
    assert set(bytes(frame.data)) <= {ord("x")}


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_pong_carries_the_payload_of_its_ping(size: int) -> None:
    """RFC 6455 section 5.5.3."""
    frame = read(protocol.pong_frame(b"p" * size))
    assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"p" * size)
    assert read(protocol.PING_FRAME).opcode is Opcode.PING


def test_the_first_frame_is_the_seeds_and_no_more() -> None:
    """Who asked for nothing gets nothing more."""
    assert said(protocol.established("W")) == {
        "type": "connection_established",
        "message": "WebSocket连接已成功建立",
        "wallet_address": "W",
    }


def test_the_first_frame_of_a_resuming_client_says_how_it_went() -> None:
    """Recovered with a count, or not, with the reason, the cursor of now and where to fetch."""
    plain = said(protocol.established("W"))
    assert said(protocol.established("W", CURSOR)) == plain | {"cursor": "e1:7"}
    assert said(protocol.established("W", CURSOR, Recovery(CURSOR, replayed=3))) == plain | {
        "cursor": "e1:7",
        "recovered": True,
        "replayed": 3,
    }
    assert said(protocol.established("W", CURSOR, Recovery(CURSOR, reason="epoch_changed"))) == plain | {
        "cursor": "e1:7",
        "recovered": False,
        "reason": "epoch_changed",
        "refetch": "/api/conversations",
    }


def test_an_event_is_its_body_and_a_resumable_one_has_two_cursors_more() -> None:
    """The same event, its own cursor, and that of the event before it."""
    event = Event(9, "new_message", "c", "m", '{"type":"new_message","a":"你"}'.encode(), (("W", 4),))
    assert read(protocol.event_frame(event)).data == event.body
    assert said(protocol.resumable_event_frame(event, "e1", 4)) == {
        "type": "new_message",
        "a": "你",
        "cursor": "e1:9",
        "prev": "e1:4",
    }


@pytest.mark.parametrize(
    "raw",
    [
        "1",
        "1.0",
        "1e3",
        "12345678901234567890123",
        '"x"',
        '"\\u4f60"',
        "null",
        "true",
        '{ "a" : [1 , 2] }',
        "-0.0",
        "[]",
    ],
)
def test_a_pong_has_the_very_timestamp(raw: str) -> None:
    """Byte for byte, whatever JSON type it had: 1.0 is not 1, and a big integer loses no digit."""
    kind, fields = parse_request('{"type": "ping", "timestamp": ' + raw + "}")
    assert kind == "ping"
    assert read(protocol.pong(fields["timestamp"], None)).data == b'{"type":"pong","timestamp":' + raw.encode() + b"}"
    assert said(protocol.pong(fields["timestamp"], CURSOR))["cursor"] == "e1:7"


def test_other_keys_of_a_ping_are_left_alone() -> None:
    """A client may say more than we know."""
    assert parse_request('{"id": [1], "type": "ping"}')[0] == "ping"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("ping", "invalid_json"),
        ('{"type": "ping"} x', "invalid_json"),
        ("[]", "not_an_object"),
        ("1", "not_an_object"),
        ("null", "not_an_object"),
        ('"ping"', "not_an_object"),
        ("{}", "missing_type"),
        ('{"type": 1}', "missing_type"),
        ('{"type": null}', "missing_type"),
        ('{"timestamp": 1}', "missing_type"),
        ('{"type": {"type": "ping"}}', "missing_type"),
        ('{"type": "subscribe!"}', "unknown_type"),
        ('{"type": ""}', "unknown_type"),
        ('{"type": "PING"}', "unknown_type"),
        pytest.param("[" * 60_000, "not_an_object", id="deep list"),
        pytest.param(
            '{"type": "ping", "timestamp": ' + "[" * 30_000 + "]" * 30_000 + "}", "invalid_json", id="deep timestamp"
        ),
        pytest.param('{"type": ' + "[" * 30_000 + "]" * 30_000 + "}", "invalid_json", id="deep type"),
    ],
)
def test_a_frame_that_is_not_valid_has_a_code(text: str, code: str) -> None:
    """The error frame itself is one that any client can read."""
    with pytest.raises(BadFrame) as caught:
        parse_request(text)
    assert caught.value.code == code
    answer = said(protocol.error(caught.value.code, str(caught.value)))
    assert (answer["type"], answer["code"]) == ("error", code)


def test_depth_at_the_limit_is_a_bad_frame_like_any_other() -> None:
    """The type is looked into after the frame was taken apart: no depth gets through the one and breaks the other."""
    for depth in range(sys.getrecursionlimit() - 120, sys.getrecursionlimit() + 20):
        with pytest.raises(BadFrame):
            parse_request('{"type": ' + "[" * depth + "]" * depth + "}")


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)).map(
        json.dumps
    )
    | st.text().map(lambda kind: json.dumps({"type": kind}))
)
def test_whatever_a_client_says_is_a_request_or_a_bad_frame(text: str) -> None:
    """Nothing else comes out, and the answer can be encoded."""
    try:
        kind, fields = parse_request(text)
    except BadFrame as bad:
        said(protocol.error(bad.code, str(bad)))
    else:
        assert kind in protocol.CLIENT_TYPES
        json.loads(protocol.pong(fields.get("timestamp", b"null"), None)[2:] if len(text) < 90 else b"1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "e",
        "e:",
        ":1",
        "e:-1",
        "e:x",
        "e:1.0",
        "e:١",
        "e: 1",
        "e:1:2",
        "e:" + "9" * 19,
        "e:" + "9" * 5000,
        "e:²",
    ],
)
def test_what_is_no_cursor_is_none(text: str) -> None:
    """A made-up cursor never raises; digits of other scripts are no digits."""
    assert Cursor.parse(text) is None


@given(st.text(alphabet="0123456789abcdef", min_size=1), st.integers(0, 10**18 - 1))
def test_a_cursor_comes_back_from_its_text(epoch: str, seq: int) -> None:
    """`epoch:seq`."""
    assert Cursor.parse(str(Cursor(epoch, seq))) == Cursor(epoch, seq)


def test_close_codes_keep_to_their_families() -> None:
    """40xx: do not reconnect, 41xx: with back-off, 42xx: now; no other code beyond the standard's own."""
    assert {int(code) // 100 for code in Close} == {10, 40, 41, 42}
    assert (Close.TOO_SLOW, Close.TOO_MANY, Close.RATE, Close.BAD_FRAMES, Close.GOING_AWAY) == (
        4100,
        4101,
        4102,
        4008,
        1001,
    )
