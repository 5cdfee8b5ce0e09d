"""The capture thread: waits for a wake, looks, and works off passes, for as long as it lives.

It never raises for what happens to the database or the state file while it runs: it says what is wrong in `status`,
waits, and goes on by itself when the cause is gone.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from storage.capture import Capture
from storage.errors import DatabaseAway, DatabaseUnusable, MappingMisfit, WalcastError
from storage.examine import CHUNK_ROWS
from storage.legacy import BeingPutBack, Busy, LegacyDatabase
from storage.status import QUIET, Pace, Phase, ProgressLog, Status
from storage.wake import Waker, be_punctual

log = logging.getLogger("walcast.capture")

EARLY = (*(0.00005,) * 6, *(0.0001,) * 4, *(0.0002,) * 3, 0.0004, 0.001, *(0.002,) * 15, 0.032)
"""Seconds between looks after a file event that came before its commit was visible (an fsync may lie between)."""
ROLLBACK_CHUNK_ROWS = 100
ROLLBACK_PAUSE, ROLLBACK_PASS_PAUSE = 9, 30
"""In rollback mode our lock is held for at most one part in ten of the time, however much is committed, and by a pass,
which nobody waits for, for one in thirty."""
FLAT_OUT = 4
FLAT_OUT_RATE, FLAT_OUT_ROLLBACK_RATE = 1000, 200
"""More commits than this in one look, and at such a rate (1/s): then the writer counts as one that never rests. It gets
more room and its events come in batches, since each of our looks and each file event slows it down a little."""
FLAT_OUT_WAIT, FLAT_OUT_SHARE, BEYOND_SHARE = 0.003, 0.2, 0.05
"""Seconds between looks in WAL mode then, and the share of the time for which a snapshot may be held."""
BEYOND_RATE = 8000
"""Commits a second (1/s) that can hardly be kept up with: then the smaller share is no loss."""
LEFT_BEHIND, LEFT_LOAD = 0.05, 0.2
"""Seconds for which each look has found more than it could read: then it is no loss either if the thread works for such
a share of the time. Where processors share a core or a host, its work costs the writer a tenth of it."""
FLAT_OUT_PAUSES = (0.0125, 0.025, 0.05, 0.1, 0.2)
"""Seconds between looks in rollback mode then, ever longer: a commit that meets one waits for a millisecond or more."""
IMPATIENT, LONG_COMMIT = 3, 0.2
"""Waits of that kind in vain after which it is one long transaction, and seconds before the next of them: they take
processor time."""
FLAT_OUT_UNCAUGHT = 3
"""Looks in a row after which no journals are caught any more, which costs such a writer a quarter of its time: what is
appended and what changed lately is seen by each look, and the rest by a pass."""
PATIENCE_FOR_COMMIT, KEPT_OUT = 0.005, 0.02
"""Seconds for which a look then waits for the end of a commit; likewise one that was kept out for so long before."""
FLAT_OUT_PASS = 5
"""Times such a pause between the steps of a pass then: nothing is known to be waiting for it."""
LONGEST_PAUSE = 0.2
PUT_OFF, PUT_OFF_AGAIN = 0.04, 0.005
"""Seconds for which a step of a pass in rollback mode waits for the writer to rest, and between looks whether it does:
then it needs no lock."""
AFTER_NEWS = 14
"""Where in EARLY to begin after a look that found something."""
REHEARSED = range(16, len(EARLY) - 1)
"""Where in EARLY a look that found nothing is followed by one in vain: 5 to 31 ms after the last news. The longer ago
the last one was, the less it helps, and the more the next one costs."""
ROLLBACK_IDLE, ROLLBACK_IDLE_PAUSE = 2.0, 2
"""Seconds without a commit after which a pass may hold the lock for one part in three of the time."""
WRITING = 0.02
"""Seconds between looks at a rollback journal that is in use."""
BUSY = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)
AWAY = (0.05, 0.1, 0.25, 0.5)
PATIENCE = 5.0
"""Seconds for which a database that is locked at the start is tried before it counts as unusable."""
STATE_PATIENCE = 5.0
"""Seconds without a failure after which the state file counts as mended, though nothing had to be written."""
FREE_PASS = 0.05
"""Seconds of a pass that are not counted against its share of the processor: small tables are done by then."""


class CaptureWorker:
    """`start`, then read `status`; `stop` ends the thread at its next turn and waits for it."""

    def __init__(
        self,
        capture: Capture,
        legacy: LegacyDatabase,
        waker: Waker,
        pace: Pace,
        *,
        wait: bool,
        close: Callable[[], None],
    ) -> None:
        self.capture, self.status = capture, Status()
        self._legacy, self._waker, self._pace, self._wait, self._close = legacy, waker, pace, wait, close
        self._stopping, self._progress = False, ProgressLog()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="walcast-capture", daemon=True)
        self._tries = self._early = self._writing = self._flat_out = 0
        self._is_beyond = False
        self._left_at: float | None = None
        self._busy_since: float | None = None
        self._kept_out_since: float | None = None
        self._began = time.monotonic()
        self._next_step = self._next_look = self._news_at = self._stirred_at = 0.0
        self._put_off_since: float | None = None
        self._waited = False
        self._state_failed_at: tuple[float, int] | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def settled(self, timeout: float) -> bool:
        """Wait until the baseline is taken or something failed; False if the timeout came first."""
        return self._settled.wait(timeout)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread and wait for it. From any other thread; safe to call twice."""
        self._stopping = True
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join()

    # -- the thread

    def _run(self) -> None:
        be_punctual()
        try:
            delay, hinted = 0.0, True
            while not self._stopping:
                self.status.beat = self.status.turn_since = time.monotonic()
                delay = self._guarded_turn(hinted)
                self.status.behind_since = self.capture.behind_since
                self.status.turn_since = None
                hinted = self._sleep(delay)
        except BaseException as error:
            log.critical("the capture thread died: %s", error, exc_info=True)
            self._say("failed", f"the capture thread died: {error}")
            raise
        finally:
            self._close()
            self._settled.set()
        if self.status.error is None:
            self._say("stopped", "the bridge has stopped")

    def _sleep(self, delay: float) -> bool:
        """Wait for a hint; whether one came. poll() counts in milliseconds, so less than one is slept."""
        if 0.0 < delay < 0.001:
            time.sleep(delay)
            delay = 0.0
        return self._waker.wait(delay)

    def _guarded_turn(self, hinted: bool) -> float:
        """One turn; how many seconds to wait for a hint before the next."""
        try:
            delay = self._turn(hinted)
            self._tries, self._busy_since = 0, None
            return delay
        except Busy as error:
            return self._busy(error)
        except (DatabaseAway, DatabaseUnusable, MappingMisfit) as error:
            return self._away(error)
        except OSError as error:  # pages are read past SQLite
            path = self._legacy.path
            return self._away(DatabaseAway(f"{path} cannot be read ({error.strerror})", "it is tried again"))
        except sqlite3.Error as error:  # the legacy database's errors are translated: this is the state file's
            self._state_failed_at = time.monotonic(), self.capture.records
            self._say("state", f"the state file cannot be used ({error})")
            self._settled.set()  # there is nothing to wait for: whoever starts us may listen and say so
            return self._retry()

    def _turn(self, hinted: bool) -> float:
        if not self.capture.is_attached:
            self._attach()
        if hinted and self._stirred_at <= self._news_at:
            self._stirred_at = self.status.beat
        if self._is_in_the_way():
            return WRITING
        if (pause := self._next_look - time.monotonic()) > 0:
            time.sleep(pause)  # deaf to file events, each of which would wake us for nothing
        began = time.monotonic()
        # Between the hints and the poll, only what can be seen without a lock is asked.
        thorough = not hinted and not self._flat_out and self._early >= len(EARLY)
        was_flat_out = self._flat_out
        news = self.capture.look(thorough=thorough, have_files_moved=self._waker.has_moved)
        self._waker.has_moved = not self._waker.has_file_events
        self._kept_out_since = None
        if self._early in REHEARSED and not (hinted or news or self.capture.is_behind):
            self.capture.rehearse()
        if news or self._flat_out or self._legacy.patience:
            self._note_mode(news)
        if self.capture.is_behind and time.monotonic() >= self._next_step:
            self._step()
        self._report()
        if self._left_at is not None and (now := time.monotonic()) - self._left_at > LEFT_BEHIND:
            self._next_look = max(self._next_look, now + min((now - began) * (1 / LEFT_LOAD - 1), LONGEST_PAUSE))
        # An event that was read together with the last one may be of a commit that cannot be seen yet.
        self._early = 0 if (hinted or was_flat_out) and not news else AFTER_NEWS if news else self._early + 1
        return self._delay()

    def _attach(self) -> None:
        self.capture.attach(existing_is_baseline=not self._waited)
        self.status.wal = self._legacy.is_wal()
        self._waker.rewatch()
        log.info("attached to %s", self._legacy.path)

    def _note_mode(self, news: bool) -> None:
        """In rollback mode readers and writers shut each other out: leave most of the time to writers. A writer that
        never rests is left more of it in either mode."""
        now, is_wal = time.monotonic(), self._legacy.is_wal()
        is_flat_out = news and self._is_flat_out(self.capture.commits, now, is_wal=is_wal)
        # Not at the first look: a handful of commits in the same instant is no writer that goes on like that.
        is_going_on = is_flat_out and self._flat_out > 0
        self._is_beyond = is_going_on and self.capture.commits > BEYOND_RATE * self._since(now)
        is_left = self._is_beyond and any(watched.tail for watched in self.capture.watched)
        self._left_at = (self._left_at or now) if is_left else None
        self._note_flat_out(self._flat_out + 1 if is_flat_out else 0)
        self.status.wal, self._news_at = is_wal, now if news else self._news_at
        self.capture.locked_rows = CHUNK_ROWS if is_wal or is_flat_out else ROLLBACK_CHUNK_ROWS
        self._legacy.patience = PATIENCE_FOR_COMMIT if is_flat_out and not is_wal else 0.0
        self._next_look = now + min(self._pause(), LONGEST_PAUSE)

    def _is_flat_out(self, commits: int, now: float, *, is_wal: bool) -> bool:
        """Whether so many since the last ones, or since the first file event after them, are those of a writer that
        never rests."""
        rate = FLAT_OUT_RATE if is_wal else FLAT_OUT_ROLLBACK_RATE
        return commits > max(FLAT_OUT, rate * self._since(now))

    def _since(self, now: float) -> float:
        """Seconds since the last news, or since the first file event after them."""
        return now - max(self._news_at, self._stirred_at)

    def _note_flat_out(self, looks: int) -> None:
        """How many looks in a row have met a writer that never rests. While that is so, no file event is asked for."""
        if looks and not self._flat_out:
            self._waker.deafen()
            self.capture.spare_disk(is_on=True)
        elif self._flat_out and not looks:
            self._waker.rewatch()
            self._waker.has_moved = True
            self.capture.resume()
            self.capture.spare_disk(is_on=False)
        if looks >= FLAT_OUT_UNCAUGHT and not self.status.wal:
            self.capture.pause()
        has_begun, self._flat_out = looks and not self._flat_out, looks
        if has_begun:
            self._next_step = time.monotonic() + FLAT_OUT_PASS * self._pause()  # each step is one lock more

    def _pause(self) -> float:
        """Seconds to leave to the writer after a look."""
        held = self._legacy.held
        if self._flat_out and self.status.wal:
            return max(FLAT_OUT_WAIT, held * (1 / (BEYOND_SHARE if self._is_beyond else FLAT_OUT_SHARE) - 1))
        if self._flat_out:
            return max(held * ROLLBACK_PAUSE, FLAT_OUT_PAUSES[min(self._flat_out, len(FLAT_OUT_PAUSES)) - 1])
        return 0.0 if self.status.wal else held * ROLLBACK_PAUSE

    def _is_in_the_way(self) -> bool:
        """Whether a commit is under way in rollback mode: its end wakes us, a reader would only block it."""
        is_patient = self._legacy.patience > 0.0
        if self.status.wal or is_patient or not self._legacy.is_open or not self._legacy.is_being_written():
            self._writing = 0
            return False
        self._writing += 1
        self._note_kept_out()
        return self._writing * WRITING < 1.0  # after that the journal is a dead writer's: let SQLite say so

    def _note_kept_out(self) -> None:
        """A writer that never rests leaves no gap that is met by chance."""
        now = time.monotonic()
        self._kept_out_since = self._kept_out_since or now
        if not self.status.wal and now - self._kept_out_since > KEPT_OUT:
            self._legacy.patience = PATIENCE_FOR_COMMIT

    def _is_put_off(self, now: float) -> bool:
        """Whether the next step had better come a little later. Not if the writer never rests: it is seldom enough."""
        if self.status.wal or self._flat_out or not self.capture.is_better_put_off():
            self._put_off_since = None
            return False
        self._put_off_since = self._put_off_since or now
        return now - self._put_off_since < PUT_OFF

    def _step(self) -> None:
        started = time.monotonic()
        if self._is_put_off(started):
            self._next_step = started + PUT_OFF_AGAIN
            return
        self.capture.step()
        self._put_off_since = None
        took = time.monotonic() - started
        passing = [watched.progress.started for watched in self.capture.watched if watched.progress is not None]
        is_long = any(started - begun > FREE_PASS for begun in passing)
        is_sweeping, is_passing = self.capture.is_sweeping, self.capture.is_passing
        is_long = is_sweeping or (is_long and is_passing)
        pause = took * (1 / self._pace.share - 1) if is_long else 0.0
        if self._flat_out:
            is_rare = (is_passing or is_sweeping) and not self.status.wal
            pause = max(pause, self._pause() * (FLAT_OUT_PASS if is_rare else 1))
        elif not self.status.wal and self.capture.has_locked:
            is_busy = time.monotonic() - self._news_at < ROLLBACK_IDLE
            factor = ROLLBACK_PASS_PAUSE if is_passing or is_sweeping else ROLLBACK_PAUSE
            pause = max(pause, self._legacy.held * (factor if is_busy else ROLLBACK_IDLE_PAUSE))
        self._next_step = time.monotonic() + pause

    def _delay(self) -> float:
        """A hint may come before its commit can be seen: look a few times more, ever later, before polling again."""
        delay = EARLY[self._early] if self._early < len(EARLY) else self._pace.poll
        if self.capture.is_behind:
            delay = min(delay, max(0.0, self._next_step - time.monotonic()))
        return min(delay, self._pace.poll)

    def _is_state_failing(self) -> bool:
        """After a failure to write, a look that had nothing to write proves nothing."""
        if self._state_failed_at is not None:
            at, records = self._state_failed_at
            if not self.capture.is_behind or self.capture.records > records or time.monotonic() - at > STATE_PATIENCE:
                self._state_failed_at = None
        return self._state_failed_at is not None

    def _report(self) -> None:
        capture, status = self.capture, self.status
        if self._is_state_failing():
            return
        if capture.misfits:
            self._say("paused", "; ".join(capture.misfits))
        elif not capture.is_baselined:
            self._say("baseline", "the baseline of existing rows is being taken")
            status.progress = capture.progress
            self._progress.tell(f"baseline: {status.progress} rows")
        elif capture.is_caught_up:
            if status.phase != "live":
                log.info("every row is known after %.1f s", time.monotonic() - self._began)
            self._say("live", "")
            self._settled.set()
        elif status.phase != "live":
            self._say("catching_up", "rows that changed while the bridge was away are being looked for")

    def _say(self, phase: Phase, reason: str) -> None:
        if (phase, reason) != (self.status.phase, self.status.reason):
            level = logging.INFO if phase in QUIET else logging.WARNING
            log.log(level, "%s%s", phase, f": {reason}" if reason else "")
        if self.status.phase in ("live", "paused") and phase != self.status.phase:
            self._began = time.monotonic()
        self.status.phase, self.status.reason = phase, reason

    # -- what goes wrong

    def _busy(self, error: Busy) -> float:
        """The writer holds a lock: try again soon, and after a while say so."""
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        if now - self._busy_since > PATIENCE:
            self._say("away", str(error))
            if not self.capture.is_attached and not self._wait:
                hint = "it stays locked; a writer in PRAGMA locking_mode=EXCLUSIVE lets nobody else read"
                return self._give_up(DatabaseUnusable(str(error), hint))
        self._tries += 1
        self._note_kept_out()
        if not (self.status.wal or self._flat_out) and self._is_flat_out(self.capture.unseen, now, is_wal=False):
            self._note_flat_out(1)
            self._legacy.patience, self._next_look = PATIENCE_FOR_COMMIT, now + min(self._pause(), LONGEST_PAUSE)
        if self._legacy.patience and self._tries > IMPATIENT:
            self._legacy.patience, self._kept_out_since = 0.0, now + LONG_COMMIT
        return BUSY[min(self._tries, len(BUSY)) - 1]

    def _away(self, error: WalcastError) -> float:
        if not self.capture.is_attached and not self._wait:
            return self._give_up(error)
        self._waited = self._waited or not self.capture.is_attached
        self._say("away" if self.capture.is_attached else "waiting", str(error))
        self._settled.set()
        # The file that is open keeps its inode number from whatever takes its place, and shows what is put into it.
        if _exists(self._legacy.path) and not isinstance(error, BeingPutBack):
            self._legacy.close()
        return self._retry()

    def _retry(self) -> float:
        if self.capture.is_attached:
            self.capture.restart()
        self._waker.rewatch()
        self._tries += 1
        return AWAY[min(self._tries, len(AWAY)) - 1]

    def _give_up(self, error: WalcastError) -> float:
        self.status.error = error
        self._say("failed", str(error))
        self._stopping = True
        return 0.0


def _exists(path: Path) -> bool:
    """Whether a file can be seen; not so in a folder that may not be searched, where Path.exists raises."""
    try:
        return path.exists()
    except OSError:
        return False
