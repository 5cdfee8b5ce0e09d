"""What the bridge does to the writer: throughput with and without it, refused commits, growth of the WAL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.lab import Lab, Writer
from bench.peer import Message, real, whole
from bench.served import Served
from bench.stats import Figure, Report, Spread, spread
from bench.writer import BEGINNING

CASES = (("wal", "normal"), ("wal", "full"), ("delete", "full"), ("delete", "normal"))
SHORT = ("wal", "normal")
"""Turns of half the length: it commits 20,000 times a second, and after each turn the bridge has to catch up."""
STEADY = 20
"""Commits a second of the unhurried writer: the bridge reads after each of them."""


@dataclass(slots=True)
class Side:
    """What one of the writers says of itself, turn by turn."""

    rate: list[float] = field(default_factory=list)
    beginning: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    slowest: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)
    refused: dict[str, list[int]] = field(default_factory=dict)


def run(lab: Lab) -> Report:
    """Two databases alike, the bridge on one, then on the other, while their writers take turns; then two new ones."""
    figures: list[Figure] = []
    modes = []
    for journal, synchronous in CASES:
        case = f"{journal.upper()} {synchronous.upper()}"
        lab.say(f"harm: {case}")
        alone, together, mode = _case(lab, journal, synchronous)
        figures += _figures(case, alone, together, lab.scale.harm_pairs, is_wal=journal == "wal")
        modes.append(f"{case}: capture mode {mode}")
    return Report("The writer with the bridge attached", tuple(figures), tuple(modes))


def _case(lab: Lab, journal: str, synchronous: str) -> tuple[Side, Side, str]:
    alone, together, modes = Side(), Side(), set[str]()
    seconds = lab.scale.harm_seconds * (0.5 if (journal, synchronous) == SHORT else 1)
    for swap in range(lab.scale.harm_swaps):
        with ExitStack() as stack:
            databases = [lab.database(1000, journal) for _ in range(2)]
            writers = [stack.enter_context(lab.writer(database, journal, synchronous)) for database in databases]
            for watched in range(2):
                sides = [(writers[watched], together), (writers[1 - watched], alone)]
                with lab.bridge(databases[watched]) as bridge:
                    for pair in range(lab.scale.harm_pairs):
                        for writer, side in sides if pair % 2 == 0 else sides[::-1]:
                            _flat_out(bridge, writer, side, seconds)
                    if not (swap or watched):
                        for writer, side in sides:
                            _refusals(bridge, writer, side, seconds)
                    modes.add(bridge.mode())
    return alone, together, " and ".join(sorted(modes))


def _flat_out(bridge: Served, writer: Writer, side: Side, seconds: float) -> None:
    bridge.await_rest()
    flat = writer.write(seconds=seconds)
    side.rate.append(whole(flat, "commits") / real(flat, "elapsed"))
    side.beginning.append(whole(flat, "beginning") / BEGINNING)
    side.p99.append(real(flat, "p99") * 1000)
    side.slowest.append(real(flat, "slowest") * 1000)
    side.wal.append(whole(flat, "wal_peak") / 1e6)


def _refusals(bridge: Served, writer: Writer, side: Side, seconds: float) -> None:
    bridge.await_rest()
    _count(side, "flat out", writer.write(seconds=seconds, busy_timeout=0))
    bridge.await_rest()
    slowly = writer.write(seconds=2 * seconds, rate=STEADY, busy_timeout=0)
    _count(side, f"at {STEADY} commits a second", slowly)


def _count(side: Side, pace: str, answer: Message) -> None:
    found = side.refused.setdefault(pace, [0, 0])
    found[0] += whole(answer, "busy")
    found[1] += whole(answer, "commits")


def _crossed(pairs: int, with_it: Sequence[float], without: Sequence[float]) -> Spread:
    """With and without, as the mean of two pairs: one with the bridge on either database.

    Two files and two writers that are alike in all we know of differ by some per cent for as long as they live, and
    that is in both ratios, once each way. Pairs come in blocks, the bridge being on the same database in each.
    """
    ratio = [a / b for a, b in zip(with_it, without, strict=True)]
    firsts = [first for block in range(0, len(ratio), 2 * pairs) for first in range(block, block + pairs)]
    return spread([math.sqrt(ratio[first] * ratio[first + pairs]) for first in firsts])


def _figures(case: str, alone: Side, together: Side, pairs: int, *, is_wal: bool) -> list[Figure]:
    rates = _crossed(pairs, together.rate, alone.rate)
    beginnings = _crossed(pairs, together.beginning, alone.beginning)
    figures = [
        Figure(f"{case}: commits a second without", "1/s", spread(alone.rate)),
        Figure(f"{case}: commits a second with", "1/s", spread(together.rate)),
        Figure(f"{case}: throughput with, as a multiple of without", "×", rates, "", True),
        Figure(f"{case}: the same, in the first half second", "×", beginnings, "", True),
        Figure(f"{case}: p99 of a commit without", "ms", spread(alone.p99)),
        Figure(f"{case}: p99 of a commit with", "ms", spread(together.p99)),
        Figure(f"{case}: slowest commit without", "ms", spread(alone.slowest)),
        Figure(f"{case}: slowest commit with", "ms", spread(together.slowest)),
    ]
    for pace, (busy, commits) in together.refused.items():
        without = alone.refused[pace]
        note = f"{busy:,} of {commits:,}; without the bridge {without[0]:,} of {without[1]:,}"
        name = f"{case}: commits refused (SQLITE_BUSY, busy timeout 0), {pace}"
        figures.append(Figure(name, "%", spread([100 * busy / commits]), note, headline=pace == "flat out"))
    if is_wal:
        figures += [
            Figure(f"{case}: largest -wal without", "MB", spread(alone.wal)),
            Figure(f"{case}: largest -wal with", "MB", spread(together.wal)),
        ]
    return figures
