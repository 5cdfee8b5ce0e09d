"""From commit to the client: one client, 50 commits a second, beside a floor program in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.lab import Clients, Lab, Writer
from bench.peer import peer, stamps, whole
from bench.stats import Figure, Report, percentile, ratios, spread

RATE = 50
WARM = 5
"""The first commits of each turn are not counted: caches fill, statements are prepared."""
CASES = (("wal", "normal"), ("wal", "full"), ("delete", "full"))


@dataclass(slots=True)
class Turns:
    """Milliseconds from the writer's return from commit to the client's receive, turn by turn."""

    bridge: list[list[float]]
    floor: list[list[float]]


def run(lab: Lab) -> Report:
    """The bridge and the floor take turns on the same database, each attached alone."""
    figures: list[Figure] = []
    modes: dict[str, str] = {}
    for journal, synchronous in CASES:
        case = f"{journal.upper()} {synchronous.upper()}"
        lab.say(f"latency: {case}")
        turns, modes[case] = _case(lab, journal, synchronous)
        figures += _figures(case, turns)
    notes = tuple(f"{case}: capture mode {mode}" for case, mode in modes.items())
    return Report(f"Commit to frame at the client, one client, {RATE} commits a second", tuple(figures), notes)


def _case(lab: Lab, journal: str, synchronous: str) -> tuple[Turns, str]:
    database, turns, mode = lab.database(1000, journal), Turns([], []), ""
    with lab.writer(database, journal, synchronous) as writer:
        for number in range(lab.scale.latency_rounds):
            floor_first = number % 2 == 0
            if floor_first:
                turns.floor.append(_floor_turn(lab, writer, database, journal))
            with lab.bridge(database) as bridge, lab.clients() as clients:
                clients.open(bridge.port, stamps=True)
                turns.bridge.append(_turn(lab, writer, clients))
                mode = bridge.mode()
            if not floor_first:
                turns.floor.append(_floor_turn(lab, writer, database, journal))
    return turns, mode


def _floor_turn(lab: Lab, writer: Writer, database: Path, journal: str) -> list[float]:
    with peer("floor", str(database), journal) as floor, lab.clients() as clients:
        clients.open(whole(floor.answer(), "port"), plain=True, stamps=True)
        return _turn(lab, writer, clients)


def _turn(lab: Lab, writer: Writer, clients: Clients) -> list[float]:
    count = lab.scale.latency_commits
    clients.reset(stamps=True)
    committed = stamps(writer.write(count=count, rate=RATE, stamps=True))
    received = stamps(clients.wait(count))
    return [(received[mark] - when) / 1e6 for mark, when in sorted(committed.items())][WARM:]


def _figures(case: str, turns: Turns) -> list[Figure]:
    ours = [percentile(turn, 0.5) for turn in turns.bridge]
    floor = [percentile(turn, 0.5) for turn in turns.floor]
    ours_99 = [percentile(turn, 0.99) for turn in turns.bridge]
    floor_99 = [percentile(turn, 0.99) for turn in turns.floor]
    return [
        Figure(f"{case}: p50", "ms", spread(ours), headline=True),
        Figure(f"{case}: p99", "ms", spread(ours_99), headline=True),
        Figure(f"{case}: p50 of the floor program", "ms", spread(floor)),
        Figure(f"{case}: p99 of the floor program", "ms", spread(floor_99)),
        Figure(f"{case}: p50 as a multiple of the floor", "×", ratios(ours, floor), headline=True),
        Figure(f"{case}: p99 as a multiple of the floor", "×", ratios(ours_99, floor_99)),
    ]
