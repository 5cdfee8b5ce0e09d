"""The same for sections with `each`: whatever is done to arrays of messages, what is pushed is what a scan says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from tests.storage.capture_rig import ENGINES
from tests.storage.documents import WHERE, Documents, DocumentScan, statements
from tests.storage.legacy_writer import Statement, writer_process
from tests.storage.operations import Operation, operations
from tests.storage.oracle import Scan
from tests.storage.test_capture_property import SMALL_CHUNK, Attached


class AttachedToDocuments(Attached):
    """The same writer, the same bridge; each row holds an array."""

    @initialize(
        schema=st.builds(
            Documents,
            st.sampled_from(["TEXT PRIMARY KEY", "INTEGER PRIMARY KEY"]),
            st.booleans(),
            st.sampled_from([None, WHERE]),
        )
        | st.just(Documents("TEXT PRIMARY KEY NOT NULL", without_rowid=True, where=WHERE)),
        page_size=st.sampled_from([512, 4096]),
        vacuum=st.sampled_from([0, 1]),
        mode=st.sampled_from(["wal", "delete"]),
        existing=st.lists(operations, max_size=12),
        is_baseline=st.booleans(),
        chunk=st.sampled_from([SMALL_CHUNK, None]),
    )
    def begin(
        self,
        schema: Documents,
        page_size: int,
        vacuum: int,
        mode: str,
        existing: list[Operation],
        is_baseline: bool,
        chunk: int | None,
    ) -> None:
        """A database with rows in it, and the first attach."""
        self._documents, self._scan = schema, DocumentScan(schema)
        self.attach(schema, page_size, vacuum, mode, existing, is_baseline, chunk)

    def scan(self) -> Scan:
        """What the arrays hold now."""
        return self._scan(self.writer)

    @property
    def is_told_all(self) -> bool:
        """What stands in a row that cannot be read is not known."""
        return not self._scan.is_broken

    def statements(self, operation: Operation) -> list[Statement]:
        """An operation on an array."""
        return statements(self._documents, operation)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_pushed_of_arrays_is_what_a_full_scan_says(engine: str, tmp_path: Path) -> None:
    """Every new element once, every task's last state, and nothing else."""
    with writer_process() as writer:
        run_state_machine_as_test(
            lambda: AttachedToDocuments(writer, ENGINES[engine]),  # type: ignore[arg-type]
            settings=settings(
                max_examples=settings().max_examples // 5,
                stateful_step_count=25,
                suppress_health_check=list(HealthCheck),
            ),
        )
