"""What one client that does not read costs the others: their delay with it and without it, by turns in one run."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from bench import data
from bench.lab import Clients, Lab, Writer
from bench.peer import stamp_list, stamps
from bench.served import Served
from bench.stats import Figure, percentile, ratios, spread
from bench.wire import upgrade

RATE = 20
FLOOD, PER_COMMIT = 115, 100
"""Commits, and messages of each, for the stalled client alone before the delay is measured. They are 3.3 MB: the kernel
takes 2.8 MB for who does not read, then the transport's buffer is filled, and the rest waits in the outbox."""
BUFFER = 4096
OWNER = "owner-stalled"


def prepare(database: Path, size: int) -> None:
    """Conversations of the stalled client alone, and of it and the crowd."""
    data.add_conversation(database, "flood", OWNER)
    data.add_conversation(database, "shared", json.dumps([f"owner-{size}", OWNER]))


@contextmanager
def stalled(port: int) -> Iterator[None]:
    """A subscriber that is welcomed and never reads again."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        client.settimeout(30)
        client.connect(("127.0.0.1", port))
        client.sendall(upgrade(port, OWNER))
        if b" 101 " not in client.recv(200, socket.MSG_WAITALL):
            raise RuntimeError("the upgrade of the stalled client was refused")
        yield


def figures(lab: Lab, bridge: Served, writer: Writer, clients: Clients, size: int) -> list[Figure]:
    """The p99 of `size` clients of one owner, who are connected, in pairs that change places."""
    without: list[float] = []
    beside: list[float] = []
    for number in range(lab.scale.fanout_rounds):
        for is_beside in (False, True) if number % 2 == 0 else (True, False):
            with stalled(bridge.port) if is_beside else nullcontext():
                delays = _delays(lab, bridge, writer, clients, size)
            (beside if is_beside else without).append(percentile(delays, 0.99))
    who, what = f"{size:,} subscribers, one message a commit: p99", "beside one that does not read"
    return [
        Figure(who, "ms", spread(without)),
        Figure(f"{who} {what}", "ms", spread(beside)),
        Figure(f"{who} {what}, as a multiple of that without", "×", ratios(beside, without), headline=True),
    ]


def _delays(lab: Lab, bridge: Served, writer: Writer, clients: Clients, size: int) -> list[float]:
    """Milliseconds from each commit to each client. Raises RuntimeError if anybody is cut off meanwhile."""
    before = _connections(bridge)
    writer.write(count=FLOOD, conversation="flood", per_commit=PER_COMMIT)
    clients.reset()
    writer.write(count=1, conversation="shared")
    clients.wait(size)  # what was before it is done; with an outbox that waits the bridge is never quite at rest
    clients.reset(stamps=True)
    committed = stamps(writer.write(count=lab.scale.singles, rate=RATE, conversation="shared", stamps=True))
    received = stamp_list(clients.wait(lab.scale.singles * size))
    if _connections(bridge) != before:
        raise RuntimeError("a client was cut off, the stalled one or another")
    return [(when - committed[mark]) / 1e6 for mark, when in received]


def _connections(bridge: Served) -> object:
    return bridge.get("/api/websocket-info")[1]["active_connections"]
