"""What an idle bridge uses: large tables attached, nobody writes, with and without connections."""

from __future__ import annotations

import time

from bench.lab import Lab
from bench.served import Served
from bench.stats import Figure, Report, spread


def run(lab: Lab) -> Report:
    """Windows without and with connections take turns; the connections answer pings, as real ones do."""
    rows, count = lab.scale.sizes[-1], lab.scale.idle_clients
    nobody, crowd = [], []
    lab.say(f"idle: 2 × {rows:,} rows")
    with lab.bridge(lab.sized(rows), "--scan-share", "1") as bridge, lab.clients() as clients:
        for _ in range(lab.scale.idle_rounds):
            nobody.append(_share(lab, bridge))
            clients.open(bridge.port, count)
            bridge.await_rest()
            crowd.append(_share(lab, bridge))
            clients.close()
            bridge.await_rest()
        mode = bridge.mode()
    attached = "a million rows in each of two tables" if rows == 1_000_000 else f"2 × {rows:,} rows"
    figures = (
        Figure(f"{attached}, no connection", "% of a core", spread(nobody), headline=True),
        Figure(f"{attached}, {count:,} idle connections", "% of a core", spread(crowd), headline=True),
    )
    return Report("Idle", figures, (f"capture mode {mode}; windows of {lab.scale.idle_seconds:g} s",))


def _share(lab: Lab, bridge: Served) -> float:
    before, began = bridge.cpu(), time.monotonic()
    time.sleep(lab.scale.idle_seconds)
    return 100 * (bridge.cpu() - before) / (time.monotonic() - began)
