"""The secrets of sessions: they sign cookies, derive the next id of a session, and encrypt what is kept of the pool.

They stand in a file of their own, a key a line. The first one signs and encrypts, all of them verify and decrypt: a
new key goes on top, and an old one is taken away once no session of it can be left (`auth.session_hours`).
"""

import base64
import hmac
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from itsdangerous import Signer

from services.errors import ConfigError

KEYS_FILE_VARIABLE: Final = "FLEETSIGHT_SESSION_KEYS_FILE"
MIN_CHARACTERS: Final = 32
MAX_COOKIE_CHARACTERS: Final = 200
"""Characters of a cookie that are looked at; ours have 124."""

_REMEDY = (
    f"name a file in {KEYS_FILE_VARIABLE} that only the web tier may read, with one key or more, each a line of at "
    f"least {MIN_CHARACTERS} characters, such as `openssl rand -base64 48` makes"
)


@dataclass(frozen=True, slots=True)
class SessionId:
    """A session's id that was signed by us, and the one that takes its place when it is rotated."""

    own: str
    next: str

    def __repr__(self) -> str:
        """Show nothing of it: a client that has the id has the session."""
        return "SessionId()"


class SessionKeys:
    """The keys of all processes of the web tier; `random_id` makes unguessable ids."""

    def __init__(self, keys: Sequence[str], random_id: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> None:
        self._keys = [key.encode() for key in keys]
        self._cipher = MultiFernet([Fernet(base64.urlsafe_b64encode(_mac(key, "encrypt"))) for key in self._keys])
        self.random_id = random_id

    def sign(self, session_id: str) -> str:
        """Return the cookie that holds `session_id`."""
        return _signer(self._keys[0]).sign(session_id).decode()

    def read(self, cookie: str) -> SessionId | None:
        """Return the id that a cookie holds, None if no key of ours has signed it.

        The next id follows from the key that signed this one, so that all machines agree on it while keys change.
        """
        if len(cookie) > MAX_COOKIE_CHARACTERS or not cookie.isascii():
            return None
        own = cookie.rpartition(".")[0]
        for key in self._keys:
            # The signature's text is compared: decoders of Base64 take several texts for the same bytes.
            if hmac.compare_digest(_signer(key).sign(own), cookie.encode()):
                return SessionId(own, f"{owner_of(own)}.{_text(_mac(key, 'next', own))}")
        return None

    def new_id(self, owner: str) -> str:
        """Return the id of a new session of `owner`, which cannot be guessed."""
        return f"{owner}.{self.random_id()}"

    def token(self, purpose: str, *facts: str) -> str:
        """Return a code for `facts` that only we can make, for this purpose alone."""
        return _text(_mac(self._keys[0], purpose, *facts))

    def knows(self, token: str, purpose: str, *facts: str) -> bool:
        """Return whether `token` is such a code."""
        given = token.encode(errors="replace")  # text that is not ASCII cannot be compared in constant time
        return any(hmac.compare_digest(given, _text(_mac(key, purpose, *facts)).encode()) for key in self._keys)

    def encrypt(self, text: str) -> str:
        """Return `text` so that only we can read it."""
        return self._cipher.encrypt(text.encode()).decode()

    def decrypt(self, text: str, seconds: int | None = None) -> str | None:
        """Return what was encrypted; None when it was tampered with, with a key that is gone, or too long ago."""
        try:
            return self._cipher.decrypt(text.encode(errors="replace"), ttl=seconds).decode()
        except InvalidToken:
            return None

    def seal(self, purpose: str, *facts: str) -> str:
        """Return `facts` as a browser may keep them for us: encrypted, and good for this purpose alone."""
        return self.encrypt(json.dumps([purpose, *facts]))

    def unseal(self, text: str, purpose: str, *, seconds: int) -> list[str] | None:
        """Return the facts that were sealed for a purpose up to `seconds` ago; None for everything else."""
        try:
            found = json.loads(self.decrypt(text, seconds) or "null")
        except ValueError:  # a refresh token, which is encrypted by the same keys
            return None
        return found[1:] if isinstance(found, list) and found[:1] == [purpose] else None


def load_session_keys(environment: Mapping[str, str] = os.environ) -> SessionKeys:
    """Return the keys in the file that `FLEETSIGHT_SESSION_KEYS_FILE` names.

    Raises:
        ConfigError: when there is none, it cannot be read, it is empty, or a key is too short.
    """
    path = environment.get(KEYS_FILE_VARIABLE)
    if not path:
        raise ConfigError(f"auth.mode is cognito, and there is no {KEYS_FILE_VARIABLE}: {_REMEDY}")
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{KEYS_FILE_VARIABLE}={path!r} cannot be read ({type(error).__name__}): {_REMEDY}"
        ) from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise ConfigError(f"{KEYS_FILE_VARIABLE}={path!r} holds no key: {_REMEDY}")
    if short := [number for number, key in enumerate(keys, 1) if len(key) < MIN_CHARACTERS]:
        raise ConfigError(
            f"{KEYS_FILE_VARIABLE}={path!r}: key {short[0]} has fewer than {MIN_CHARACTERS} characters: {_REMEDY}"
        )
    return SessionKeys(keys)


def owner_of(session_id: str) -> str:
    """Return the user that a session is of, by its id."""
    return session_id.rpartition(".")[0]


def _signer(key: bytes) -> Signer:
    return Signer(key, salt=b"fleetsight session", digest_method=sha256)


def _mac(key: bytes, *facts: str) -> bytes:
    # A NUL between them, which none of them holds: facts cannot run into each other.
    return hmac.digest(key, "\0".join(("fleetsight", *facts)).encode(), "sha256")


def _text(code: bytes) -> str:
    return base64.urlsafe_b64encode(code).rstrip(b"=").decode()
