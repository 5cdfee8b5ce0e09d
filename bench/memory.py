"""Resident memory: per idle connection, and with large tables attached."""

from __future__ import annotations

from bench.lab import Lab
from bench.stats import Figure, Report, spread

MEGABYTE = 1e6


def run(lab: Lab) -> Report:
    """Connections are added to one server step by step; the tables belong to another one."""
    figures = [*_connections(lab), *_tables(lab)]
    notes = (
        "resident set size (VmRSS), peak VmHWM; buffers of sockets in the kernel are not in it",
        "sizes in units of 1000 bytes",
    )
    return Report("Memory", tuple(figures), notes)


def _connections(lab: Lab) -> list[Figure]:
    lab.say("memory: connections")
    with lab.bridge(lab.database(100)) as bridge, lab.clients() as clients:
        clients.open(bridge.port)  # what the first connection loads is not the price of each
        bridge.await_rest()
        sizes = {1: bridge.memory().total}
        for total in lab.scale.memory_clients:
            clients.open(bridge.port, total - max(sizes))
            bridge.await_rest()
            sizes[total] = bridge.memory().total
    figures = [Figure("a small database, one connection", "MB", spread([sizes[1] / MEGABYTE]))]
    for total in lab.scale.memory_clients:
        each = (sizes[total] - sizes[1]) / (total - 1) / 1000
        figures.append(Figure(f"per idle connection, of {total:,}", "kB", spread([each]), headline=total == max(sizes)))
    return figures


def _tables(lab: Lab) -> list[Figure]:
    rows = lab.scale.sizes[-1]
    database, figures = lab.sized(rows), []
    state = str(lab.folder / "memory.state")
    for start in ("the baseline taken", "a later start"):
        lab.say(f"memory: 2 × {rows:,} rows, {start}")
        with lab.bridge(database, "--scan-share", "1", "--state", state) as bridge:
            seen = bridge.memory()
        what = f"{rows:,} tasks and {rows:,} messages attached, {start}"
        figures += [
            Figure(what, "MB", spread([seen.total / MEGABYTE]), headline=True),
            Figure(f"{what}: private part", "MB", spread([seen.private / MEGABYTE])),
            Figure(f"{what}: peak", "MB", spread([seen.peak / MEGABYTE])),
        ]
    return figures
