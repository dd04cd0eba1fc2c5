"""The tokens of user pools: their claims, the key that signs them, sign-out and revocation."""

import json
import threading
import time
import uuid
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

from localcloud.cognito.pools import pool_of
from localcloud.patches import NewAttribute, Patch

ALGORITHM = "RS256"
_NAMES = {"id": "IdToken", "access": "AccessToken"}
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400}


class PoolSigningKey:
    """The cloud's own key, generated on first use: moto's key is in every copy of moto."""

    def __init__(self) -> None:
        self._key: RSAKey | None = None
        self._lock = threading.Lock()

    def get(self) -> RSAKey:
        """Return the key, with its id."""
        with self._lock:
            if self._key is None:
                self._key = RSAKey.generate_key(2048, {"use": "sig", "alg": ALGORITHM}, auto_kid=True)
            return self._key


pool_signing_key = PoolSigningKey()
"""The key of this process, for all its pools."""


def _create_jwt(_original: Any) -> Any:
    def create_jwt(
        self: Any,
        client_id: str,
        username: str,
        token_use: str,
        expires_in: int = 3_600,
        extra_data: dict[str, Any] | None = None,
    ) -> tuple[str, int]:
        """Return a token like Cognito's, and its lifetime in seconds."""
        user, key, now = self._get_user(username), pool_signing_key.get(), int(time.time())
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        lifetime = _lifetime(self.clients.get(client_id), token_use, expires_in)
        own = {"id": _of_id, "access": _of_access}[token_use](client_id, user)
        claims = {
            **(extra_data or {}),
            **own,
            "sub": user.id,
            "iss": f"https://cognito-idp.{self.region}.{domain}/{self.id}",
            "token_use": token_use,
            "iat": now,
            "auth_time": now,
            "exp": now + lifetime,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode({"kid": key.kid, "alg": ALGORITHM}, claims, key, default_type=None), lifetime

    return create_jwt


def _of_id(client_id: str, user: Any) -> dict[str, Any]:
    claims = {"aud": client_id, "cognito:username": user.username}
    if email := user.attribute_lookup.get("email"):
        claims |= {"email": email, "email_verified": user.attribute_lookup.get("email_verified") == "true"}
    return claims


def _of_access(client_id: str, user: Any) -> dict[str, Any]:
    return {"client_id": client_id, "username": user.username}


def _lifetime(client: Any | None, token_use: str, otherwise: int) -> int:
    """Return the lifetime in seconds of the client's tokens of a kind."""
    name = _NAMES[token_use]
    settings = client.extended_config if client else {}
    if not (count := settings.get(f"{name}Validity")):
        return otherwise
    return int(count * _SECONDS[settings.get("TokenValidityUnits", {}).get(name, "hours")])


def _serve_json_web_key(_original: Any) -> Any:
    def serve_json_web_key(*args: Any) -> Any:  # noqa: ARG001 - moto's signature
        """Return the public key."""
        document = {"keys": [pool_signing_key.get().as_dict(private=False)]}
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    return staticmethod(serve_json_web_key)


def _sign_out(original: Any) -> Any:
    def sign_out(self: Any, username: str) -> None:
        """End all refresh tokens of an account, by any of its names."""
        user = self._get_user(username)
        original(self, user.username if user else username)

    return sign_out


def revoke_token(self: Any) -> Any:
    """End one refresh token; an unknown token is no error (RFC 7009)."""
    from moto.core.exceptions import JsonRESTError
    from moto.core.responses import EmptyResult

    client_id, token = self._get_param("ClientId"), self._get_param("Token")
    _, pool, client = pool_of(client_id)
    if not client.extended_config["EnableTokenRevocation"]:
        raise JsonRESTError("UnsupportedOperationException", "Token revocation is not enabled for this client")
    issued = pool.refresh_tokens.get(token)
    if issued is not None and issued[0] == client_id:
        pool.refresh_tokens[token] = None
    return EmptyResult()


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpUserPool.create_jwt",
        ("self", "client_id", "username", "token_use", "expires_in", "extra_data"),
        _create_jwt,
        "signs with a key that is in every copy of moto, names the account as in the request, and ignores lifetimes",
    ),
    Patch(
        "moto.cognitoidp.responses:CognitoIdpJsonWebKeyResponse.serve_json_web_key",
        ("args",),
        _serve_json_web_key,
        "shows the public half of that key",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpUserPool.sign_out",
        ("self", "username"),
        _sign_out,
        "ends no token when the account is called by another name than at sign-in",
    ),
    NewAttribute(
        "moto.cognitoidp.responses:CognitoIdpResponse.revoke_token",
        revoke_token,
        "has no way to end one refresh token",
    ),
)
