"""Tokens and cookies: only what the provider or the web tier has signed is accepted, and all else is refused.

The first byte of an input says what the others are: an `Authorization` header, a token's header and claims (signed
here, for any content), a document of keys, or a cookie.
"""

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from core.credentials import PREFIX, PersonalTokens, Revocations
from core.tokens import (
    MAX_KEYS,
    MIN_BITS,
    KeysUnreachableError,
    TokenClaims,
    TokenKeys,
    TokenRefusedError,
    TokenVerifier,
    parse_keys,
)
from tests.support.clocks import ManualClock
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.auth.guard import InvalidCredentialsError, parse_authorization, safe_redirect
from web_tier.auth.session_keys import SessionKeys

SPLIT = b"\x00|"
"""Stands between a token's header and its claims."""

MIN_SECRET_CHARACTERS = 40
"""Characters of a text that may be a token; a shorter one may stand in an error by chance."""

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ISSUER, CLIENT_ID, KEY_ID = "https://login.example.org", "client", "key"

WORDS = (
    *(b"Bearer ", b"fst_", b"eyJ", b'"alg":"none"', b'"alg":"HS256"', b'"alg":"RS256"', b'"kid":"key"', b'"jwk":{'),
    *(b'"jku":"', b'"crit":["b64"]', b'"b64":false', b'"zip":"DEF"', b'"typ":"JWT"', b'"alg":"ES256"'),
    *(b'"aud":["client"]', b'"client_id":"client"', b'"groups":["operators"]', b'"exp":1e400', b'"nbf":'),
    *(
        b'"sub":"',
        b'"email_verified":true',
        b"NaN",
        b"null",
        b"[[[[[[",
        b"\\u0000",
        b"\\ud800",
        b'"keys":[{',
        b'"kty":"oct"',
    ),
    *(b'"use":"enc"', b'"n":"', b'"e":"AQAB"', b"//", b"/\\", b"%2f%2f", b".", b"==", SPLIT),
)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_KEY = rsa.generate_private_key(65_537, MIN_BITS)
_MODULUS = _base64(_KEY.public_key().public_numbers().n.to_bytes(MIN_BITS // 8))
_DOCUMENT = json.dumps(
    {"keys": [{"kty": "RSA", "kid": KEY_ID, "use": "sig", "alg": "RS256", "n": _MODULUS, "e": "AQAB"}]}
)
_HEADER = json.dumps({"alg": "RS256", "kid": KEY_ID})
_ID: dict[str, object] = {
    "iss": ISSUER,
    "sub": "1-a",
    "exp": int(NOW.timestamp()) + 60,
    "iat": int(NOW.timestamp()),
    "auth_time": int(NOW.timestamp()),
    "aud": CLIENT_ID,
    "groups": ["users"],
    "email": "ann@example.org",
    "email_verified": True,
}
_ACCESS = {**{name: value for name, value in _ID.items() if name != "aud"}, "client_id": CLIENT_ID}
_KEYS = TokenKeys(_DOCUMENT.encode, ManualClock(0.0, NOW))
_VERIFIER = TokenVerifier(ISSUER, CLIENT_ID, "groups", "operators", _KEYS)
_TABLE = MemoryTable()
_PERSONAL = PersonalTokens(_TABLE, Revocations(_TABLE), ManualClock(0.0, NOW), lambda: "x" * 43)
_SESSIONS = SessionKeys(["k" * 32], lambda: "i" * 43)


def _signed(header: bytes, claims: bytes) -> str:
    text = f"{_base64(header)}.{_base64(claims)}"
    return f"{text}.{_base64(_KEY.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"


_GENUINE = _signed(_HEADER.encode(), json.dumps(_ID).encode())
_PERSONAL_TEXT, _ = _PERSONAL.make("1-a", "ann@example.org", "script", ["read"], 1, 1)
_COOKIE = _SESSIONS.sign(_SESSIONS.new_id("1-a"))


def seeds() -> Iterator[bytes]:
    yield from (b"\x00" + text.encode() for text in (f"Bearer {_GENUINE}", f"bearer {_PERSONAL_TEXT}", "Basic YTpi"))
    for claims in (_ID, _ACCESS, {**_ID, "exp": 0}, {**_ID, "aud": "other"}):
        yield b"\x01" + _HEADER.encode() + SPLIT + json.dumps(claims).encode()
    yield b'\x01{"alg": "none"}' + SPLIT + json.dumps(_ID).encode()
    yield b"\x02" + _DOCUMENT.encode()
    yield from (b"\x03" + text.encode() for text in (_COOKIE, "/jobs?next=/", "//evil"))


def target(data: bytes) -> None:
    kind, body = (data[:1] or b"\0")[0] % 4, data[1:]
    if kind == 0:
        _check_header(body.decode("latin-1"))
    elif kind == 1:
        header, _, claims = body.partition(SPLIT)
        _check_signed(header, _verified(_signed(header, claims)))
    elif kind == 2:
        _check_keys(body)
    else:
        _check_cookie(body.decode("latin-1"))


def _check_header(header: str) -> None:
    try:
        token = parse_authorization(header)
    except InvalidCredentialsError:
        return
    assert token.isascii()
    if token.startswith(PREFIX):
        assert _PERSONAL.find(token) is None or token == _PERSONAL_TEXT
    elif (claims := _verified(token)) is not None:
        assert (claims.owner, claims.email, claims.is_operator) == ("1-a", "ann@example.org", False)
        assert token.partition(".")[0] == _GENUINE.partition(".")[0]


def _verified(token: str) -> TokenClaims | None:
    try:
        return _VERIFIER.verify(token)
    except TokenRefusedError as error:
        assert len(token) < MIN_SECRET_CHARACTERS or token not in str(error)
        return None


def _check_signed(header: bytes, claims: TokenClaims | None) -> None:
    if claims is None:
        return
    said = json.loads(header)
    assert said["alg"] == "RS256"
    assert "crit" not in said
    assert claims.expires_at > NOW
    assert re.fullmatch("[A-Za-z0-9-]{1,64}", claims.owner)


def _check_keys(document: bytes) -> None:
    try:
        keys = parse_keys(document)
    except KeysUnreachableError:
        return
    assert 1 <= len(keys) <= MAX_KEYS


def _check_cookie(text: str) -> None:
    # The same signature may be written in several ways; the id that it is of may not.
    session_id = _SESSIONS.read(text)
    assert session_id is None or session_id.own == _SESSIONS.new_id("1-a")
    assert not _SESSIONS.verify(text, "csrf", "family", text)
    assert _SESSIONS.decrypt(text) is None
    path = safe_redirect(text)
    assert path.startswith("/")
    assert path[1:2] not in {"/", "\\"}
