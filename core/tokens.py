"""Tokens of the OpenID provider: local verification that it issued a token to this client, which is still valid.

ID tokens and access tokens are accepted alike, if their audience is this client. The token decides neither how it is
verified nor where its key is: https://datatracker.ietf.org/doc/html/rfc8725 lists what goes wrong otherwise.

`TokenKeys` fetches and caches the public keys of the provider, and fetches them again when they change.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from re import ASCII, fullmatch
from typing import Annotated, Any, Final

import urllib3
from botocore.httpsession import get_cert_path
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import base64_to_int, urlsafe_b64decode
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.clock import Clock
from services.errors import FleetsightError

MAX_DOCUMENT_BYTES = 256 * 1024
"""Maximum bytes of the document of keys; Entra's, with certificates, has some 30 KB."""

MAX_KEYS = 50

MIN_BITS, MAX_BITS = 2_048, 8_192

KEYS_LIFETIME = timedelta(hours=1)
"""Time after which the keys are fetched again, so that a withdrawn key expires; old keys are used meanwhile."""

MIN_FETCH_INTERVAL = timedelta(minutes=1)
"""Minimum time between two fetches, also for key ids that attackers invent."""

FIRST_FETCH_INTERVAL = timedelta(seconds=5)
"""Minimum time between two fetches while there are no keys."""

_log = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8_192
"""Maximum characters of a token; they have about 1,000, and some 20 more for each group."""

ALGORITHMS: Final = {"RS256": "RSA", "ES256": "EC"}
"""Algorithms of signatures, with the type of their keys. Every provider must support the first one."""

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Types of ID and access tokens; a logout token has another one."""

SKEW = timedelta(minutes=1)
"""Maximum time that the provider's clock may be ahead of this machine's."""

MAX_GROUPS = 1_000

_END_OF_TIME = 253_402_300_799
"""Seconds to the end of the year 9999, after which there are no dates."""

Moment = Annotated[float, Field(ge=0, le=_END_OF_TIME)]

Key = RSAKey | ECKey


class KeysUnreachableError(FleetsightError):
    """Raised when the provider's keys cannot be fetched; the message contains the reason."""


def keys_at(url: str, read_seconds: float = 3.0) -> bytes:
    """Return the document at `url`, with limits of time and size, and without redirects.

    Raises:
        KeysUnreachableError: it cannot be fetched.
    """
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=2.0, read=read_seconds),
        retries=False,
        ca_certs=get_cert_path(True),  # botocore's, as for every other call to AWS
    )
    try:
        answer = pool.request("GET", url, preload_content=False, redirect=False)
        try:
            body = answer.read(MAX_DOCUMENT_BYTES + 1)
        finally:
            answer.close()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise KeysUnreachableError(f"the provider's keys at {url} cannot be fetched: {error}") from error
    if answer.status != 200 or len(body) > MAX_DOCUMENT_BYTES:
        raise KeysUnreachableError(f"the provider's keys at {url}: {answer.status}, {len(body)} bytes")
    return body


@dataclass
class TokenKeys:
    """The provider's keys by their id; threads may share it.

    `fetch` returns the document of keys (RFC 7517), or raises KeysUnreachableError.
    """

    fetch: Callable[[], bytes]
    clock: Clock
    _keys: Mapping[str, Key] = field(default_factory=dict, init=False)
    _fetched: datetime | None = field(default=None, init=False)
    _tried: datetime | None = field(default=None, init=False)
    _fetching: threading.Lock = field(default_factory=threading.Lock, init=False)

    def find(self, key_id: str) -> Key | None:
        """Return the key with this id, or None if the provider has none.

        Without an id it is the only key, if there is one alone.

        Raises:
            KeysUnreachableError: no keys have been fetched yet.
        """
        known = key_id in self._keys or (not key_id and bool(self._keys))
        is_old = self._fetched is None or abs(self.clock.utc_now() - self._fetched) >= KEYS_LIFETIME
        if not known or is_old:
            self._fetch(wait=not known)
        if not self._keys:
            raise KeysUnreachableError("the provider's keys could not be fetched yet")
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
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
            try:
                self._keys = parse_keys(self.fetch())
            finally:
                # The end of the fetch, so that threads that waited for a slow one do not repeat it.
                self._tried = self.clock.utc_now()
            self._fetched = now
        except KeysUnreachableError as error:
            _log.warning("%s", error)
        finally:
            self._fetching.release()


def parse_keys(document: bytes) -> dict[str, Key]:
    """Return the keys of a document that may have signed a token.

    Raises:
        KeysUnreachableError: there is none.
    """
    try:
        listed = json.loads(document)["keys"][:MAX_KEYS]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise KeysUnreachableError(f"the provider's keys cannot be read: {type(error).__name__}") from error
    keys = {str(each.get("kid", "")): key for each in listed if (key := _signing_key(each))}
    if not keys:
        raise KeysUnreachableError(f"the provider's document of keys has none for {' or '.join(ALGORITHMS)}")
    return keys


def _signing_key(jwk: Any) -> Key | None:
    """Return a public key that may sign tokens, or None for any other one.

    A key that cannot be read is another one: https://datatracker.ietf.org/doc/html/rfc7517#section-5
    """
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    kind = jwk.get("kty")
    try:
        if jwk.get("alg") not in {None, *(name for name, of in ALGORITHMS.items() if of == kind)}:
            return None
        if kind == "RSA" and MIN_BITS <= base64_to_int(jwk["n"]).bit_length() <= MAX_BITS:
            return RSAKey.import_key({"kty": kind, "n": jwk["n"], "e": jwk["e"]})
        if kind == "EC" and jwk.get("crv") == "P-256":
            return ECKey.import_key({"kty": kind, "crv": "P-256", "x": jwk["x"], "y": jwk["y"]})
    except (ValueError, TypeError, KeyError, AttributeError, JoseError):
        _log.warning("the provider has a key that cannot be read: %.100r", jwk.get("kid"))
    return None


class TokenRefusedError(FleetsightError):
    """Raised when a token is rejected; the message is for the log, and contains nothing of the token."""


class TokenUncheckedError(TokenRefusedError):
    """Raised when a token cannot be verified because the provider's keys have not been fetched yet: try again."""


@dataclass(frozen=True)
class TokenClaims:
    """The claims of a valid token.

    Attributes:
        owner: id of the user: the provider's `sub`, or its digest.
        email: the user's address; empty if the token has none, as most access tokens.
        is_verified: whether the provider has verified the address.
        is_operator: whether the user is in the group of operators.
        signed_in: epoch seconds of the sign-in, which a renewed token keeps, or of the token if the provider does not
            tell it.
    """

    owner: str
    email: str
    is_verified: bool
    is_operator: bool
    expires_at: datetime
    signed_in: int


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    iss: str
    sub: Annotated[str, Field(min_length=1, max_length=255)]
    exp: Moment
    iat: Moment
    nbf: Moment = 0
    auth_time: Moment | None = None
    aud: str | list[str] = []
    client_id: str = ""
    email: Annotated[str, Field(max_length=256)] = ""
    email_verified: bool | str = False

    @property
    def audiences(self) -> list[str]:
        """The clients for which the token is; Cognito's access tokens have `client_id` instead."""
        return [self.aud] if isinstance(self.aud, str) else self.aud or [self.client_id]


def owner_of_subject(subject: str) -> str:
    """Return the id of a user as owner of jobs, which is short and of few characters for every provider."""
    return subject if fullmatch(r"[A-Za-z0-9-]{1,63}", subject, ASCII) else sha256(subject.encode()).hexdigest()


@dataclass(frozen=True)
class TokenVerifier:
    """Verifies tokens that `issuer` has issued for the client `client_id`; threads may share it.

    Attributes:
        groups_claim: the claim with the names of a user's groups.
        operators_group: the group of those who manage the fleet.
    """

    issuer: str
    client_id: str
    groups_claim: str
    operators_group: str
    keys: TokenKeys

    def verify(self, text: str, nonce: str | None = None) -> TokenClaims:
        """Return the claims of a token; that of a sign-in has its `nonce`.

        Raises:
            TokenRefusedError: the provider has not issued it for this client or sign-in, or it is not valid now.
        """
        if len(text) > MAX_TOKEN_CHARACTERS or not text.isascii():
            raise TokenRefusedError("too long, or not in ASCII")
        stated = self._signed_claims(text)
        try:
            claims = _Claims.model_validate(stated)
        except ValidationError as error:
            fields = sorted({".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)})
            raise TokenRefusedError(f"claims that are missing or wrong: {', '.join(fields)}") from None
        now = self.keys.clock.utc_now().timestamp()
        if claims.iss != self.issuer:
            raise TokenRefusedError("from another issuer")
        if self.client_id not in claims.audiences:
            raise TokenRefusedError("for another client")
        if nonce is not None and stated.get("nonce") != nonce:
            raise TokenRefusedError("of another sign-in")
        if "events" in stated:
            raise TokenRefusedError("a logout token")
        if now >= claims.exp:
            raise TokenRefusedError("expired")
        if max(claims.nbf, claims.iat) > now + SKEW.total_seconds():
            raise TokenRefusedError("not good yet; is this machine's clock right?")
        return TokenClaims(
            owner=owner_of_subject(claims.sub),
            email=claims.email,
            is_verified=claims.email_verified in {True, "true"},
            is_operator=self.operators_group in _names(stated.get(self.groups_claim)),
            expires_at=datetime.fromtimestamp(claims.exp, UTC),
            signed_in=int(claims.iat if claims.auth_time is None else claims.auth_time),
        )

    def _signed_claims(self, text: str) -> dict[str, Any]:
        algorithm, key_id = _header_of(text)
        try:
            key = self.keys.find(key_id)
        except KeysUnreachableError as error:
            raise TokenUncheckedError(str(error)) from None
        if key is None or key.key_type != ALGORITHMS[algorithm]:
            raise TokenRefusedError("signed by a key that the provider does not have")
        registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        try:
            return dict(jwt.decode(text, key, registry=registry, decoder_cls=_StrictDecoder).claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise TokenRefusedError(f"not signed by the provider, or no token ({type(error).__name__})") from None


def _names(groups: object) -> list[str]:
    """Return the names in a claim of groups: a list, or one name."""
    listed = groups if isinstance(groups, list) else [groups]
    return [each for each in listed[:MAX_GROUPS] if isinstance(each, str)]


class _StrictDecoder(json.JSONDecoder):
    """Rejects duplicate names, which parsers read differently."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _header_of(text: str) -> tuple[str, str]:
    """Return algorithm and key id in a token's header; the id is empty if there is none."""
    try:
        header = json.loads(urlsafe_b64decode(text.partition(".")[0].encode()), cls=_StrictDecoder)
    except (ValueError, RecursionError):
        raise TokenRefusedError("no token") from None
    if not isinstance(header, dict) or "crit" in header:
        raise TokenRefusedError("a header that is none, or asks for extensions")
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefusedError(f"another algorithm than {' or '.join(ALGORITHMS)}")
    if str(header.get("typ", "JWT")).lower() not in _TYPES or not isinstance(key_id, str):
        raise TokenRefusedError("not of the type of ID and access tokens, or with a key id that is no text")
    return algorithm, key_id
