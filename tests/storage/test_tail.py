"""The tail: what was appended while no hint came is read in its order, and in as few snapshots as can be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.legacy import Version
from tests.storage.test_capture import ROWID, TEXT, Stage, message, task


@pytest.fixture(params=["wal", "delete"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Nothing says where something changed. Chunks of three rows."""
    stage = Stage(tmp_path, TEXT, "scan", request.param, chunk=3)
    yield stage
    stage.rig.kill()
    stage.writer.close()


def brought(stage: Stage) -> list[str]:
    """The ids of the events of one look."""
    assert stage.rig.capture.look(thorough=False)
    return [key[1] for key, _ in stage.rig.events()]


def test_a_look_brings_the_tails_of_all_sections_in_one_snapshot(stage: Stage, snapshots: list[Version]) -> None:
    """Each snapshot stands in the way of a commit: what is appended and what changed lately needs no second one."""
    assert stage.came(message(1), task(1)) == [("1", "W"), ("1", "W")]
    stage.writer.execute(message(2))
    stage.writer.execute(task(2))
    snapshots.clear()
    assert brought(stage) == ["2", "2"]
    assert len(snapshots) == 1
    assert stage.came() == []


def test_what_a_look_leaves_of_a_tail_is_read_next_and_in_order(stage: Stage, snapshots: list[Version]) -> None:
    """A look reads one chunk; the rest follows at once, and not only with the pass."""
    stage.came(message(1))
    for number in range(2, 10):
        stage.writer.execute(message(number))
    snapshots.clear()
    assert brought(stage) == ["2", "3", "4"]
    assert len(snapshots) == 1
    were_passes = []
    for _ in stage.rig.capture.watched:
        stage.rig.capture.step()
        were_passes.append(stage.rig.capture.is_passing)
    assert were_passes.count(False) == 1, "of the messages: no task is known"
    assert [key[1] for key, _ in stage.rig.events()] == ["5", "6", "7"]
    assert stage.came(message(10)) == [(str(number), "W") for number in range(8, 11)]


def test_a_row_that_moved_into_the_tail_is_told_once(tmp_path: Path) -> None:
    """REPLACE gives a row another place: whether it left the one before has to be asked, which takes a snapshot."""
    stage = Stage(tmp_path, ROWID, "scan", "delete")
    try:
        assert stage.came(task(1), message(1)) == [("1", "W"), ("1", "W")]
        assert stage.came(task(1, "done", verb="REPLACE"), message(2), message(1, verb="REPLACE")) == [
            ("2", "W"), ("1", "W"),
        ]  # fmt: skip
        assert stage.came(task(1, "done", verb="REPLACE")) == []
    finally:
        stage.rig.kill()
        stage.writer.close()
