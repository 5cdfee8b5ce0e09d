"""What the bridge does to the writer: throughput with and without it, refused commits, growth of the WAL."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.lab import Lab, Writer
from bench.peer import Message, real, whole
from bench.stats import Figure, Report, ratios, spread

CASES = (("wal", "normal"), ("wal", "full"), ("delete", "full"), ("delete", "normal"))
STEADY = 20
"""Commits a second of the unhurried writer: the bridge reads after each of them."""


@dataclass(slots=True)
class Side:
    """What the writer says of itself, pair by pair."""

    rate: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    slowest: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)
    refused: dict[str, list[int]] = field(default_factory=dict)


def run(lab: Lab) -> Report:
    """Each half of a pair has a new database; which half comes first alternates."""
    figures: list[Figure] = []
    modes = []
    for journal, synchronous in CASES:
        case = f"{journal.upper()} {synchronous.upper()}"
        lab.say(f"harm: {case}")
        alone, together, mode = _case(lab, journal, synchronous)
        figures += _figures(case, alone, together, is_wal=journal == "wal")
        modes.append(f"{case}: capture mode {mode}")
    return Report("The writer with the bridge attached", tuple(figures), tuple(modes))


def _case(lab: Lab, journal: str, synchronous: str) -> tuple[Side, Side, str]:
    alone, together, mode = Side(), Side(), ""
    for number in range(lab.scale.harm_pairs):
        for with_bridge in (number % 2 == 0, number % 2 == 1):
            database = lab.database(1000, journal)
            with lab.writer(database, journal, synchronous) as writer:
                if with_bridge:
                    with lab.bridge(database) as bridge:
                        _half(lab, writer, together)
                        mode = bridge.mode()
                else:
                    _half(lab, writer, alone)
    return alone, together, mode


def _half(lab: Lab, writer: Writer, side: Side) -> None:
    seconds = lab.scale.harm_seconds
    flat = writer.write(seconds=seconds)
    side.rate.append(whole(flat, "commits") / real(flat, "elapsed"))
    side.p99.append(real(flat, "p99") * 1000)
    side.slowest.append(real(flat, "slowest") * 1000)
    side.wal.append(whole(flat, "wal_peak") / 1e6)
    _count(side, "flat out", writer.write(seconds=seconds / 2, busy_timeout=0))
    _count(side, f"at {STEADY} commits a second", writer.write(seconds=2 * seconds, rate=STEADY, busy_timeout=0))


def _count(side: Side, pace: str, answer: Message) -> None:
    found = side.refused.setdefault(pace, [0, 0])
    found[0] += whole(answer, "busy")
    found[1] += whole(answer, "commits")


def _figures(case: str, alone: Side, together: Side, *, is_wal: bool) -> list[Figure]:
    figures = [
        Figure(f"{case}: commits a second without", "1/s", spread(alone.rate)),
        Figure(f"{case}: commits a second with", "1/s", spread(together.rate)),
        Figure(f"{case}: throughput with, as a multiple of without", "×", ratios(together.rate, alone.rate), "", True),
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
