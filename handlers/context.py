"""What every handler is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from bridge.service import Bridge
from bridge.settings import Settings

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Context:
    """The program's parts as the handlers see them."""

    settings: Settings
    bridge: Bridge
    samples: Path


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
