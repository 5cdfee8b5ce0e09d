"""What the kernel knows of a process. Linux only, as the benchmarks are."""

from __future__ import annotations

import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of memory: resident now, the private part of it, and the most there ever was."""

    total: int
    private: int
    peak: int


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, all its threads, in user and kernel mode; nanosecond resolution.

    The clock id is what clock_getcpuclockid(3) computes; /proc/PID/stat counts in steps of 10 ms, which is too coarse.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> Resident:
    """From /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    fields = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return Resident(fields["VmRSS"], fields["RssAnon"], fields["VmHWM"])


def raise_descriptor_limit() -> int:
    """Allow as many open files as the system lets us; child processes inherit it. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
