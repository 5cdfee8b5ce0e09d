"""A client that comes back: how long the replay of what it missed takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench.lab import Clients, Lab, Writer
from bench.peer import whole
from bench.served import Served
from bench.stats import Figure, Report, spread

PER_COMMIT = 100


@dataclass(slots=True)
class Seen:
    """Round by round."""

    first: list[float] = field(default_factory=list)
    """Milliseconds from the beginning of the connect to the first replayed event."""
    last: list[float] = field(default_factory=list)
    """The same to the last one."""
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the server's processor time per event."""
    live: list[float] = field(default_factory=list)
    """Milliseconds from the beginning of the writing until all were in the log."""


def run(lab: Lab) -> Report:
    """The events are written while nobody is connected, then one client resumes from before them."""
    lab.say("resume")
    events = lab.scale.resume_events
    seen, database = Seen(), lab.database(100)
    with lab.bridge(database) as bridge, lab.writer(database) as writer, lab.clients() as clients:
        bridge.learn_idle(lab.scale.idle_seconds / 10)
        for _ in range(lab.scale.resume_rounds):
            _round(bridge, writer, clients, events, seen)
        mode = bridge.mode()
    figures = (
        Figure(f"{events:,} events, connect to the first event", "ms", spread(seen.first)),
        Figure(f"{events:,} events, connect to the last event", "ms", spread(seen.last), headline=True),
        Figure("server CPU per replayed event", "µs", spread(seen.cpu)),
        Figure(f"{events:,} events taken in, {PER_COMMIT} a commit: all are in the log", "ms", spread(seen.live)),
    )  # fmt: skip
    return Report("Resume", figures, (f"capture mode {mode}",))


def _round(bridge: Served, writer: Writer, clients: Clients, events: int, seen: Seen) -> None:
    since = bridge.cursor()
    epoch, _, seq = since.partition(":")
    began = time.monotonic()
    writer.write(count=-(-events // PER_COMMIT), per_commit=min(events, PER_COMMIT))
    target = f"{epoch}:{int(seq) + events}"
    while bridge.cursor() != target:
        if time.monotonic() - began > 120:
            raise RuntimeError(f"the log is at {bridge.cursor()}, {target} is due")
        time.sleep(0.01)
    seen.live.append((time.monotonic() - began) * 1000)
    clients.reset()
    before = bridge.await_rest()
    opened = clients.open(bridge.port, query=f"?since={since}")
    arrived = clients.wait(events)
    seen.cpu.append(bridge.work(before) * 1e6 / events)
    seen.first.append((whole(arrived, "first") - whole(opened, "began")) / 1e6)
    seen.last.append((whole(arrived, "last") - whole(opened, "began")) / 1e6)
    clients.close()
