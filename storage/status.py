"""How the capture is, and how often it is to look."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Literal

from storage.errors import WalcastError

log = logging.getLogger("walcast.capture")

PROGRESS_EVERY = 10.0
"""Seconds between lines of the log about what takes long."""

Phase = Literal[
    "starting", "waiting", "baseline", "catching_up", "live", "paused", "away", "state", "failed", "stopped"
]

QUIET = ("live", "waiting", "baseline", "catching_up", "stopped")
"""Phases that are no cause for concern."""


@dataclass(slots=True)
class Status:
    """How the capture is. Written by its thread, read by any; each field is replaced whole."""

    phase: Phase = "starting"
    reason: str = "the bridge is starting"
    beat: float = 0.0
    """time.monotonic() of the last sign of life."""
    behind_since: float | None = None
    """time.monotonic() since when there are commits that a pass still has to find."""
    turn_since: float | None = None
    """time.monotonic() since when the look or the part of a pass that is under way has been going on."""
    error: WalcastError | None = None
    """Why the first attach failed for good."""
    wal: bool = False
    progress: str = ""
    """How far the baseline has come."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look without a hint, and what share of one processor a long pass may take."""

    poll: float
    share: float = 0.25


class ProgressLog:
    """Tells the log how far something is that takes long; nothing if it does not take so long."""

    def __init__(self) -> None:
        self._next: float | None = None

    def tell(self, progress: str) -> None:
        """Called again and again while it goes on."""
        now = time.monotonic()
        if self._next is not None and now >= self._next:
            log.info("%s", progress)
        if self._next is None or now >= self._next:
            self._next = now + PROGRESS_EVERY
