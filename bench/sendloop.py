"""The floor of fan-out: one `send` of ready bytes to each of many sockets, and nothing else."""

from __future__ import annotations

import socket
import sys
import time

from bench.peer import orders, reply, whole


def main(count: str) -> None:
    """Take so many connections, then send as ordered: `lines` lines to each, in one write, `times` times over."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    reply(port=listener.getsockname()[1])
    sockets = [listener.accept()[0] for _ in range(int(count))]
    for order in orders():
        data = (b"x" * 289 + b"\n") * whole(order, "lines")
        took = 0.0
        for _ in range(whole(order, "times")):
            began = time.process_time()
            for peer in sockets:
                peer.sendall(data)
            took += time.process_time() - began
            time.sleep(0.02)
        reply(cpu=took)


if __name__ == "__main__":
    main(*sys.argv[1:])
