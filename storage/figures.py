"""What a capture tells of itself: read by its thread, and by those who ask how it is."""

from __future__ import annotations

from collections.abc import Sequence

from storage.examine import Examiner
from storage.hints import Hints
from storage.state import StateFile
from storage.watched import Watched


class Figures:
    """The part of a capture that is asked and changes nothing. From any thread, each figure by itself."""

    def __init__(self, state: StateFile, hints: Hints, examiner: Examiner, watched: Sequence[Watched]) -> None:
        self._state, self._hints, self._examiner = state, hints, examiner
        self.watched = list(watched)
        self.is_attached = False
        self.looks = 0

    @property
    def mode(self) -> str:
        """Which engine says where to look."""
        return self._hints.mode

    @property
    def commits(self) -> int:
        """How many commits the last look took in, as far as the pages' counters tell."""
        return self._hints.commits

    @property
    def unseen(self) -> int:
        """How many commits were made in rollback mode since the last look. From the capture's thread."""
        return self._hints.unseen

    def pause(self) -> None:
        """Follow no single commits until `resume`, so that the hints cost a writer that never rests nothing."""
        self._hints.pause()

    def resume(self) -> None:
        """Follow each commit again. From the capture's thread, as `pause`."""
        self._hints.resume()

    def spare_disk(self, *, is_on: bool) -> None:
        """Whether to sync our own file as seldom as can be. From the capture's thread."""
        self._state.spare_disk(is_on=is_on)

    @property
    def records(self) -> int:
        """How often something was written to the state file."""
        return self._examiner.records

    @property
    def rows_read(self) -> int:
        """Rows read through SQL so far."""
        return self._examiner.rows_read

    @property
    def is_behind(self) -> bool:
        """Whether a pass is under way or asked for."""
        return any(watched.is_behind for watched in self.watched)

    @property
    def behind_since(self) -> float | None:
        """time.monotonic() since when there may be commits that a pass still has to find."""
        return min((w.behind_since for w in self.watched if w.is_behind and w.behind_since is not None), default=None)

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was there when the database was opened is known, whatever a pass is asked for since."""
        return all(watched.is_caught_up or watched.reader is None for watched in self.watched)

    @property
    def is_baselined(self) -> bool:
        """Whether every section's existing rows are known."""
        return self.is_attached and all(watched.baseline == "done" for watched in self.watched)

    @property
    def progress(self) -> str:
        """How far the baseline has come, in rows."""
        running = [w for w in self.watched if w.baseline != "done"]
        return ", ".join(f"{w.section.title}: {w.rows_taken:,} of {w.rows_total:,}" for w in running)

    @property
    def baseline_ratio(self) -> float:
        """Which part of the rows that were there is taken as baseline: 1 when it is taken."""
        if self.is_baselined:
            return 1.0
        total = sum(watched.rows_total for watched in self.watched)
        return sum(watched.rows_taken for watched in self.watched) / total if total else 0.0

    @property
    def fallback_reasons(self) -> dict[str, int]:
        """Looks for which no hint said where to look, by reason."""
        return dict(self._hints.reasons)

    @property
    def epochs_begun(self) -> dict[str, int]:
        """Epochs of the log that began since the start, by reason."""
        return {str(reason): count for reason, count in self._state.epochs_begun.copy().items()}

    @property
    def misfits(self) -> list[str]:
        """Why sections are paused."""
        return [watched.misfit for watched in self.watched if watched.misfit]

    @property
    def failed_rows(self) -> int:
        """Rows that could not be read or rendered."""
        return sum(watched.failed for watched in self.watched)

    @property
    def waiting_rows(self) -> int:
        """Rows that nobody gets: they have no owner yet, or cannot be rendered."""
        return sum(watched.waiting for watched in self.watched)
