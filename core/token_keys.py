"""The public keys that a user pool signs its tokens with: fetched, kept, and fetched again when they change."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import urllib3
from botocore.httpsession import get_cert_path
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.util import base64_to_int

from services.errors import FleetsightError

MAX_BYTES = 64 * 1024
"""Of the document; Cognito's has two keys and less than 1 KB."""

MAX_KEYS = 20
MIN_BITS, MAX_BITS = 2_048, 8_192
KEPT = timedelta(hours=1)
"""After which keys are asked for again, so that one that the pool has withdrawn ends; old ones serve meanwhile."""

PAUSE = timedelta(minutes=1)
"""Between two fetches, also for key ids that attackers make up."""

FIRST_PAUSE = timedelta(seconds=5)
"""The same while there are no keys at all."""

_log = logging.getLogger(__name__)


class KeysUnreachableError(FleetsightError):
    """Raised when a pool's keys cannot be had; the message says where from and why."""


def issuer_of(region: str, pool_id: str) -> str:
    """Return who the pool's tokens say that they are from."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://cognito-idp.{region}.{suffix}/{pool_id}"


def jwks_url(endpoint_url: str | None, region: str, pool_id: str) -> str:
    """Return where the pool's keys are; `endpoint_url` is a local cloud's, None is AWS."""
    place = issuer_of(region, pool_id) if endpoint_url is None else f"{endpoint_url.rstrip('/')}/{pool_id}"
    return f"{place}/.well-known/jwks.json"


def keys_at(url: str, connect_seconds: float = 2.0, read_seconds: float = 3.0) -> Callable[[], bytes]:
    """Return what fetches the document at `url`: bounded in time and size, following no redirects.

    What is returned raises KeysUnreachableError.
    """
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=connect_seconds, read=read_seconds),
        retries=False,
        ca_certs=get_cert_path(True),  # botocore's, as for every other call to AWS
    )

    def fetch() -> bytes:
        try:
            answer = pool.request("GET", url, preload_content=False, redirect=False)
            try:
                body = answer.read(MAX_BYTES + 1)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KeysUnreachableError(f"the user pool's keys at {url} cannot be fetched: {error}") from error
        if answer.status != 200 or len(body) > MAX_BYTES:
            raise KeysUnreachableError(f"the user pool's keys at {url}: {answer.status}, {len(body)} bytes")
        return body

    return fetch


@dataclass
class TokenKeys:
    """The pool's keys by their id; threads may share it.

    Attributes:
        fetch: returns the document of keys (RFC 7517), or raises KeysUnreachableError.
        clock: the time of day.
    """

    fetch: Callable[[], bytes]
    clock: Callable[[], datetime]
    _keys: Mapping[str, RSAKey] = field(default_factory=dict, init=False)
    _fetched: datetime | None = field(default=None, init=False)
    _tried: datetime | None = field(default=None, init=False)
    _fetching: threading.Lock = field(default_factory=threading.Lock, init=False)

    def find(self, key_id: str) -> RSAKey | None:
        """Return the key of this id, None when the pool has none.

        Raises:
            KeysUnreachableError: there are no keys yet.
        """
        known = key_id in self._keys
        if not known or self._are_old():
            self._fetch(wait=not known)
        if not self._keys:
            raise KeysUnreachableError("the user pool's keys could not be fetched yet")
        return self._keys.get(key_id)

    def _are_old(self) -> bool:
        return self._fetched is None or abs(self.clock() - self._fetched) >= KEPT

    def _fetch(self, *, wait: bool) -> None:
        if not self._fetching.acquire(blocking=wait):
            return  # another thread does, and the old keys will do
        try:
            now = self.clock()
            if self._tried is not None and abs(now - self._tried) < (PAUSE if self._keys else FIRST_PAUSE):
                return
            self._tried = now
            self._keys = parse_keys(self.fetch())
            self._fetched = now
        except KeysUnreachableError as error:
            _log.warning("%s", error)
        finally:
            self._fetching.release()


def parse_keys(document: bytes) -> dict[str, RSAKey]:
    """Return the keys of a document that can have signed a token; others in it are left out.

    Raises:
        KeysUnreachableError: when there is none.
    """
    try:
        listed = json.loads(document)["keys"][:MAX_KEYS]
        keys = {each["kid"]: _key(each) for each in listed if _can_sign(each)}
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


def _key(jwk: Mapping[str, Any]) -> RSAKey:
    return RSAKey.import_key({"kty": "RSA", "n": jwk["n"], "e": jwk["e"]})
