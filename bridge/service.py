"""The bridge as one thing to own: the capture thread behind, the hub in front, the log between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from queue import Empty, SimpleQueue

from bridge.decide import decide
from bridge.hub import Hub
from bridge.load import Loader
from bridge.mapping import Mapping
from bridge.metrics import Metrics
from bridge.replay import Replayer
from bridge.settings import Settings
from bridge.status import WorkerStatus
from storage.capture import Capture
from storage.eventlog import EventLog
from storage.hints import PageHints
from storage.legacy import LegacyDatabase, probe
from storage.state import StateFile
from storage.status import Pace
from storage.types import Event
from storage.wake import Waker
from storage.worker import PATIENCE, CaptureWorker

GIVE_UP = PATIENCE + 2
"""Seconds after which a database that cannot be attached to has been given up by the worker."""
PORTION = 256
"""Events that are given to the loop at once: between two portions the sockets of fast clients drain."""
UNDELIVERED = 8
"""Portions that may be on their way from the capture thread to the loop."""


def require_state(path: Path) -> None:
    """Try to open a state file that is not ours yet, or to make it. Raises StateUnusable."""
    state = StateFile(path, keep_events=1, keep_seconds=0)
    state.open()
    state.close()


class Bridge:
    """`start`, then everything runs by itself; `stop` ends it. Both belong to the loop that owns the hub."""

    def __init__(
        self,
        settings: Settings,
        database: Path,
        state: Path,
        mapping: Mapping,
    ) -> None:
        self._settings = settings
        self._state = StateFile(state, keep_events=settings.retention_events, keep_seconds=settings.retention_seconds)
        self._legacy = LegacyDatabase(database)
        self._hints = PageHints(database)
        self._waker = Waker(database, use_inotify=settings.inotify)
        self._log = EventLog(state)
        self._slots: SimpleQueue[None] = SimpleQueue()  # a semaphore without a line of Python on the way
        for _ in range(UNDELIVERED):
            self._slots.put(None)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.metrics = Metrics()
        self.hub = Hub(self.metrics)
        watched, others = (*mapping.sections, *mapping.children), mapping.others
        self.capture = Capture(self._legacy, self._state, watched, decide, self._publish, self._hints, others)
        self.worker = CaptureWorker(
            self.capture, self._legacy, self._waker, self._pace(), wait=settings.wait, close=self._close
        )
        # A watcher that was told to look seldom is silent that long without being stalled.
        stall = settings.stall_seconds + self._pace().poll
        self.status = WorkerStatus(self.worker, stall, settings.max_behind_seconds)
        self.replayer = Replayer(self._log, lambda: self._state.pruned, settings.replay_limit)
        self.loader = Loader(database, mapping.sections, mapping.conversations)
        self._legacy.before_open = self.loader.forget
        self.loader.bar(lambda: self._legacy.is_being_put_back)
        self.metrics.watch(self.status)

    def _pace(self) -> Pace:
        poll = self._settings.poll_interval or (0.25 if self._waker.has_file_events else 0.02)
        return Pace(poll, self._settings.scan_share)

    async def start(self, patience: float) -> None:
        """Open the state file and start watching; returns when the baseline is taken or after `patience` seconds.

        Raises StateUnusable, DatabaseUnusable, MappingMisfit.
        """
        self._loop = asyncio.get_running_loop()
        self.hub.later = self._loop.call_soon
        try:
            if not self._settings.wait:  # before anything is created beside a file that is not there
                await asyncio.to_thread(probe, self._legacy.path)
            await asyncio.to_thread(self._state.open)
            self.hub.begin(self._state.epoch, self._state.head)
            await self._log.open()
        except BaseException:
            await self._log.close()
            self._waker.close()
            self._state.close()
            raise
        self.worker.start()
        await asyncio.to_thread(self.worker.settled, patience)
        if not self.capture.is_attached and not self._settings.wait:  # it is locked: the worker gives up or gets in
            await asyncio.to_thread(self.worker.settled, GIVE_UP)
        if self.worker.status.error is not None:
            await self.stop()
            raise self.worker.status.error

    async def stop(self) -> None:
        """Stop watching and close every file. Events that were logged but not yet published stay in the log."""
        self._loop = None
        await self.loader.close()
        await asyncio.to_thread(self.worker.stop)
        await self._log.close()

    def _close(self) -> None:
        """In the capture thread, as its last act."""
        self._legacy.close()
        self._hints.close()
        self._state.close()
        self._waker.close()

    def _publish(self, epoch: str, events: list[Event]) -> None:
        """From the capture thread to the hub. The events are in the log already: nothing is lost if none takes them."""
        for start in range(0, len(events) or 1, PORTION):
            self._hand_over(epoch, events[start : start + PORTION])

    def _hand_over(self, epoch: str, events: list[Event]) -> None:
        while True:
            try:
                self._slots.get(timeout=0.1)
                break
            except Empty:
                if self._loop is None:
                    return
        loop = self._loop
        if loop is None or loop.is_closed():
            self._slots.put(None)
            return
        loop.call_soon_threadsafe(self._deliver, epoch, events)

    def _deliver(self, epoch: str, events: list[Event]) -> None:
        self._slots.put(None)
        self.hub.publish(epoch, events)
