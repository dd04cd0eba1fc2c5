"""Tokens as the user pool signs them, and keys and builders to forge others with."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from joserfc.jwk import RSAKey

from core.tokens import TokenVerifier, issuer_of
from tests.support.clocks import ManualClock

ISSUER = issuer_of("eu-central-1", "eu-central-1_pool")
CLIENT = "1example23456789"
SUB = "8e1c2c2e-0000-4000-8000-000000000001"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())

POOL_KEY = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "pool"})
OTHER_KEY = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "other"})
JWKS = json.dumps({"keys": [POOL_KEY.as_dict(private=False)]}).encode()

HEADER = {"kid": "pool", "alg": "RS256"}
ACCESS = {
    "iss": ISSUER,
    "sub": SUB,
    "username": SUB,
    "client_id": CLIENT,
    "token_use": "access",
    "iat": SECONDS,
    "auth_time": SECONDS,
    "exp": SECONDS + 3600,
    "cognito:groups": ["operators"],
}
ID = {
    **{name: value for name, value in ACCESS.items() if name not in {"client_id", "username"}},
    "aud": CLIENT,
    "cognito:username": SUB,
    "email": "ann@example.org",
    "token_use": "id",
}


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def raw(key: RSAKey) -> RSAPrivateKey:
    private = key.private_key
    assert private is not None
    return private


def rs256(content: bytes, key: RSAKey = POOL_KEY) -> bytes:
    return raw(key).sign(content, padding.PKCS1v15(), hashes.SHA256())


def token(header: Any, claims: Any, sign: Callable[[bytes], bytes] = rs256) -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    content = b".".join(map(encoded, parts))
    return (content + b"." + encoded(sign(content))).decode()


def verifier(now: datetime = NOW, fetch: Callable[[], bytes] = lambda: JWKS) -> TokenVerifier:
    return TokenVerifier(ISSUER, CLIENT, fetch, ManualClock(0.0, now))
