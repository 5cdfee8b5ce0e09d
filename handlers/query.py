"""What a request asks for in its query, checked."""

from __future__ import annotations

from math import isfinite

from aiohttp import web

from bridge.filters import BadFilter, Filter
from handlers.problems import Problem


def filter_of(request: web.Request) -> Filter:
    """`?conversation_id=` (repeatable) and `?events=` (comma-separated). Raises Problem 400."""
    try:
        return Filter.asked(request.query.getall("conversation_id", []), request.query.getall("events", []))
    except BadFilter as bad:
        raise bad_request(bad.code, str(bad)) from bad


def number_of(request: web.Request, name: str, default: float, least: float, most: float) -> float:
    """A number of the query; one beyond `most` is taken as `most`. Raises Problem 400."""
    given = request.query.get(name)
    try:
        number = default if given is None else float(given)
    except ValueError:
        number = float("nan")
    if not isfinite(number) or number < least:
        raise bad_request(f"bad_{name}", f"?{name}= is a number from {least:g} to {most:g}")
    return min(number, most)


def bad_request(reason: str, detail: str) -> Problem:
    """400."""
    return Problem(400, "Bad request", detail, reason)
