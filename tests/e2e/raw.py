"""A socket that speaks just enough WebSocket to misbehave."""

from __future__ import annotations

import base64
import os
import socket
from types import TracebackType

from tests.e2e.clients import KEY_HEADER
from tests.e2e.harness import SOON, Walcast

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class RawSocket:
    """Blocking; reads only when told to, and answers nothing by itself."""

    def __init__(self, server: Walcast, owner: str, query: str = "", buffer: int | None = None) -> None:
        assert server.port is not None
        self._socket = socket.socket()
        self._socket.settimeout(SOON)
        if buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.connect(("127.0.0.1", server.port))
        self._read = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /api/ws?{query} HTTP/1.1\r\nHost: {server.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{KEY_HEADER}: {owner}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._read:
            assert self._fill()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _fill(self) -> bool:
        try:
            piece = self._socket.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        self._read += piece
        return bool(piece)

    def frame(self) -> tuple[int, bytes] | None:
        """(opcode, payload) of the next frame; None at the end of the connection."""
        size = self._take(2)
        if size is None:
            return None
        opcode, length = size[0] & 15, size[1]
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8) or b"")
        payload = self._take(length)
        return None if payload is None else (opcode, payload)

    def _take(self, size: int) -> bytes | None:
        while len(self._read) < size:
            if not self._fill():
                return None
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def send(self, opcode: int, payload: bytes, *, masked: bool = True) -> None:
        """A whole frame, masked with zeros as a client's have to be."""
        bit = 0x80 if masked else 0
        size = len(payload)
        head = bytes((0x80 | opcode,))
        if size < 126:
            head += bytes((bit | size,))
        else:
            head += bytes((bit | 127,)) + size.to_bytes(8)
        self._socket.sendall(head + (bytes(4) if masked else b"") + payload)

    def close_code(self) -> int | None:
        """Read on to the end; the code of the server's close frame, None if the connection was cut."""
        code = None
        while (frame := self.frame()) is not None:
            if frame[0] == CLOSE:
                code = int.from_bytes(frame[1][:2])
                break
        return code
