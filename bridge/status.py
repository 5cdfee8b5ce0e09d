"""How the bridge is: fresh, not merely alive."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from storage.status import Status
from storage.watched import Watched
from storage.worker import CaptureWorker


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of the bridge's state."""

    is_ready: bool
    reason: str
    phase: str
    mode: str
    behind_seconds: float
    """0 means that no commit waits that we know of."""
    beat_seconds: float
    failed_rows: int
    waiting_rows: int
    looks: int
    passes: int
    fallbacks: dict[str, int]
    epochs: dict[str, int]
    rows_read: int
    baseline: float
    """Which part of the rows that were there at the first attach is taken."""
    sections: tuple[dict[str, str | int], ...]


class StatusSource(Protocol):
    """What can be asked how it is."""

    def snapshot(self) -> Snapshot:
        """Read the state now. From any thread."""


class WorkerStatus:
    """The state of the capture thread, judged from outside: a thread that hangs cannot say so itself."""

    def __init__(self, worker: CaptureWorker, stall_seconds: float, max_behind_seconds: float) -> None:
        self._worker, self._stall, self._max_behind = worker, stall_seconds, max_behind_seconds

    def snapshot(self) -> Snapshot:
        """Read the state now."""
        worker, status, capture = self._worker, self._worker.status, self._worker.capture
        now = time.monotonic()
        silent, behind = now - status.beat if status.beat else 0.0, _behind(status, now)
        reason = status.reason
        if status.phase == "baseline" and status.progress:
            reason = f"{reason} ({status.progress} rows)"
        if status.phase == "live" and silent > self._stall:
            reason = f"the watcher has given no sign of life for {silent:.0f} s"
        elif status.phase == "live" and behind > self._max_behind:
            reason = f"commits of the last {behind:.0f} s are still being looked for"
        elif not worker.is_alive and status.phase not in ("starting", "stopped", "failed"):
            reason = "the watcher has died"
        return Snapshot(
            is_ready=not reason,
            reason=reason,
            phase=status.phase,
            mode=capture.mode,
            behind_seconds=behind,
            beat_seconds=silent,
            failed_rows=capture.failed_rows,
            waiting_rows=capture.waiting_rows,
            looks=capture.looks,
            passes=capture.passes,
            fallbacks=capture.fallback_reasons,
            epochs=capture.epochs_begun,
            rows_read=capture.rows_read,
            baseline=capture.baseline_ratio,
            sections=tuple(
                _section(capture.mode, watched) for watched in capture.watched if watched.section.kind != "child"
            ),
        )


def _behind(status: Status, now: float) -> float:
    """Seconds by which an event may be late that is pushed next: commits may wait since the pass or look began."""
    # The turn first: at its end it is noted what it leaves behind, and only then that it is over.
    since = [begun for begun in (status.turn_since, status.behind_since) if begun is not None]
    return max(0.0, now - min(since)) if since else 0.0


def _section(mode: str, watched: Watched) -> dict[str, str | int]:
    state = "paused" if watched.misfit else "live" if watched.baseline == "done" else "baseline"
    section = watched.section
    return {
        "section": section.name,
        "table": section.table,
        "capture": mode,
        "state": state,
        "failed_rows": watched.failed,
        "waiting_rows": watched.waiting,
    }
