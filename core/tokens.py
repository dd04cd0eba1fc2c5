"""Tokens of the user pool: local verification that the pool issued a token to this client and it is still valid.

Only tokens in the form of Cognito are accepted: RS256 by a key of the pool, with a header of `kid`, `alg` and perhaps
`typ`. The token decides neither how it is verified nor where its key is. RFC 8725 lists what goes wrong otherwise;
https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-tokens-verifying-a-jwt.html

`TokenKeys` fetches and caches the public keys of the pool, and fetches them again when they change.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import urllib3
from botocore.httpsession import get_cert_path
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.util import base64_to_int, urlsafe_b64decode
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.clock import Clock
from services.errors import FleetsightError

MAX_DOCUMENT_BYTES = 64 * 1024
"""Maximum bytes of the document of keys; Cognito's has two keys and less than 1 KB."""

MAX_KEYS = 20

MIN_BITS, MAX_BITS = 2_048, 8_192

KEYS_LIFETIME = timedelta(hours=1)
"""Time after which the keys are fetched again, so that a withdrawn key expires; old keys are used meanwhile."""

MIN_FETCH_INTERVAL = timedelta(minutes=1)
"""Minimum time between two fetches, also for key ids that attackers invent."""

FIRST_FETCH_INTERVAL = timedelta(seconds=5)
"""Minimum time between two fetches while there are no keys."""

_log = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8_192
"""Maximum characters of a token; Cognito's have about 1,000, and some 20 more for each group."""

ALGORITHM = "RS256"

SKEW = timedelta(minutes=1)
"""Maximum time that the pool's clock may be ahead of this machine's."""

_HEADER = frozenset({"alg", "kid", "typ"})

_END_OF_TIME = 253_402_300_799
"""Seconds to the end of the year 9999, after which there are no dates."""

Name = Annotated[str, Field(min_length=1, max_length=256)]

Moment = Annotated[int, Field(ge=0, le=_END_OF_TIME)]


class KeysUnreachableError(FleetsightError):
    """Raised when a pool's keys cannot be fetched; the message contains the URL and the reason."""


def issuer_of(region: str, pool_id: str) -> str:
    """Return the issuer in the pool's tokens."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://cognito-idp.{region}.{suffix}/{pool_id}"


def jwks_url(endpoint_url: str | None, region: str, pool_id: str) -> str:
    """Return the URL of the pool's keys; `endpoint_url` is that of a local cloud, None is AWS."""
    place = issuer_of(region, pool_id) if endpoint_url is None else f"{endpoint_url.rstrip('/')}/{pool_id}"
    return f"{place}/.well-known/jwks.json"


def keys_at(url: str, read_seconds: float = 3.0) -> Callable[[], bytes]:
    """Return a function that fetches the document at `url`, with limits of time and size, and without redirects.

    The function raises KeysUnreachableError.
    """
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=2.0, read=read_seconds),
        retries=False,
        ca_certs=get_cert_path(True),  # botocore's, as for every other call to AWS
    )

    def fetch() -> bytes:
        try:
            answer = pool.request("GET", url, preload_content=False, redirect=False)
            try:
                body = answer.read(MAX_DOCUMENT_BYTES + 1)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KeysUnreachableError(f"the user pool's keys at {url} cannot be fetched: {error}") from error
        if answer.status != 200 or len(body) > MAX_DOCUMENT_BYTES:
            raise KeysUnreachableError(f"the user pool's keys at {url}: {answer.status}, {len(body)} bytes")
        return body

    return fetch


@dataclass
class TokenKeys:
    """The pool's keys by their id; threads may share it.

    `fetch` returns the document of keys (RFC 7517), or raises KeysUnreachableError.
    """

    fetch: Callable[[], bytes]
    clock: Clock
    _keys: Mapping[str, RSAKey] = field(default_factory=dict, init=False)
    _fetched: datetime | None = field(default=None, init=False)
    _tried: datetime | None = field(default=None, init=False)
    _fetching: threading.Lock = field(default_factory=threading.Lock, init=False)

    def find(self, key_id: str) -> RSAKey | None:
        """Return the key with this id, or None if the pool has none.

        Raises:
            KeysUnreachableError: no keys have been fetched yet.
        """
        known = key_id in self._keys
        is_old = self._fetched is None or abs(self.clock.utc_now() - self._fetched) >= KEYS_LIFETIME
        if not known or is_old:
            self._fetch(wait=not known)
        if not self._keys:
            raise KeysUnreachableError("the user pool's keys could not be fetched yet")
        return self._keys.get(key_id)

    def _fetch(self, *, wait: bool) -> None:
        if not self._fetching.acquire(blocking=wait):
            return  # another thread fetches them, and the old keys are used meanwhile
        try:
            now = self.clock.utc_now()
            if self._tried is not None and abs(now - self._tried) < (
                MIN_FETCH_INTERVAL if self._keys else FIRST_FETCH_INTERVAL
            ):
                return
            self._tried = now
            self._keys = parse_keys(self.fetch())
            self._fetched = now
        except KeysUnreachableError as error:
            _log.warning("%s", error)
        finally:
            self._fetching.release()


def parse_keys(document: bytes) -> dict[str, RSAKey]:
    """Return the keys of a document that may have signed a token.

    Raises:
        KeysUnreachableError: there is none.
    """
    try:
        listed = json.loads(document)["keys"][:MAX_KEYS]
        keys = {
            each["kid"]: RSAKey.import_key({"kty": "RSA", "n": each["n"], "e": each["e"]})
            for each in listed
            if _can_sign(each)
        }
    except (ValueError, TypeError, KeyError, RecursionError, JoseError) as error:
        raise KeysUnreachableError(f"the user pool's keys cannot be read: {type(error).__name__}") from error
    if not keys:
        raise KeysUnreachableError("the user pool's document of keys has none for RS256")
    return keys


def _can_sign(jwk: Any) -> bool:
    return (
        isinstance(jwk, dict)
        and jwk.get("kty") == "RSA"
        and jwk.get("use", "sig") == "sig"
        and jwk.get("alg", "RS256") == "RS256"
        and isinstance(jwk.get("kid"), str)
        and MIN_BITS <= base64_to_int(jwk["n"]).bit_length() <= MAX_BITS
    )


class TokenRefusedError(FleetsightError):
    """Raised when a token is rejected; the message is for the log, and contains nothing of the token."""


class TokenUncheckedError(TokenRefusedError):
    """Raised when a token cannot be verified because the pool's keys have not been fetched yet: try again."""


@dataclass(frozen=True)
class TokenClaims:
    """The claims of a valid token.

    Attributes:
        sub: id of the account.
        email: its address; empty for an access token.
        signed_in: epoch seconds of the sign-in that it was made from; a renewed token keeps it.
        second_factor: whether the pool states that this sign-in included one. Not every pool states that yet:
            https://docs.aws.amazon.com/cognito/latest/developerguide/cognito-user-pools-step-up-authentication.html
    """

    sub: str
    email: str
    username: str
    groups: frozenset[str]
    use: Literal["id", "access"]
    expires_at: datetime
    signed_in: int
    second_factor: bool = False


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    iss: str
    sub: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    exp: Moment
    iat: Moment
    auth_time: Moment
    nbf: Moment = 0
    groups: list[Name] = Field(default=[], alias="cognito:groups")
    amr: list[Name] = []


class _IdClaims(_Claims):
    token_use: Literal["id"]
    audience: str = Field(alias="aud")
    username: Name = Field(alias="cognito:username")
    email: Annotated[str, Field(max_length=256)] = ""


class _AccessClaims(_Claims):
    token_use: Literal["access"]
    audience: str = Field(alias="client_id")
    username: Name


_CLAIMS: TypeAdapter[_IdClaims | _AccessClaims] = TypeAdapter(
    Annotated[_IdClaims | _AccessClaims, Field(discriminator="token_use")]
)


class TokenVerifier:
    """Verifies tokens that `issuer` (see `issuer_of`) has issued for the client `client_id`; threads may share it."""

    def __init__(self, issuer: str, client_id: str, fetch_keys: Callable[[], bytes], clock: Clock) -> None:
        self._issuer, self._client_id, self._clock = issuer, client_id, clock
        self._keys = TokenKeys(fetch_keys, clock)

    def verify(self, text: str) -> TokenClaims:
        """Return the claims of a token.

        Raises:
            TokenRefusedError: the pool has not issued it for this client, or it is not yet or no longer valid.
        """
        if len(text) > MAX_TOKEN_CHARACTERS or not text.isascii():
            raise TokenRefusedError("too long, or not in ASCII")
        claims = self._signed_claims(text, _key_id(text))
        now = self._clock.utc_now().timestamp()
        if claims.iss != self._issuer:
            raise TokenRefusedError("from another issuer")
        if claims.audience != self._client_id:
            raise TokenRefusedError("for another client")
        if now >= claims.exp:
            raise TokenRefusedError("expired")
        if max(claims.nbf, claims.iat) > now + SKEW.total_seconds():
            raise TokenRefusedError("not good yet; is this machine's clock right?")
        expires_at = datetime.fromtimestamp(claims.exp, UTC)
        email = claims.email if isinstance(claims, _IdClaims) else ""
        groups, by_code = frozenset(claims.groups), "mfa" in claims.amr
        return TokenClaims(
            claims.sub, email, claims.username, groups, claims.token_use, expires_at, claims.auth_time, by_code
        )

    def _signed_claims(self, text: str, key_id: str) -> _IdClaims | _AccessClaims:
        try:
            key = self._keys.find(key_id)
        except KeysUnreachableError as error:
            raise TokenUncheckedError(str(error)) from None
        if key is None:
            raise TokenRefusedError("signed by a key that the pool does not have")
        try:
            token = jwt.decode(text, key, algorithms=[ALGORITHM], decoder_cls=_StrictDecoder)
            return _CLAIMS.validate_python(token.claims)
        except ValidationError as error:
            fields = sorted({".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)})
            raise TokenRefusedError(f"claims that are missing or wrong: {', '.join(fields)}") from None
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise TokenRefusedError(f"not signed by the pool, or no token ({type(error).__name__})") from None


class _StrictDecoder(json.JSONDecoder):
    """Rejects duplicate names, which parsers read differently."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _key_id(text: str) -> str:
    """Return the key id in a token's header, which must be like Cognito's."""
    try:
        header = json.loads(urlsafe_b64decode(text.partition(".")[0].encode()), cls=_StrictDecoder)
    except (ValueError, RecursionError):
        raise TokenRefusedError("no token") from None
    if not isinstance(header, dict) or not header.keys() <= _HEADER:
        raise TokenRefusedError("a header with more in it than algorithm and key id")
    if header.get("alg") != ALGORITHM:
        raise TokenRefusedError(f"another algorithm than {ALGORITHM}")
    key_id = header.get("kid")
    if not isinstance(key_id, str):
        raise TokenRefusedError("no key id")
    return key_id
