"""User pools: the pool of a client, the account of a name, protected pools, and the tokens that a pool issues.

Pools here reject SignUp. Tokens have Cognito's claims; this process signs them with a key of its own.
"""

import json
import threading
import uuid
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64decode
from moto.cognitoidp.exceptions import NotAuthorizedError, ResourceNotFoundError
from moto.cognitoidp.models import cognitoidp_backends
from moto.core.exceptions import JsonRESTError
from moto.core.responses import EmptyResult

from localcloud.clock import wall_seconds
from localcloud.patches import Patches

PATCHES = Patches()

ALGORITHM = "RS256"

_NAMES = {"id": "IdToken", "access": "AccessToken"}

_WITH_CODE = ".mfa"
"""End of the id of a sign-in that included a code: accounts with an authenticator app have no other ones."""

_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400}

_keys: list[RSAKey] = []
"""The key of this process for all its pools, once it is used."""

_generating = threading.Lock()


def pool_of(client_id: str | None) -> tuple[Any, Any, Any]:
    """Return moto's backend, pool and client of a client's id; public calls name no region."""
    for regions in list(cognitoidp_backends.values()):
        for backend in list(regions.values()):
            for pool in list(backend.user_pools.values()):
                if client_id in pool.clients:
                    return backend, pool, pool.clients[client_id]
    raise ResourceNotFoundError(f"User pool client {client_id} does not exist.")


def prevents_existence_errors(client: Any) -> bool:
    """Return True if a client's answers must not reveal whether an account exists."""
    return bool(client.extended_config.get("PreventUserExistenceErrors") == "ENABLED")


def address_of(user: Any | None, name: str) -> str:
    """Return the address of an account, or the given name if the account does not exist or has no address."""
    return str(user.attribute_lookup.get("email", name) if user else name).lower()


@PATCHES.wrap(
    "moto.cognitoidp.models:load_resource",
    "gives each pool a key that signs nothing here, and searches its prime factors, which takes longest of all",
)
def load_resource(original: Any, resource: str) -> dict[str, Any]:
    """Return the public half of the key."""
    return {name: value for name, value in original(resource).items() if name in {"kty", "n", "e"}}


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpUserPool._get_user",
    "compares addresses case-sensitively, and reads every attribute of every account each time",
)
def get_user(self: Any, username: str) -> Any:
    """Return the account of this name, id or address, or None."""
    if (user := self.users.get(username)) is not None:
        return user
    kinds = self.extended_config.get("UsernameAttributes") or ()
    is_exact = self.extended_config.get("UsernameConfiguration", {}).get("CaseSensitive", False)
    compared = str if is_exact else lambda name: str(name).lower()
    wanted = compared(username)
    for user in list(self.users.values()):
        if any(compared(user.attribute_lookup.get(kind)) == wanted for kind in kinds):
            return user
    return None


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpBackend.sign_up",
    "lets people sign up where only administrators may create accounts",
)
def sign_up(self: Any, client_id: str, username: str, password: str, attributes: Any) -> Any:  # noqa: ARG001
    """Reject the call: pools here have `AllowAdminCreateUserOnly`."""
    raise NotAuthorizedError("SignUp is not permitted for this user pool")


@PATCHES.replace("moto.cognitoidp.responses:CognitoIdpResponse.confirm_sign_up", "confirms any account with any code")
def confirm_sign_up(self: Any) -> Any:  # noqa: ARG001
    """Reject the call: administrators create all accounts."""
    raise NotAuthorizedError("User cannot be confirmed. Current status is FORCE_CHANGE_PASSWORD")


@PATCHES.replace(
    "moto.cognitoidp.models:RegionAgnosticBackend.update_user_attributes",
    "lets an account take any text as its e-mail address, without verification",
)
def update_user_attributes(self: Any, access_token: str, attributes: Any) -> None:  # noqa: ARG001
    """Reject the call: administrators create all accounts, with the address."""
    raise NotAuthorizedError("A client attempted to write unauthorized attribute")


@PATCHES.wrap(
    "moto.cognitoidp.responses:CognitoIdpResponse.call_action",
    "answers an operation that it lacks, signed or not, with status 500 and a traceback in the log",
)
def call_action(original: Any, self: Any) -> Any:
    """Answer a call; reject an operation that does not exist here."""
    try:
        return original(self)
    except NotImplementedError as error:
        body = {"__type": "UnsupportedOperationException", "message": str(error)}
        return 400, self.response_headers, json.dumps(body)


def pool_signing_key() -> RSAKey:
    """Return the cloud's own key, generated on first use: moto's key is in every copy of moto."""
    with _generating:
        if not _keys:
            _keys.append(RSAKey.generate_key(2048, {"use": "sig", "alg": ALGORITHM}, auto_kid=True))
        return _keys[0]


def saved_signing_key() -> dict[str, Any] | None:
    """Return the key as a JSON Web Key with its private half, or None if it was never used."""
    with _generating:
        return dict(_keys[0].as_dict(private=True)) if _keys else None


def restore_signing_key(saved: dict[str, Any]) -> None:
    """Use a key that was saved."""
    with _generating:
        _keys[:] = [RSAKey.import_key(saved)]


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpUserPool.create_jwt",
    "signs with a key that is in every copy of moto, names the account as in the request, and ignores lifetimes",
)
def create_jwt(
    self: Any,
    client_id: str,
    username: str,
    token_use: str,
    expires_in: int = 3_600,
    extra_data: dict[str, Any] | None = None,
) -> tuple[str, int]:
    """Return a token like Cognito's, and its lifetime in seconds."""
    user, key, now = self._get_user(username), pool_signing_key(), int(wall_seconds())
    name, client = _NAMES[token_use], self.clients.get(client_id)
    settings = client.extended_config if client else {}
    unit = settings.get("TokenValidityUnits", {}).get(name, "hours")
    count = settings.get(f"{name}Validity")
    lifetime = int(count * _SECONDS[unit]) if count else expires_in
    own: dict[str, Any]
    if token_use == "access":  # nosec B105 # noqa: S105 - a kind of token
        own = {"client_id": client_id, "username": user.username}
    else:
        own = {"aud": client_id, "cognito:username": user.username}
        if email := user.attribute_lookup.get("email"):
            own |= {"email": email, "email_verified": user.attribute_lookup.get("email_verified") == "true"}
    domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
    claims = {
        **(extra_data or {}),
        **own,
        "sub": user.id,
        "iss": f"https://cognito-idp.{self.region}.{domain}/{self.id}",
        "token_use": token_use,
        "iat": now,
        "auth_time": _signed_in_at((extra_data or {}).get("origin_jti", ""), now),
        "amr": ["pwd", "otp", "mfa"] if (extra_data or {}).get("origin_jti", "").endswith(_WITH_CODE) else ["pwd"],
        "exp": now + lifetime,
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode({"kid": key.kid, "alg": ALGORITHM}, claims, key, default_type=None), lifetime


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpUserPool.create_refresh_token",
    "does not know when and how its user signed in",
)
def create_refresh_token(self: Any, client_id: str, username: str) -> tuple[str, str]:
    """Return a new refresh token and the id of the sign-in: its time, and whether it included a code."""
    by = _WITH_CODE if self._get_user(username).software_token_mfa_enabled else ""
    refresh_token, origin_jti = str(uuid.uuid4()), f"{int(wall_seconds())}.{uuid.uuid4()}{by}"
    self.refresh_tokens[refresh_token] = (client_id, username, origin_jti)
    return refresh_token, origin_jti


def _signed_in_at(origin_jti: str, now: int) -> int:
    """Return the time of a sign-in, which renewed tokens keep; `now` for one of an older state folder."""
    began = origin_jti.partition(".")[0]
    return int(began) if began.isdigit() else now


@PATCHES.replace(
    "moto.cognitoidp.responses:CognitoIdpJsonWebKeyResponse.serve_json_web_key", "shows the public half of that key"
)
def serve_json_web_key(*args: Any) -> Any:  # noqa: ARG001 - moto's signature
    """Return the public key."""
    document = {"keys": [pool_signing_key().as_dict(private=False)]}
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpUserPool.sign_out",
    "ends no token when the account is called by another name than at sign-in",
)
def sign_out(original: Any, self: Any, username: str) -> None:
    """End all refresh tokens of an account, by any of its names."""
    user = self._get_user(username)
    original(self, user.username if user else username)


@PATCHES.add("moto.cognitoidp.responses:CognitoIdpResponse.revoke_token", "has no way to end one refresh token")
def revoke_token(self: Any) -> Any:
    """End one refresh token, and the access tokens made with it; an unknown token is no error (RFC 7009)."""
    client_id, token = self._get_param("ClientId"), self._get_param("Token")
    _, pool, client = pool_of(client_id)
    if not client.extended_config["EnableTokenRevocation"]:
        raise JsonRESTError("UnsupportedOperationException", "Token revocation is not enabled for this client")
    issued = pool.refresh_tokens.get(token)
    if issued is not None and issued[0] == client_id:
        pool.refresh_tokens[token] = None
        for text, owner in list(pool.access_tokens.items()):
            claims = json.loads(urlsafe_b64decode(text.split(".")[1].encode())) if owner == issued[:2] else {}
            if claims.get("origin_jti") == issued[2]:
                pool.access_tokens.pop(text, None)
    return EmptyResult()


@PATCHES.add("moto.cognitoidp.responses:CognitoIdpResponse.delete_user", "lets no account delete itself")
def delete_user(self: Any) -> Any:
    """Delete the account of an access token, with all its tokens."""
    token = str(self._get_param("AccessToken"))
    for regions in list(cognitoidp_backends.values()):
        for backend in list(regions.values()):
            for pool in list(backend.user_pools.values()):
                if token in pool.access_tokens:
                    username = pool.access_tokens[token][1]
                    pool.sign_out(username)
                    backend.admin_delete_user(pool.id, username)
                    return EmptyResult()
    raise NotAuthorizedError("Invalid Access Token")
