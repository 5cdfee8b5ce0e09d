"""Who asks: the wallet at its word, the wallet proven, and the origin of the page."""

import base64

import base58
import pytest
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridge.settings import Settings, load_settings
from handlers.auth import is_origin_allowed, owner_of, require_origin
from handlers.problems import Problem

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
WALLET = base58.b58encode(KEY.public_key().public_bytes_raw()).decode()
NOW = 1_700_000_000.0
NONCE = str(int(NOW * 1000) + 60_000)


def settings(**options: object) -> Settings:
    return load_settings(dict(options), None)


def ask(headers: dict[str, str], query: str = "", **options: object) -> str:
    return owner_of(make_mocked_request("GET", f"/api/ws?{query}", headers), settings(**options), NOW)


def refusal(headers: dict[str, str], query: str = "", **options: object) -> str:
    with pytest.raises(Problem) as caught:
        ask(headers, query, **options)
    assert caught.value.status == 401
    return caught.value.reason


def sign(nonce: str = NONCE, key: Ed25519PrivateKey = KEY) -> str:
    return base64.b64encode(key.sign(nonce.encode())).decode()


def signed(nonce: str = NONCE, signature: str | None = None, wallet: str = WALLET) -> dict[str, str]:
    return {
        "X-Solana-PublicKey": wallet,
        "X-Solana-Nonce": nonce,
        "X-Solana-Signature": sign(nonce) if signature is None else signature,
    }


# -- at its word


def test_the_header_and_the_query_name_the_owner_alike() -> None:
    """Browsers cannot set headers; where both are given the header counts, since a proxy vouches for it."""
    assert ask({"X-Solana-PublicKey": WALLET}) == WALLET
    assert ask({}, f"publicKey={WALLET}") == WALLET
    assert ask({"X-Solana-PublicKey": WALLET}, "publicKey=somebody") == WALLET


@pytest.mark.parametrize("headers", [{}, {"X-Solana-PublicKey": ""}])
def test_nobody_is_refused(headers: dict[str, str]) -> None:
    """There are no anonymous clients."""
    assert refusal(headers) == "missing_owner"
    assert refusal(headers, "publicKey=") == "missing_owner"


@pytest.mark.parametrize(
    "wallet",
    [
        "0OIl",
        "abc",
        WALLET[:-2],
        WALLET + "1",
        "1" * 31,
        "1" * 33,
        "é" * 32,
        WALLET + " ",
        "1" * 256,
        "'; DROP TABLE m; --",
    ],
)
def test_a_wallet_is_base58_of_32_bytes(wallet: str) -> None:
    """Unless any text is allowed."""
    assert refusal({"X-Solana-PublicKey": wallet}) == "bad_owner"
    assert ask({"X-Solana-PublicKey": wallet}, owner_format="any") == wallet


def test_an_owner_has_at_most_256_characters() -> None:
    """In any format."""
    assert ask({"X-Solana-PublicKey": "x" * 256}, owner_format="any") == "x" * 256
    assert refusal({"X-Solana-PublicKey": "x" * 257}, owner_format="any") == "bad_owner"


# -- proven


def test_a_signature_of_the_nonce_proves_the_wallet() -> None:
    """In headers or in the query, in any usual form of base64, also with a plus that arrived as a blank."""
    assert ask(signed(), auth="signed") == WALLET
    url_safe = base64.urlsafe_b64encode(base64.b64decode(sign())).decode()
    for form in (url_safe, url_safe.rstrip("="), sign().rstrip("="), sign().replace("+", " ")):
        assert ask(signed(signature=form), auth="signed") == WALLET
    quoted = sign().replace("+", "%2B").replace("=", "%3D").replace("/", "%2F")
    assert ask({}, f"publicKey={WALLET}&nonce={NONCE}&signature={quoted}", auth="signed") == WALLET


def test_the_wallet_format_is_asked_for_whatever_owners_look_like() -> None:
    """A signature is checked with the key that the address is."""
    assert refusal(signed(wallet="abc"), auth="signed", owner_format="any") == "bad_owner"


def test_a_nonce_is_good_until_its_time_and_not_from_too_far_ahead() -> None:
    """It is the time at which the signature expires, in milliseconds; both borders to the millisecond."""
    now, most = int(NOW * 1000), 300_000
    for nonce, reason in ((now - 1, "expired"), (now, "expired"), (now + most + 1, "bad_nonce"), (0, "expired")):
        assert refusal(signed(str(nonce)), auth="signed") == reason
    for nonce in (now + 1, now + most):
        assert ask(signed(str(nonce)), auth="signed") == WALLET
    assert refusal(signed(str(now + 1001)), auth="signed", signature_max_age=1) == "bad_nonce"


@pytest.mark.parametrize("nonce", ["x", "-1", "1.5", "1e12", "١٢٣", "0x10", " ", "9" * 17, "1_000", "+1"])
def test_a_nonce_is_plain_digits(nonce: str) -> None:
    """Nothing that Python would make a number of besides."""
    assert refusal(signed(nonce, sign()), auth="signed") == "bad_nonce"


@pytest.mark.parametrize("missing", ["X-Solana-Nonce", "X-Solana-Signature"])
def test_both_parts_of_a_proof_are_needed(missing: str) -> None:
    """The header alone is not enough in this mode."""
    headers = signed()
    del headers[missing]
    assert refusal(headers, auth="signed") == "missing_signature"


@pytest.mark.parametrize(
    "signature",
    [
        sign(str(int(NONCE) + 1)),
        sign(key=Ed25519PrivateKey.from_private_bytes(b"o" * 32)),
        base64.b64encode(b"\0" * 64).decode(),
        base64.b64encode(b"\0" * 63).decode(),
        base64.b64encode(b"\0" * 65).decode(),
        "AAAA",
        "!",
        "é" * 88,
        sign() + "AAAA",
        sign()[:-4],
    ],
)
def test_any_other_signature_is_refused(signature: str) -> None:
    """Of another nonce, by another key, of another length, or none at all."""
    assert refusal(signed(signature=signature), auth="signed") == "bad_signature"


def test_a_signature_is_of_its_own_wallet() -> None:
    """A good signature with another wallet beside it proves nothing."""
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    theirs = base58.b58encode(other.public_key().public_bytes_raw()).decode()
    assert refusal(signed(wallet=theirs), auth="signed") == "bad_signature"


# -- origins


@pytest.mark.parametrize(
    ("origin", "allowed", "is_allowed"),
    [
        (None, "", True),
        ("http://chat.example:8080", "", True),
        ("https://chat.example:8080", "", True),
        ("HTTP://Chat.Example:8080", "", True),
        ("http://chat.example", "", False),
        ("http://evil.example", "", False),
        ("http://chat.example:8080.evil.example", "", False),
        ("http://evil.example/chat.example:8080", "", False),
        ("null", "", False),
        ("null", "null", True),
        ("", "", False),
        ("http://a.example", "http://a.example/", True),
        ("http://a.example", "https://a.example", False),
        ("http://b.example", "http://a.example, http://b.example", True),
        ("http://evil.example", "http://a.example", False),
        ("http://evil.example", "*", True),
    ],
)
def test_an_origin_is_the_servers_own_or_named(origin: str | None, allowed: str, is_allowed: bool) -> None:
    """Programs name none; a page does, and another site's page must not use its visitor's place in the network."""
    headers = {"Host": "chat.example:8080"} | ({} if origin is None else {"Origin": origin})
    request = make_mocked_request("GET", "/api/ws", headers)
    given = settings(allowed_origins=allowed)
    assert is_origin_allowed(request, given) == is_allowed
    if is_allowed:
        require_origin(request, given)
    else:
        with pytest.raises(Problem) as caught:
            require_origin(request, given)
        assert (caught.value.status, caught.value.reason) == (403, "origin")
