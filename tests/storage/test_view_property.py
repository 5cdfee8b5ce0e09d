"""A client that asks for every event type has the tables, whatever the writer does to rows that it has been told of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import Writer, writer_process
from tests.storage.operations import MESSAGE_OPERATIONS, TASK_OPERATIONS, Operation, operations, schemas, statements
from tests.storage.oracle import Schema, scan
from tests.storage.view import View

POPULATION: list[Operation] = [
    *[("insert", number, number % 3 + 2, f"w{number % 2 + 1}", "hi") for number in range(1, 6)],
    *[("task", number, number % 3, f"w{number % 2 + 1}", "hi") for number in range(1, 4)],
]

rewriting = st.tuples(
    st.sampled_from(
        [what for what in (*MESSAGE_OPERATIONS, *TASK_OPERATIONS) if what not in ("clear", "insert many", "filler")]
    ),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(["w1", "w2", "w1", "w2", None]),
    st.sampled_from(["a", "b", "c" * 3000]),
)
steps = st.lists(
    st.tuples(st.lists(rewriting | operations, min_size=1, max_size=3), st.sampled_from(["", "", "", "stop", "kill"])),
    min_size=3,
    max_size=10,
)
"""(operations of one commit, how the bridge ended before it), of each commit."""


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    """A backend in a process of its own."""
    with writer_process() as process:
        yield process


@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_who_asks_for_all_types_has_the_tables(writer: Writer, engine: str, mode: str) -> None:
    """After every commit: nothing is missing, left over or old, and no end is told of what was never there."""

    @settings(max_examples=settings().max_examples // 5, suppress_health_check=list(HealthCheck))
    @given(
        schema=schemas.map(lambda one: replace(one, joined_owner=False)),
        commits=steps,
        is_baseline=st.booleans(),
        chunk=st.sampled_from([2, None]),
    )
    def follows(
        schema: Schema, commits: list[tuple[list[Operation], str]], is_baseline: bool, chunk: int | None
    ) -> None:
        with TemporaryDirectory() as folder:
            _follow(writer, Path(folder) / "legacy.db", schema, engine, mode, commits, is_baseline, chunk)

    follows()


def _follow(
    writer: Writer,
    path: Path,
    schema: Schema,
    engine: str,
    mode: str,
    commits: list[tuple[list[Operation], str]],
    is_baseline: bool,
    chunk: int | None,
) -> None:
    writer.open(path)
    writer.sql(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=OFF", *schema.tables())
    rig = Rig(path, schema.sections(), ENGINES[engine])
    rig.chunk_rows = chunk
    try:
        view = View({})
        if is_baseline:
            _commit(writer, schema, POPULATION)
            view = View(scan(writer, schema))
            rig.start()
        else:
            rig.start(existing_is_baseline=False)
            _commit(writer, schema, POPULATION)
        for batch, end in [([], ""), *commits]:
            if end:
                (rig.stop if end == "stop" else rig.kill)()
            _commit(writer, schema, batch)
            if end:
                rig.start()
            rig.settle()
            rig.events()
            view.take(rig.told)
            rig.told.clear()
            view.check(scan(writer, schema))
    finally:
        rig.kill()
        writer.close()


def _commit(writer: Writer, schema: Schema, batch: list[Operation]) -> None:
    run = [statement for operation in batch for statement in statements(schema, operation)]
    writer.run(("BEGIN IMMEDIATE", ()), *run, ("COMMIT", ()))
