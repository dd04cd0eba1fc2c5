"""Tokens as a provider signs them, and keys and builders to forge others with."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey, RSAKey

from core.tokens import TokenKeys, TokenVerifier
from tests.support.clocks import ManualClock

ISSUER = "https://login.example.org/realms/lab"
CLIENT = "fleetsight"
SUB = "8e1c2c2e-0000-4000-8000-000000000001"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())

PROVIDER_KEY = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "provider"})
OTHER_KEY = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "other"})
CURVE_KEY = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": "curve"})
JWKS = json.dumps({"keys": [key.as_dict(private=False) for key in (PROVIDER_KEY, CURVE_KEY)]}).encode()

HEADER = {"kid": "provider", "alg": "RS256"}
ACCESS = {
    "iss": ISSUER,
    "sub": SUB,
    "aud": CLIENT,
    "iat": SECONDS,
    "auth_time": SECONDS,
    "exp": SECONDS + 3600,
    "groups": ["staff", "operators"],
}
ID = {**ACCESS, "email": "ann@example.org", "email_verified": True}


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def raw(key: RSAKey) -> RSAPrivateKey:
    private = key.private_key
    assert private is not None
    return private


def rs256(content: bytes, key: RSAKey = PROVIDER_KEY) -> bytes:
    return raw(key).sign(content, padding.PKCS1v15(), hashes.SHA256())


def es256(content: bytes) -> bytes:
    private = CURVE_KEY.private_key
    assert private is not None
    numbers = decode_dss_signature(private.sign(content, ec.ECDSA(hashes.SHA256())))
    return b"".join(each.to_bytes(32) for each in numbers)  # as RFC 7518 has it, section 3.4


def token(header: Any, claims: Any, sign: Callable[[bytes], bytes] = rs256) -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    content = b".".join(map(encoded, parts))
    return (content + b"." + encoded(sign(content))).decode()


def verifier(now: datetime = NOW, fetch: Callable[[], bytes] = lambda: JWKS) -> TokenVerifier:
    return TokenVerifier(ISSUER, CLIENT, "groups", "operators", TokenKeys(fetch, ManualClock(0.0, now)))
