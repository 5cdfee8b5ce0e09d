"""How the capture is, and how often it is to look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.errors import WalcastError

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
