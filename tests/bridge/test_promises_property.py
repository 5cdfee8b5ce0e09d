"""Whatever happens, and whatever cursor and filter is asked with: all of it comes, once and in order."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.bridge.promises import CONVERSATIONS, FILTERS, OWNERS, TYPES, Batch, World

STEPS, WALKS = 60, 40
CLIENTS = st.integers(0, 4)
HOW = ("last", "last", "last", "first", "foreign", "nonsense", "ahead", "old")
batches = st.lists(
    st.tuples(
        st.sets(st.sampled_from(OWNERS), min_size=1), st.sampled_from(CONVERSATIONS), st.sampled_from(TYPES),
        st.integers(0, 600),
    ),
    min_size=1, max_size=7,
)  # fmt: skip


class Happenings:
    """What may happen next, from plain numbers, so that a shrinking search and a long walk can both choose."""

    def __init__(self) -> None:
        self.world = World()

    def log(self, batch: Batch, *, is_late: bool) -> None:
        """A look; the loop may be given it later."""
        self.world.publish(batch, is_late=is_late)

    def come_back(self, which: int, how: str, missed: Batch, meanwhile: Batch, steps: int, *, was_read: bool) -> None:
        """A connection breaks, with or without what was on its way, and is made again with some cursor. Things happen
        while it is away, and others at some instant of the replay."""
        world, client = self.world, self.world.clients[which]
        if was_read:
            world.receive(client)
        world.leave(client)
        if missed:
            world.publish(missed, is_late=steps % 2 == 0)
        state = world.state
        odd = {"foreign": "elsewhere:3", "nonsense": "17", "ahead": f"{state.epoch}:{state.head + 1}"}
        if how == "old":  # it forgot the last few: they come again, once
            client.have = max(0, client.have - steps)
            client.cursor = f"{state.epoch}:{client.have}"
        world.open(client, None if how == "first" else odd.get(how, client.cursor))
        for _ in range(steps):
            world.step(client)
        world.publish(meanwhile, is_late=False)

    def take(self, which: int, steps: int, part: int | None) -> None:
        """A replay goes on a little, and its client reads all that was sent or some bytes of it."""
        client = self.world.clients[which]
        for _ in range(steps):
            self.world.step(client)
        self.world.receive(client, part)

    def settle(self, which: int) -> None:
        """A replay goes on to its end, and all is read."""
        self.world.read_all(self.world.clients[which])

    def stall(self, which: int, *, is_stuck: bool) -> None:
        """A client stops taking anything, or begins again."""
        self.world.clients[which].wire.is_stuck = is_stuck
        self.world.hub.flush_congested()

    def talk(self, which: int) -> None:
        """A ping and its pong, or a heartbeat; and what waited for the loop comes through."""
        self.world.beat(self.world.clients[which])
        self.world.deliver()

    def upheaval(self, *, is_restart: bool) -> None:
        """The program starts again, or another file takes the database's place."""
        if is_restart:
            self.world.restart()
        else:
            self.world.begin_epoch()


class Machine(RuleBasedStateMachine):
    """The same as rules, for short ways to what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.here = Happenings()

    @rule(batch=batches, is_late=st.booleans())
    def log(self, batch: Batch, *, is_late: bool) -> None:
        """A look."""
        self.here.log(batch, is_late=is_late)

    @rule(
        which=CLIENTS, how=st.sampled_from(HOW), missed=batches, meanwhile=batches, steps=st.integers(0, 12),
        was_read=st.booleans(),
    )  # fmt: skip
    def come_back(self, which: int, how: str, missed: Batch, meanwhile: Batch, steps: int, *, was_read: bool) -> None:
        """A connection breaks and is made again."""
        self.here.come_back(which, how, missed, meanwhile, steps, was_read=was_read)

    @rule(which=CLIENTS, steps=st.integers(0, 5), part=st.integers(0, 2000) | st.none())
    def take(self, which: int, steps: int, part: int | None) -> None:
        """A client reads."""
        self.here.take(which, steps, part)

    @rule(which=CLIENTS, is_stuck=st.booleans(), is_restart=st.booleans(), what=st.sampled_from("ssttu"))
    def happen(self, which: int, what: str, *, is_stuck: bool, is_restart: bool) -> None:
        """Something else: a stall, some talk, an upheaval."""
        if what == "s":
            self.here.stall(which, is_stuck=is_stuck)
        elif what == "t":
            self.here.talk(which)
        else:
            self.here.upheaval(is_restart=is_restart)

    def teardown(self) -> None:
        """Everybody has everything in the end."""
        self.here.world.finish()


def _batch(chance: random.Random, most: int = 7) -> Batch:
    return [
        (
            set(chance.choice((OWNERS, OWNERS[:1], OWNERS[1:]))), chance.choice(CONVERSATIONS), chance.choice(TYPES),
            chance.choice((0, 100, 600)),
        )
        for _ in range(chance.randint(1, most))
    ]  # fmt: skip


def _walk(seed: int) -> None:
    """One long history. The longest memory of what happened before is what a short search does not get to."""
    chance, here = random.Random(seed), Happenings()
    for _ in range(STEPS):
        which, what = chance.randrange(5), chance.random()
        if what < 0.25:
            here.log(_batch(chance), is_late=chance.random() < 0.3)
        elif what < 0.5:
            missed = _batch(chance) if chance.random() < 0.8 else []
            here.come_back(
                which, chance.choice(HOW), missed, _batch(chance, 4), chance.randrange(13),
                was_read=chance.random() < 0.5,
            )  # fmt: skip
        elif what < 0.7:
            here.take(which, chance.randrange(6), chance.choice((None, None, 50, 700)))
        elif what < 0.8:
            here.settle(which)
        elif what < 0.86:
            here.stall(which, is_stuck=chance.random() < 0.5)
        elif what < 0.97:
            here.talk(which)
        else:
            here.upheaval(is_restart=chance.random() < 0.5)
    here.world.finish()


def test_every_filter_has_a_client() -> None:
    """The world's clients cover the filters, and are as many as the happenings choose from."""
    world = World()
    assert {client.wanted for client in world.clients} == set(FILTERS)
    assert len(world.clients) == 5
    world.finish()


@pytest.mark.timeout(0)
def test_the_promises_hold_however_it_comes() -> None:
    """Promises 4, 5 and 6, with filters, streams, restarts, epochs and cursors of every kind."""
    examples = max(10, settings().max_examples // 5)
    run_state_machine_as_test(Machine, settings=settings(max_examples=examples, stateful_step_count=STEPS))


def test_the_promises_hold_over_long_histories() -> None:
    """The same, chosen by weight instead of by search; a failure names its seed."""
    for _ in range(WALKS * settings().max_examples // 100):
        seed = random.SystemRandom().randrange(1 << 30)
        try:
            _walk(seed)
        except AssertionError as failure:
            raise AssertionError(f"_walk({seed}) fails") from failure
