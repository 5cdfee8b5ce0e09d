"""Wallet addresses and their signatures: Solana public keys are Ed25519 keys in base58. Pure."""

from __future__ import annotations

import base64
import binascii

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ADDRESS_LIMIT = 64
"""More characters than any base58 of 32 bytes has; decoding costs the square of the length."""


class BadCredential(ValueError):
    """Whose `code` names the reason, and whose text says how to mend it."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def wallet_key(address: str) -> bytes:
    """The 32 bytes of a wallet address. Raises BadCredential."""
    try:
        # The library forgives blanks at the end, but "W " is not the owner "W".
        is_plain = address.isascii() and address.isalnum() and len(address) <= ADDRESS_LIMIT
        key = base58.b58decode(address) if is_plain else b""
    except ValueError:
        key = b""
    if len(key) != 32:
        raise BadCredential(
            "bad_owner",
            "the wallet address is not base58 of 32 bytes (a Solana public key); --owner-format any accepts any text",
        )
    return key


def verify(address: str, nonce: str, signature: str, *, max_age: float, now: float) -> None:
    """Check the signature over the nonce's text by the wallet's key. Raises BadCredential.

    The nonce is the Unix time in milliseconds at which the signature expires; `now` and `max_age` are in seconds.
    """
    key = wallet_key(address)
    if not (nonce.isascii() and nonce.isdigit() and len(nonce) <= 16):
        raise BadCredential("bad_nonce", "the nonce is not a Unix time in milliseconds")
    if int(nonce) <= now * 1000:
        raise BadCredential("expired", "the signature has expired; sign a new nonce, and check this client's clock")
    if int(nonce) > (now + max_age) * 1000:
        raise BadCredential("bad_nonce", f"the nonce lies more than {max_age:g} s in the future")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(_signature(signature), nonce.encode())
    except (InvalidSignature, ValueError) as error:
        detail = "the signature is not this wallet's Ed25519 signature of the nonce's text, in base64"
        raise BadCredential("bad_signature", detail) from error


def _signature(text: str) -> bytes:
    """64 bytes of base64. An unquoted + in a query arrives as a space. Raises ValueError."""
    plain = text.strip().replace(" ", "+").replace("-", "+").replace("_", "/")
    try:
        signature = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(signature) != 64:
        raise ValueError("not 64 bytes")
    return signature
