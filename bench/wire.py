"""Just enough of WebSocket for a client that is cheaper than the server: an upgrade by hand, and counting frames."""

from __future__ import annotations

from dataclasses import dataclass

TEXT, CLOSE, PING = 0x1, 0x8, 0x9
PONG_FRAME = b"\x8a\x80\x00\x00\x00\x00"
"""An empty pong, masked with zeros."""


def upgrade(port: int, owner: str, query: str = "") -> bytes:
    """The request that opens a socket for an owner."""
    return (
        f"GET /api/ws{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"X-Solana-PublicKey: {owner}\r\n\r\n"
    ).encode()


@dataclass(slots=True)
class Seen:
    """What one chunk of bytes brought to an end or began."""

    texts: int = 0
    pings: int = 0
    closes: int = 0


class Frames:
    """Counts frames by their headers, wherever the chunks are cut; payloads are skipped unread."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Seen:
        """Count a frame when its last byte is there."""
        seen = Seen()
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while True:
            size = _frame_size(data, at)
            if size == 0 or at + size > end:
                break
            opcode = data[at] & 0x0F
            seen.texts += opcode == TEXT
            seen.pings += opcode == PING
            seen.closes += opcode == CLOSE
            at += size
        self._rest = data[at:]
        return seen


def _frame_size(data: bytes, at: int) -> int:
    """Header and payload of the unmasked frame that begins here; 0 if its header is not there yet."""
    left = len(data) - at
    if left < 2:
        return 0
    size = data[at + 1] & 0x7F
    if size < 126:
        return 2 + size
    width = 2 if size == 126 else 8
    if left < 2 + width:
        return 0
    return 2 + width + int.from_bytes(data[at + 2 : at + 2 + width], "big")
