"""Where and when the figures were taken: without that they mean nothing."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.peer import REPO


@dataclass(frozen=True, slots=True)
class Taken:
    """The circumstances of one benchmark."""

    date: str
    machine: str
    kernel: str
    python: str
    sqlite: str
    revision: str
    scale: str
    seconds: float
    load: str
    """The 1-minute load average before and after; the suite itself adds about 1."""


def here(scale: str, seconds: float, load_before: float) -> Taken:
    """The circumstances now."""
    return Taken(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{os.cpu_count()} × {_processor()}, {_memory_gb()} GB",
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        sqlite=sqlite3.sqlite_version,
        revision=_revision(),
        scale=scale,
        seconds=round(seconds, 1),
        load=f"{load_before:.1f} → {os.getloadavg()[0]:.1f}",
    )


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def _revision() -> str:
    """The commit, with a plus sign if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
