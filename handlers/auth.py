"""Who asks: the owner of a request, and whether its origin may ask at all."""

from __future__ import annotations

import time

from aiohttp import web

from bridge.decide import OWNER_LIMIT
from bridge.settings import Settings
from bridge.wallet import BadCredential, verify, wallet_key
from handlers.problems import Problem

KEY_HEADER, NONCE_HEADER, SIGNATURE_HEADER = "X-Solana-PublicKey", "X-Solana-Nonce", "X-Solana-Signature"


def owner_of(request: web.Request, settings: Settings, now: float | None = None) -> str:
    """The owner a request speaks for. Raises Problem 401."""
    # A proxy in front authenticates the header, and would let a query pass that it knows nothing of.
    is_vouched = settings.auth == "header" and settings.trust_header
    owner = request.headers.get(KEY_HEADER) if is_vouched else _given(request, KEY_HEADER, "publicKey")
    if not owner:
        raise _unauthorized(
            "missing_owner",
            f"give the wallet address in the header {KEY_HEADER}, or as ?publicKey= where headers cannot be set",
        )
    if len(owner) > OWNER_LIMIT:
        raise _unauthorized("bad_owner", f"the owner has more than {OWNER_LIMIT} characters")
    if not _is_text(owner):
        raise _unauthorized("bad_owner", "the owner is not UTF-8")
    try:
        if settings.auth == "signed":
            _verify(request, owner, settings.signature_max_age, time.time() if now is None else now)
        elif settings.owner_format == "solana":
            wallet_key(owner)
    except BadCredential as bad:
        raise _unauthorized(bad.code, str(bad)) from bad
    return owner


def _given(request: web.Request, header: str, query: str) -> str | None:
    """A header has precedence over the query."""
    return request.headers.get(header) or request.query.get(query)


def _is_text(given: str) -> bool:
    """Bytes of a header that are no UTF-8 arrive as halves of characters, which no database takes."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unauthorized(reason: str, detail: str) -> Problem:
    return Problem(401, "Not authenticated", detail, reason)


def _verify(request: web.Request, owner: str, max_age: float, now: float) -> None:
    nonce, signature = _given(request, NONCE_HEADER, "nonce"), _given(request, SIGNATURE_HEADER, "signature")
    if not nonce or not signature:
        detail = f"give {NONCE_HEADER} and {SIGNATURE_HEADER}, or ?nonce= and ?signature="
        raise _unauthorized("missing_signature", detail)
    verify(owner, nonce, signature, max_age=max_age, now=now)


def is_origin_allowed(request: web.Request, settings: Settings) -> bool:
    """A browser names the page's origin; anything else names none. The server's own is always allowed.

    Compared by host and port alone: behind a proxy that ends TLS the scheme differs.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    origin = origin.lower()
    if origin in settings.allowed_origins or "*" in settings.allowed_origins:
        return True
    return origin.partition("://")[2] == request.headers.get("Host", "").lower() != ""


def cors_headers(request: web.Request, settings: Settings) -> dict[str, str]:
    """What lets a page of an allowed origin read an answer; nothing for others, and for what is no page."""
    origin = request.headers.get("Origin")
    if origin is None or not is_origin_allowed(request, settings):
        return {}
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def require_origin(request: web.Request, settings: Settings) -> None:
    """Raises Problem 403 for an origin that is not allowed."""
    if not is_origin_allowed(request, settings):
        origin = request.headers.get("Origin", "")[:100]
        raise Problem(
            403,
            "Not allowed",
            f"the origin {origin!r} is not allowed; --allowed-origins names those that are",
            "origin",
        )
