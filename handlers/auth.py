"""Who asks: the owner of a request, and whether its origin may ask at all."""

from __future__ import annotations

import base64
import binascii
import time

import base58
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bridge.decide import OWNER_LIMIT
from bridge.settings import Settings
from handlers.problems import Problem

KEY_HEADER, NONCE_HEADER, SIGNATURE_HEADER = "X-Solana-PublicKey", "X-Solana-Nonce", "X-Solana-Signature"


def owner_of(request: web.Request, settings: Settings, now: float | None = None) -> str:
    """The owner a request speaks for. Raises Problem 401."""
    owner = _given(request, KEY_HEADER, "publicKey")
    if not owner:
        raise _unauthorized("missing_owner", f"give the wallet address in the header {KEY_HEADER}, or as ?publicKey= where headers cannot be set")
    if len(owner) > OWNER_LIMIT:
        raise _unauthorized("bad_owner", f"the owner has more than {OWNER_LIMIT} characters")
    if settings.auth == "signed" or settings.owner_format == "solana":
        key = _wallet(owner)
        if settings.auth == "signed":
            _verify(request, key, settings.signature_max_age, time.time() if now is None else now)
    return owner


def _given(request: web.Request, header: str, query: str) -> str | None:
    """A header has precedence: a proxy in front vouches for the header, not for the query."""
    return request.headers.get(header) or request.query.get(query)


def _unauthorized(reason: str, detail: str) -> Problem:
    return Problem(401, "Not authenticated", detail, reason)


def _wallet(owner: str) -> bytes:
    """The 32 bytes of a wallet address. Raises Problem 401."""
    try:
        key = base58.b58decode(owner) if owner.isascii() and len(owner) <= 64 else b""
    except ValueError:
        key = b""
    if len(key) != 32:
        raise _unauthorized("bad_owner", "the wallet address is not base58 of 32 bytes (a Solana public key); --owner-format any accepts any text")
    return key


def _verify(request: web.Request, key: bytes, max_age: float, now: float) -> None:
    """The signature over the nonce, which is the time at which it expires, in Unix milliseconds. Raises Problem 401."""
    nonce, signature = _given(request, NONCE_HEADER, "nonce"), _given(request, SIGNATURE_HEADER, "signature")
    if not nonce or not signature:
        raise _unauthorized("missing_signature", f"give {NONCE_HEADER} and {SIGNATURE_HEADER}, or ?nonce= and ?signature=")
    if not (nonce.isascii() and nonce.isdigit() and len(nonce) <= 16):
        raise _unauthorized("bad_nonce", "the nonce is not a Unix time in milliseconds")
    if int(nonce) <= now * 1000:
        raise _unauthorized("expired", "the signature has expired; sign a new nonce, and check this client's clock")
    if int(nonce) > (now + max_age) * 1000:
        raise _unauthorized("bad_nonce", f"the nonce lies more than {max_age:g} s in the future")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(_signature(signature), nonce.encode())
    except (InvalidSignature, ValueError) as error:
        raise _unauthorized("bad_signature", "the signature is not this wallet's Ed25519 signature of the nonce's text, in base64") from error


def _signature(text: str) -> bytes:
    """64 bytes of base64. An unquoted + in a query arrives as a space. Raises ValueError."""
    try:
        signature = base64.b64decode(text.strip().replace(" ", "+").replace("-", "+").replace("_", "/") + "=" * (-len(text.strip()) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(signature) != 64:
        raise ValueError("not 64 bytes")
    return signature


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


def require_origin(request: web.Request, settings: Settings) -> None:
    """Raises Problem 403 for an origin that is not allowed."""
    if not is_origin_allowed(request, settings):
        origin = request.headers.get("Origin", "")[:100]
        raise Problem(403, "Not allowed", f"the origin {origin!r} is not allowed; --allowed-origins names those that are", "origin")
