"""Whatever a foreign writer does to its database, what is pushed is what a full scan says, after every commit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from storage.hints import Hints
from storage.legacy import Busy
from storage.types import Section
from tests.storage.capture_rig import ENGINES, DiskFull, Killed, Rig
from tests.storage.legacy_writer import Statement, Writer, writer_process
from tests.storage.operations import Operation, operations, schemas, statements
from tests.storage.oracle import Oracle, Scan, Schema, scan
from tests.storage.view import View

SMALL_CHUNK = 3
"""Rows of one step of a pass: a pass over ten rows is then torn by commits as one over a million is."""
WINDOW = 3
"""Commits that may go by before the oracle asks."""

batches = st.lists(operations, min_size=1, max_size=5)


class Mapped(Protocol):
    """Tables of a writer, and how they are mapped."""

    def tables(self) -> list[str]:
        """The statements that make the tables."""

    def sections(self) -> list[Section]:
        """The mapping."""


class Attached(RuleBasedStateMachine):
    """A writer in another process, and a bridge that is restarted, killed and failed beside it."""

    def __init__(self, writer: Writer, make_hints: Callable[[Path], Hints]) -> None:
        super().__init__()
        self.writer, self._make_hints = writer, make_hints
        self._folder = TemporaryDirectory()
        self.path = Path(self._folder.name) / "legacy.db"
        self.commits: list[Scan] = []
        self.columns = 0
        self.is_sound = self.is_replaced = False

    @initialize(
        schema=schemas,
        page_size=st.sampled_from([512, 1024, 4096, 65536]),
        vacuum=st.sampled_from([0, 1, 2]),
        mode=st.sampled_from(["wal", "delete", "truncate", "persist", "memory"]),
        existing=st.lists(operations, max_size=12),
        is_baseline=st.booleans(),
        chunk=st.sampled_from([SMALL_CHUNK, SMALL_CHUNK, None]),
        rests=st.booleans(),
    )
    def begin(
        self,
        schema: Schema,
        page_size: int,
        vacuum: int,
        mode: str,
        existing: list[Operation],
        is_baseline: bool,
        chunk: int | None,
        rests: bool,
    ) -> None:
        """A database with rows in it, and the first attach."""
        self.schema = self.chosen(schema)
        self.attach(self.schema, page_size, vacuum, mode, existing, is_baseline, chunk, rests)

    def chosen(self, schema: Schema) -> Schema:
        """What is made of the schema that was drawn."""
        return schema

    def attach(
        self,
        schema: Mapped,
        page_size: int,
        vacuum: int,
        mode: str,
        existing: list[Operation],
        is_baseline: bool,
        chunk: int | None,
        rests: bool = False,
    ) -> None:
        """The same over any schema."""
        self.mode = mode
        self.writer.open(self.path)
        self.writer.sql(f"PRAGMA page_size={page_size}", f"PRAGMA auto_vacuum={vacuum}", f"PRAGMA journal_mode={mode}")
        self.prepare()
        self.writer.sql("BEGIN", *schema.tables(), "COMMIT")
        self.transaction(existing)
        rows = self.scan()
        self.rig = Rig(self.path, schema.sections(), self._make_hints)
        self.rig.chunk_rows, self.rig.takes_rest_for_granted = chunk, rests
        self.rig.start(existing_is_baseline=is_baseline)
        self.epoch = self.rig.state.epoch
        self.oracle = Oracle(rows, is_known=is_baseline)
        self.view = View(rows if is_baseline else {})
        self.commits.append(rows)
        self.check()

    def scan(self) -> Scan:
        """What the tables hold now."""
        return scan(self.writer, self.schema)

    def statements(self, operation: Operation) -> list[Statement]:
        """An operation as SQL."""
        return statements(self.schema, operation)

    @property
    def is_told_all(self) -> bool:
        """Whether every change can be told: one in another table alone is not noticed before the row is read again."""
        return not self.schema.joined_owner

    def prepare(self) -> None:
        """What a connection has to be told anew."""
        self.writer.sql("PRAGMA synchronous=OFF", "PRAGMA cache_size=10", "PRAGMA wal_autocheckpoint=20")

    def transaction(
        self, batch: list[Operation], ending: str = "COMMIT", undone: list[Operation] | None = None
    ) -> None:
        """Several statements in one commit; some of them may be undone within it."""
        run: list[Statement] = [("BEGIN IMMEDIATE", ())]
        run += [statement for operation in batch for statement in self.statements(operation)]
        if undone is not None:
            run.append(("SAVEPOINT inner", ()))
            run += [statement for operation in undone for statement in self.statements(operation)]
            run.append(("ROLLBACK TO inner", ()))
        self.writer.run(*run, (ending, ()))

    def committed(self) -> None:
        """Remember what the tables hold now; ask before too much has gone by."""
        self.commits.append(self.scan())
        if len(self.commits) >= WINDOW:
            self.check()

    def check(self) -> None:
        """Let the bridge come to rest and compare."""
        if not self.commits:
            self.commits.append(self.scan())
        self.is_sound = False
        self.rig.settle()
        if not self.is_replaced:  # whatever a writer does, it is no other database and no earlier one
            assert self.rig.state.epoch == self.epoch
        self.epoch, self.is_replaced = self.rig.state.epoch, False
        self.oracle.check(self.commits, self.rig.events())
        self.view.take(self.rig.told)
        self.rig.told.clear()
        if self.is_told_all:
            self.view.check(self.commits[-1])
        self.commits.clear()
        self.is_sound = True

    # -- the writer

    @rule(batch=batches, undone=st.none() | batches)
    def commit_and_look(self, batch: list[Operation], undone: list[Operation] | None) -> None:
        """The plain case: every commit is seen by itself."""
        self.check()
        self.transaction(batch, undone=undone)
        self.committed()
        self.check()

    @rule(batch=batches)
    def commit_unseen(self, batch: list[Operation]) -> None:
        """Nobody looks before the next one."""
        self.transaction(batch)
        self.committed()

    @rule(batch=batches, turns=st.integers(1, 6))
    def commit_and_turn(self, batch: list[Operation], turns: int) -> None:
        """A few turns, so that the next commit tears a pass."""
        self.transaction(batch)
        for _ in range(turns):
            with suppress(Busy):
                self.rig.turn()
        self.committed()

    @rule(batch=batches)
    def roll_back(self, batch: list[Operation]) -> None:
        """What was not committed is not pushed."""
        self.transaction(batch, "ROLLBACK")
        self.check()

    @rule(batch=batches)
    def look_in_mid_transaction(self, batch: list[Operation]) -> None:
        """An open transaction shows nothing, and stands in nobody's way but its own."""
        self.check()
        self.transaction(batch, "SELECT 1")
        with suppress(Busy):
            self.rig.turn()
        with suppress(Busy):
            self.rig.turn()
        assert self.rig.events() == []
        self.writer.sql("COMMIT")
        self.committed()
        self.check()

    @rule(batch=batches)
    def commit_by_savepoint(self, batch: list[Operation]) -> None:
        """An outermost savepoint is a transaction too, and one that is released inside it is kept."""
        inner = [statement for operation in batch for statement in self.statements(operation)]
        before, after = (
            [(step, ()) for step in steps]
            for steps in (("SAVEPOINT outer", "SAVEPOINT inner"), ("RELEASE inner", "RELEASE outer"))
        )
        self.writer.run(*before, *inner, *after)
        self.committed()

    @rule(batch=batches, is_main=st.booleans(), is_lasting=st.booleans())
    def commit_across_files(self, batch: list[Operation], is_main: bool, is_lasting: bool) -> None:
        """One transaction over two attached databases, of which ours is either; without a WAL, by a super-journal."""
        other = self.path.with_name("other.db")
        if not is_main:
            self.writer.close()
            self.writer.open(other)
        self.writer.run(("ATTACH ? AS attached", [str(other if is_main else self.path)]))
        ours, theirs = ("main", "attached") if is_main else ("attached", "main")
        # Where nothing is synced there is no super-journal.
        self.writer.sql(*(f"PRAGMA {name}.synchronous=NORMAL" for name in (ours, theirs)))
        self.writer.sql(f"PRAGMA {ours}.journal_mode={self.mode}", "PRAGMA cache_size=10")
        self.writer.sql(f"CREATE TABLE IF NOT EXISTS {theirs}.elsewhere(body TEXT)")
        self.transaction(batch, "SELECT 1")
        self.writer.sql(f"INSERT INTO {theirs}.elsewhere VALUES ('x')", "COMMIT" if is_lasting else "ROLLBACK")
        self.writer.sql("DETACH attached")
        self.reopen()
        self.committed()

    @rule(page_size=st.none() | st.sampled_from([512, 2048, 8192]))
    def vacuum(self, page_size: int | None) -> None:
        """Hidden rowids may be given anew, and without a WAL pages another size."""
        if page_size is not None:
            self.writer.sql(f"PRAGMA page_size={page_size}")
        self.writer.sql("VACUUM")
        self.committed()

    @rule(pages=st.integers(0, 20))
    def vacuum_some(self, pages: int) -> None:
        """Pages from the end of the file take the place of free ones, where `auto_vacuum` is 2."""
        self.writer.sql(f"PRAGMA incremental_vacuum({pages})")
        self.committed()

    @rule(kind=st.sampled_from(["PASSIVE", "FULL", "RESTART", "TRUNCATE"]))
    def checkpoint(self, kind: str) -> None:
        """The log goes into the database."""
        self.writer.sql(f"PRAGMA wal_checkpoint({kind})")

    @rule()
    def reopen(self) -> None:
        """A writer that opens the database for every write."""
        self.writer.close()
        self.writer.open(self.path)
        self.writer.sql(f"PRAGMA journal_mode={self.mode}")
        self.prepare()

    @precondition(lambda self: self.columns < 3)
    @rule()
    def add_column(self) -> None:
        """A change of the schema that the mapping does not name."""
        self.columns += 1
        self.writer.sql(f"ALTER TABLE messages ADD COLUMN extra{self.columns} TEXT DEFAULT 'x'")
        self.committed()

    @rule(is_made=st.booleans())
    def change_index(self, is_made: bool) -> None:
        """A b-tree comes or goes whose pages are none of ours."""
        self.writer.sql("CREATE INDEX IF NOT EXISTS late ON messages(body)" if is_made else "DROP INDEX IF EXISTS late")
        self.committed()

    @rule(mode=st.sampled_from(["wal", "delete", "truncate", "persist", "memory"]))
    def switch_journal(self, mode: str) -> None:
        """WAL and back; out of it only while nobody else has the database open."""
        if self.mode == "wal" != mode:
            self.rig.stop()
        try:
            self.writer.sql(f"PRAGMA journal_mode={mode}")
            self.mode = mode
        finally:
            if not self.rig.legacy.is_open:
                self.rig.start()

    @rule()
    def replace_file(self) -> None:
        """Another file takes the database's place, with the same rows in it."""
        self.check()
        self.writer.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        copy = self.path.with_name("copy.db")
        self.writer.run(("VACUUM INTO ?", [str(copy)]))
        self.writer.close()
        copy.replace(self.path)
        self.writer.open(self.path)
        self.prepare()
        self.mode = "delete"
        epoch, self.is_replaced = self.epoch, True
        self.committed()
        self.check()
        assert self.epoch != epoch

    # -- the bridge

    @rule(batch=st.just([]) | batches, turns=st.integers(0, 4), is_killed=st.booleans())
    def restart(self, batch: list[Operation], turns: int, is_killed: bool) -> None:
        """Stopped or killed in the middle of a pass, and started after more was committed."""
        epoch = self.rig.state.epoch
        for _ in range(turns):
            with suppress(Busy):
                self.rig.turn()
        (self.rig.kill if is_killed else self.rig.stop)()
        if batch:
            self.transaction(batch)
            self.commits.append(self.scan())
        self.rig.start()
        assert self.rig.state.epoch == epoch

    @rule(batch=batches, where=st.sampled_from(["decide", "record", "publish"]), is_killed=st.booleans())
    def fail(self, batch: list[Operation], where: str, is_killed: bool) -> None:
        """It dies, or the state file cannot be written, before, in and after the transaction of a look."""
        self.transaction(batch)
        self.commits.append(self.scan())
        self.rig.fails_at = where, (Killed() if is_killed else DiskFull("database or disk is full"))
        try:
            for _ in range(4):
                with suppress(Busy):
                    self.rig.turn()
        except Killed:
            self.rig.kill()
            self.rig.start()
        except DiskFull:
            self.rig.capture.restart()
        self.rig.fails_at = None

    def teardown(self) -> None:
        """All is compared once more, and cleared away."""
        try:
            if self.is_sound:
                self.check()
        finally:
            if hasattr(self, "rig"):
                self.rig.kill()
            self.writer.close()
            self._folder.cleanup()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_pushed_is_what_a_full_scan_says(engine: str) -> None:
    """Every new message once, every task's last state, and nothing else; and who asks for all types has the tables."""
    with writer_process() as writer:
        run_state_machine_as_test(
            lambda: Attached(writer, ENGINES[engine]),  # type: ignore[arg-type]
            settings=settings(
                max_examples=settings().max_examples * 2 // 5,
                stateful_step_count=25,
                suppress_health_check=list(HealthCheck),
            ),
        )
