"""What noticing and reading one changed row costs, by the size of the tables."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.lab import Clients, Lab, Writer
from bench.peer import peer, real, stamps
from bench.served import Served
from bench.stats import Figure, Report, percentile, ratios, spread

RATE = 20
SCANS = 3
CASES = (("wal", "normal"), ("delete", "full"))


@dataclass(slots=True)
class Attached:
    """One database with its bridge, its writer and a client; and what was measured, round by round."""

    rows: int
    bridge: Served
    writer: Writer
    clients: Clients
    mode: str
    cost: list[float] = field(default_factory=list)
    """Milliseconds of the server's processor time per commit."""
    delay: list[float] = field(default_factory=list)
    """Milliseconds from commit to frame, median of a round."""


def run(lab: Lab) -> Report:
    """Bridges on all sizes are attached at once and take turns, so that a slow minute of the machine meets them all."""
    figures, notes = [], []
    for journal, synchronous in CASES:
        case = f"{journal.upper()} {synchronous.upper()}"
        lab.say(f"noticing: {case}")
        attached = _case(lab, journal, synchronous)
        figures += _figures(case, attached)
        notes += [f"{case}, {each.rows:,} rows: capture mode {each.mode}" for each in attached]
    lab.say("noticing: full scans")
    figures += _scans(lab)
    return Report("Noticing and reading one changed row, chosen at random", tuple(figures), tuple(notes))


def _case(lab: Lab, journal: str, synchronous: str) -> list[Attached]:
    with ExitStack() as stack:
        attached = [
            _attach(lab, stack, rows, lab.sized(rows, journal), journal, synchronous) for rows in lab.scale.sizes
        ]
        is_scan = any(each.mode == "scan" for each in attached)
        for number in range(1 if is_scan else lab.scale.noticing_rounds):
            for each in attached if number % 2 == 0 else reversed(attached):
                _measure(each, 1 if is_scan else lab.scale.noticing_commits)
        return attached


def _attach(lab: Lab, stack: ExitStack, rows: int, database: Path, journal: str, synchronous: str) -> Attached:
    # The baseline is not what is measured here, so it may have the whole processor.
    bridge = stack.enter_context(lab.bridge(database, "--scan-share", "1"))
    writer = stack.enter_context(lab.writer(database, journal, synchronous))
    clients = stack.enter_context(lab.clients())
    clients.open(bridge.port)
    writer.write(count=1, kind="update", rows=rows)
    clients.wait(1, 120)
    bridge.learn_idle(lab.scale.idle_seconds / 10)
    return Attached(rows, bridge, writer, clients, bridge.mode())


def _measure(each: Attached, count: int) -> None:
    """A scan goes on after its frame has left: the cost is all that is used until the bridge is at rest again."""
    each.clients.reset(stamps=True)
    before = each.bridge.await_rest()
    committed = stamps(each.writer.write(count=count, rate=RATE, kind="update", rows=each.rows, stamps=True))
    received = stamps(each.clients.wait(count, 120))
    used = each.bridge.work(before)
    each.cost.append(used * 1000 / count)
    each.delay.append(percentile([(received[mark] - when) / 1e6 for mark, when in committed.items()], 0.5))


def _figures(case: str, attached: list[Attached]) -> list[Figure]:
    smallest, largest = attached[0], attached[-1]
    flat = f"{largest.rows:,} rows as a multiple of {smallest.rows:,}"
    return [
        *(Figure(f"{case}: {each.rows:,} rows, CPU per commit", "ms", spread(each.cost), headline=True)
          for each in attached),
        Figure(f"{case}: CPU, {flat}", "×", ratios(largest.cost, smallest.cost), headline=True),
        *(Figure(f"{case}: {each.rows:,} rows, commit to frame", "ms", spread(each.delay)) for each in attached),
        Figure(f"{case}: commit to frame, {flat}", "×", ratios(largest.delay, smallest.delay), headline=True),
    ]


def _scans(lab: Lab) -> list[Figure]:
    figures = []
    for rows in lab.scale.sizes:
        with peer("fullscan", str(lab.sized(rows))) as scanner:
            scanner.answer()
            took = [real(scanner.ask("scan"), "cpu") * 1000 for _ in range(SCANS)]
        name = f"for comparison: one full scan with digests of 2 × {rows:,} rows, CPU"
        figures.append(Figure(name, "ms", spread(took), headline=rows == lab.scale.sizes[-1]))
    return figures
