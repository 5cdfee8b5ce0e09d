"""What a client missed is replayed whole, or it is told to fetch: every reason by itself."""

import asyncio
from typing import cast

import pytest

from bridge.protocol import Cursor, Recovery
from bridge.replay import Replayer
from storage.eventlog import EventLog
from tests.bridge.fakes import ListLog, event

NOW = Cursor("e1", 9)


@pytest.fixture
def log() -> ListLog:
    """Nine events, of which A has the odd ones."""
    log = ListLog()
    log.all = [event(seq, ("A" if seq % 2 else "B", max(seq - 2, 0))) for seq in range(1, 10)]
    return log


def replayer(log: ListLog, limit: int = 100) -> Replayer:
    return Replayer(cast("EventLog", log), lambda: log.pruned, limit)


async def replayed(log: ListLog, since: str, limit: int = 100) -> tuple[Recovery, list[int]]:
    """How a resume of A goes, and what it is sent."""
    own = replayer(log, limit)
    recovery, span = await own.plan("A", since, NOW)
    return recovery, [one.seq async for page in own.pages(span) for one in page]


@pytest.mark.parametrize(
    ("since", "expected"), [(0, [1, 3, 5, 7, 9]), (1, [3, 5, 7, 9]), (2, [3, 5, 7, 9]), (8, [9]), (9, [])]
)
async def test_all_that_an_owner_missed_is_replayed_in_order(log: ListLog, since: int, expected: list[int]) -> None:
    """Its own events alone, over several pages, from any cursor, also from another owner's event."""
    assert await replayed(log, f"e1:{since}") == (Recovery(NOW, replayed=len(expected)), expected)


@pytest.mark.parametrize(
    ("since", "reason"),
    [
        ("", "bad_cursor"),
        ("e1:10", "bad_cursor"),
        ("e1", "bad_cursor"),
        ("e0:3", "epoch_changed"),
        ("e2:10", "epoch_changed"),
    ],
)
async def test_a_cursor_that_proves_nothing_gives_nothing(log: ListLog, since: str, reason: str) -> None:
    """A number from another epoch says nothing, even if it is beyond ours."""
    assert await replayed(log, since) == (Recovery(NOW, reason=reason), [])


async def test_what_left_the_log_cannot_be_proven(log: ListLog) -> None:
    """Up to the last one that left all is lost; from that one on all is there."""
    log.pruned = 4
    assert await replayed(log, "e1:3") == (Recovery(NOW, reason="history_expired"), [])
    assert await replayed(log, "e1:4") == (Recovery(NOW, replayed=3), [5, 7, 9])


async def test_more_than_the_limit_is_not_replayed(log: ListLog) -> None:
    """Fetching is cheaper, and never a part is sent."""
    assert await replayed(log, "e1:0", 4) == (Recovery(NOW, reason="history_expired"), [])
    assert await replayed(log, "e1:0", 5) == (Recovery(NOW, replayed=5), [1, 3, 5, 7, 9])


async def test_what_leaves_the_log_before_it_was_counted_is_not_promised(log: ListLog) -> None:
    """The count would be too small, and the client would believe it."""
    plan = asyncio.create_task(replayer(log).plan("A", "e1:0", NOW))
    await asyncio.sleep(0)
    log.pruned = 4
    recovery, _ = await plan
    assert recovery.reason == "history_expired"


async def test_what_leaves_the_log_during_the_replay_ends_it(log: ListLog) -> None:
    """A gap must not pass for the end; what was already sent is no problem."""
    own = replayer(log)
    _, span = await own.plan("A", "e1:0", NOW)
    pages = aiter(own.pages(span))
    assert [one.seq for one in await anext(pages)] == [1, 3, 5]
    log.pruned = 6
    with pytest.raises(LookupError):
        await anext(pages)


async def test_what_leaves_the_log_behind_the_replay_does_not_disturb_it(log: ListLog) -> None:
    """It was sent already."""
    own = replayer(log)
    _, span = await own.plan("A", "e1:0", NOW)
    sent = []
    async for page in own.pages(span):
        sent += [one.seq for one in page]
        log.pruned = page[-1].seq
    assert sent == [1, 3, 5, 7, 9]
