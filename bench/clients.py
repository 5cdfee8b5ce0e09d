"""Many cheap subscribers in a process of their own: raw sockets, frames counted by their headers, arrivals stamped."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.peer import Message, real, reply, whole
from bench.wire import PONG_FRAME, Frames, upgrade

MARK = re.compile(rb"#(\d+)#")
CHUNK = 1 << 18


@dataclass(slots=True)
class Client:
    """One connection. `welcomed` once the first frame, which is not counted, has come."""

    socket: socket.socket
    frames: Frames | None
    head: bytes = b""
    upgraded: bool = False
    welcomed: bool = False


@dataclass(slots=True)
class Tally:
    """Since the last `reset`. Times are time.monotonic_ns()."""

    frames: int = 0
    first: int = 0
    last: int = 0
    lost: int = 0
    stamps: list[tuple[int, int]] = field(default_factory=list)


class Crowd:
    """All connections, and the one order that may be waiting for its answer."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._waiting: Callable[[], bool] | None = None
        self._deadline = 0.0
        self._began = 0
        self._welcomed = 0
        self._tally = Tally()
        self._stamping = False

    # -- orders

    def obey(self, order: Message) -> None:
        """Carry out one order; `open` and `wait` are answered when they are done."""
        match order["op"]:
            case "open":
                self._open(order)
            case "wait":
                frames = whole(order, "frames")
                self._await(lambda: self._tally.frames >= frames or not self._clients, real(order, "patience"))
            case "reset":
                self._tally, self._stamping = Tally(), bool(order["stamps"])
                reply(open=len(self._clients))
            case "close":
                for client in list(self._clients.values()):
                    self._drop(client)
                self._tally = Tally()
                reply(open=0)

    def _open(self, order: Message) -> None:
        port, count = whole(order, "port"), whole(order, "count")
        self._stamping = bool(order["stamps"])
        self._began = time.monotonic_ns()
        self._welcomed = 0
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            is_plain = bool(order["plain"])
            if not is_plain:
                connection.sendall(upgrade(port, str(order["owner"]), str(order["query"])))
            connection.setblocking(False)
            client = Client(connection, None if is_plain else Frames(), b"", is_plain, is_plain)
            self._clients[connection.fileno()] = client
            self._welcomed += is_plain
            self._poll.register(connection.fileno(), select.EPOLLIN)
        self._await(lambda: self._welcomed >= count or bool(self._tally.lost), 60)

    def _await(self, done: Callable[[], bool], patience: float) -> None:
        self._waiting, self._deadline = done, time.monotonic() + patience

    def answer_if_done(self) -> None:
        """Answer the order that waits, if what it waits for is there or its time is up."""
        if self._waiting is not None and (self._waiting() or time.monotonic() > self._deadline):
            self._waiting = None
            tally = self._tally
            reply(
                frames=tally.frames, began=self._began, first=tally.first, last=tally.last, lost=tally.lost,
                open=len(self._clients), stamps=tally.stamps,
            )  # fmt: skip

    # -- sockets

    def turn(self) -> bool:
        """Wait for something and take it in; whether standard input has something to say."""
        told = False
        for descriptor, _ in self._poll.poll(0.2 if self._waiting is not None else None):
            if descriptor == 0:
                told = True
            elif (client := self._clients.get(descriptor)) is not None:
                self._read(client)
        return told

    def _read(self, client: Client) -> None:
        try:
            data = client.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            self._tally.lost += 1
            self._drop(client)
            return
        if not client.upgraded:
            data = self._upgraded(client, data)
        self._count(client, data, now)

    def _upgraded(self, client: Client, data: bytes) -> bytes:
        client.head += data
        head, end, rest = client.head.partition(b"\r\n\r\n")
        if not end:
            return b""
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"the upgrade was refused: {client.head[:300]!r}")
        client.upgraded = True
        return rest

    def _count(self, client: Client, data: bytes, now: int) -> None:
        if client.frames is None:
            texts = data.count(b"\n")
        else:
            seen = client.frames.feed(data)
            texts = seen.texts
            if seen.pings:
                client.socket.send(PONG_FRAME)
        if texts and not client.welcomed:
            client.welcomed, texts = True, texts - 1
            self._welcomed += 1
        if texts:
            tally = self._tally
            tally.first, tally.last, tally.frames = tally.first or now, now, tally.frames + texts
        if self._stamping:
            self._tally.stamps.extend((int(mark), now) for mark in MARK.findall(data))

    def _drop(self, client: Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        self._poll.unregister(client.socket.fileno())
        client.socket.close()

    def listen_to(self, descriptor: int) -> None:
        """Wake when a descriptor is readable."""
        self._poll.register(descriptor, select.EPOLLIN)


def main() -> None:
    """Obey until there are no more orders."""
    crowd, rest = Crowd(), b""
    crowd.listen_to(0)
    while True:
        if crowd.turn():
            data = os.read(0, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                crowd.obey(json.loads(line))
        crowd.answer_if_done()


if __name__ == "__main__":
    main()
