"""The wire protocol as pure functions: objects to frames, frames to requests. The one table of close codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from bridge.decide import encode
from bridge.filters import EVENT_TYPES
from storage.types import Event

WELCOME = "WebSocket连接已成功建立"
SERVER_TYPES = ("connection_established", *EVENT_TYPES, "pong", "error")
"""What is sent; of the events, the first two unless others are asked for."""
CLIENT_TYPES = ("ping", "subscribe", "unsubscribe")


class Close(IntEnum):
    """Close codes. 40xx: do not reconnect. 41xx: reconnect with back-off. 42xx: reconnect now."""

    GOING_AWAY = 1001
    TOO_BIG = 1009
    INTERNAL = 1011
    BAD_REQUEST = 4000
    AUTHENTICATION_FAILED = 4001
    NOT_ALLOWED = 4003
    BAD_FRAMES = 4008
    TOO_SLOW = 4100
    TOO_MANY = 4101
    RATE = 4102
    RESTART = 4200


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the event log: `epoch:seq`."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """A cursor from its text, None if it is none."""
        epoch, colon, seq = text.partition(":")
        is_number = seq.isascii() and seq.isdigit() and len(seq) < 19
        return cls(epoch, int(seq)) if colon and epoch and is_number else None


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a resume went. `reason` is None when it recovered."""

    cursor: Cursor
    replayed: int = 0
    reason: str | None = None


def text_frame(payload: bytes) -> bytes:
    """A whole unmasked text frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def pong_frame(payload: bytes) -> bytes:
    """The answer to a control ping; its payload is at most 125 bytes."""
    return bytes((0x8A, len(payload))) + payload


PING_FRAME = b"\x89\x00"
"""An empty ping, the same for everybody."""


def established(owner: str, cursor: Cursor | None = None, recovery: Recovery | None = None) -> bytes:
    """The first frame. `cursor` only for who asked to resume, `recovery` only for who gave a cursor."""
    message: dict[str, object] = {"type": "connection_established", "message": WELCOME, "wallet_address": owner}
    if recovery is not None and recovery.reason is not None:
        message |= {"recovered": False, "reason": recovery.reason, "refetch": "/api/conversations"}
    elif recovery is not None:
        message |= {"recovered": True, "replayed": recovery.replayed}
    if cursor is not None:
        message["cursor"] = str(cursor)
    return text_frame(encode(message))  # type: ignore[arg-type]


def event_frame(event: Event) -> bytes:
    """An event exactly as the seed has it."""
    return text_frame(event.body)


def resumable_body(event: Event, epoch: str, prev: int) -> bytes:
    """The same object with its own cursor and that of the event before it for this owner."""
    return b'%s,"cursor":"%s:%d","prev":"%s:%d"}' % (event.body[:-1], epoch.encode(), event.seq, epoch.encode(), prev)


def resumable_event_frame(event: Event, epoch: str, prev: int) -> bytes:
    """That object as a frame."""
    return text_frame(resumable_body(event, epoch, prev))


Form = Callable[[Event, str, int], bytes]
"""How an event is put for a kind of client: (event, epoch, sequence number of the one before it) to bytes."""


def plain_form(event: Event, _epoch: str, _prev: int) -> bytes:
    """For a client that asked for nothing."""
    return event_frame(event)


resumable_form: Form = resumable_event_frame


def pong(timestamp: bytes, cursor: Cursor | None) -> bytes:
    """The answer to a ping, with its timestamp as it was written, byte for byte."""
    tail = b"}" if cursor is None else b',"cursor":"%s"}' % str(cursor).encode()
    return text_frame(b'{"type":"pong","timestamp":' + timestamp + tail)


def error(code: str, message: str) -> bytes:
    """The answer to a frame that is not valid."""
    return text_frame(encode({"type": "error", "code": code, "message": message}))


class BadFrame(ValueError):
    """A frame that is not valid. `code` is one of the documented error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_request(text: str) -> tuple[str, dict[str, bytes]]:
    """(type, raw JSON of each key) of a client's frame. Raises BadFrame."""
    try:
        fields = {name: bytes(raw) for name, raw in _decoder.decode(text).items()}
    except msgspec.ValidationError as failure:
        raise BadFrame(
            "not_an_object", 'a frame is a JSON object, such as {"type": "ping", "timestamp": 1}'
        ) from failure
    except (msgspec.DecodeError, UnicodeError, RecursionError) as failure:
        raise BadFrame("invalid_json", f"the frame is not JSON: {failure}") from failure
    kind = msgspec.json.decode(fields["type"]) if "type" in fields else None
    if not isinstance(kind, str):
        raise BadFrame("missing_type", 'the frame has no "type"')
    if kind not in CLIENT_TYPES:
        raise BadFrame("unknown_type", f'unknown type "{kind[:64]}"; known: {", ".join(CLIENT_TYPES)}')
    return kind, fields


def conversation_of(fields: dict[str, bytes]) -> str:
    """The conversation that a frame names. A number is taken as the id it is pushed as. Raises BadFrame."""
    value = msgspec.json.decode(fields["conversation_id"]) if "conversation_id" in fields else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadFrame("bad_conversation_id", 'the frame has no "conversation_id", or it is not a string')
    return str(value)
