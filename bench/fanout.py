"""What a delivered message costs the server: many subscribers of one owner, and one that does not read."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench import data, stalled
from bench.lab import Clients, Lab, Writer
from bench.peer import Peer, peer, real, whole
from bench.served import Served
from bench.stats import Figure, Report, ratios, spread

RATE = 20
BURST = 100
BURST_RATE = 2


@dataclass(slots=True)
class Cost:
    """Seconds of the server's processor time per commit, round by round."""

    single: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)


def run(lab: Lab) -> Report:
    """All crowds are connected at once, each to an owner of its own, and take turns."""
    lab.say("fan-out")
    database = lab.database(100)
    for size in lab.scale.crowds:
        data.add_conversation(database, f"crowd-{size}", f"owner-{size}")
    stalled.prepare(database, lab.scale.crowds[-1])
    costs = {size: Cost() for size in lab.scale.crowds}
    largest = lab.scale.crowds[-1]
    floor: list[float] = []
    joined: list[float] = []
    with (
        lab.bridge(database) as bridge, lab.writer(database) as writer, lab.clients() as clients,
        peer("sendloop", str(largest)) as loop, lab.clients() as plain,
    ):  # fmt: skip
        plain.open(whole(loop.answer(), "port"), largest, plain=True)
        for size in lab.scale.crowds:
            clients.open(bridge.port, size, owner=f"owner-{size}")
        bridge.learn_idle(lab.scale.idle_seconds / 10)
        for number in range(lab.scale.fanout_rounds):
            for size in lab.scale.crowds if number % 2 == 0 else reversed(lab.scale.crowds):
                _measure(lab, bridge, writer, clients, size, costs[size])
            floor.append(_floor(loop, plain, largest, 1, lab.scale.singles))
            joined.append(_floor(loop, plain, largest, BURST, lab.scale.bursts))
        beside = stalled.figures(lab, bridge, writer, clients, largest)
        mode = bridge.mode()
    figures = [*_figures(costs), *_against(costs[largest], largest, floor, joined), *beside]
    title = "Fan-out: server CPU per delivered message of 290 bytes, and the delay beside a client that stalls"
    return Report(title, tuple(figures), (f"capture mode {mode}",))


def _measure(lab: Lab, bridge: Served, writer: Writer, clients: Clients, size: int, cost: Cost) -> None:
    conversation = f"crowd-{size}"
    for is_burst, count in ((False, lab.scale.singles), (True, lab.scale.bursts)):
        per_commit = BURST if is_burst else 1
        clients.reset()
        before = bridge.await_rest()
        writer.write(
            count=count, rate=BURST_RATE if is_burst else RATE, conversation=conversation, per_commit=per_commit
        )
        clients.wait(count * per_commit * size)
        (cost.burst if is_burst else cost.single).append(bridge.work(before) / count)


def _floor(loop: Peer, plain: Clients, size: int, lines: int, times: int) -> float:
    """Seconds per line and receiver."""
    plain.reset()
    took = real(loop.ask("send", lines=lines, times=times), "cpu")
    plain.wait(size * lines * times)
    return took / (size * lines * times)


def _figures(costs: dict[int, Cost]) -> list[Figure]:
    figures = []
    for size, cost in costs.items():
        who = "1 subscriber" if size == 1 else f"{size:,} subscribers"
        single = spread([each * 1e6 / size for each in cost.single])
        burst = spread([each * 1e6 / size / BURST for each in cost.burst])
        figures += [
            Figure(f"{who}, one message a commit", "µs", single, headline=True),
            Figure(f"{who}, {BURST} messages a commit", "µs", burst, headline=True),
        ]
    return figures


def _against(cost: Cost, size: int, floor: list[float], joined: list[float]) -> list[Figure]:
    single = [each / size for each in cost.single]
    burst = [each / size / BURST for each in cost.burst]
    return [
        Figure("floor: a Python loop of send(), one message", "µs", spread([each * 1e6 for each in floor])),
        Figure(f"floor: the same, {BURST} messages in one send()", "µs", spread([each * 1e6 for each in joined])),
        Figure(f"{size:,} subscribers, one message, as a multiple of the floor", "×", ratios(single, floor)),
        Figure(f"{size:,} subscribers, {BURST} messages, as a multiple of the floor", "×", ratios(burst, joined)),
    ]
