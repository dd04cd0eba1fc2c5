"""Session keys: they sign cookies, derive the next id of a session, and encrypt what is stored of the provider.

The keys are in their own file, one per line. The first one signs and encrypts; all of them verify and decrypt. A new
key is added at the top, and an old one is removed once no session of it can be left (`auth.session_hours`).

They also sign what a browser keeps while its user is at the provider. The secret of the provider's client is loaded
here, too. A web instance imports this module at boot to check its keys, so it imports no web framework.
"""

import base64
import hmac
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

SECRET_VARIABLE: Final = "FLEETSIGHT_CLIENT_SECRET"  # noqa: S105 (a name, as the next one)
SECRET_FILE_VARIABLE: Final = "FLEETSIGHT_CLIENT_SECRET_FILE"  # noqa: S105 (a name)
CLIENT_SECRET_VARIABLES: Final = (SECRET_VARIABLE, SECRET_FILE_VARIABLE)

MIN_CHARACTERS: Final = 32

MAX_COOKIE_CHARACTERS: Final = 200
"""Maximum characters of a cookie: those of sessions have up to 152."""

_REMEDY = (
    f"name a file in {KEYS_FILE_VARIABLE} that only the web tier may read, with one key or more, each a line of at "
    f"least {MIN_CHARACTERS} characters, such as `openssl rand -base64 48` makes"
)


@dataclass(frozen=True, slots=True)
class SessionId:
    """The verified id of a session, and the id that follows it at the next rotation."""

    own: str
    next: str

    def __repr__(self) -> str:
        """Hide the ids: a client that has one has the session."""
        return "SessionId()"


class SessionKeys:
    """The keys of all processes of the web tier; `random_id` returns unguessable ids."""

    def __init__(self, keys: Sequence[str], random_id: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> None:
        self._keys = [key.encode() for key in keys]
        self._cipher = MultiFernet([Fernet(base64.urlsafe_b64encode(_mac(key, "encrypt"))) for key in self._keys])
        self.random_id = random_id

    def sign(self, session_id: str) -> str:
        """Return the cookie that holds `session_id`."""
        return _signer(self._keys[0]).sign(session_id).decode()

    def read(self, cookie: str) -> SessionId | None:
        """Return the id in a cookie, or None if none of the keys has signed it.

        The next id is derived with the key that signed this one, so that all machines agree on it while keys change.
        """
        if len(cookie) > MAX_COOKIE_CHARACTERS or not cookie.isascii():
            return None
        own = cookie.rpartition(".")[0]
        for key in self._keys:
            # The text of the signature is compared, since Base64 decoders accept several texts for the same bytes.
            if hmac.compare_digest(_signer(key).sign(own), cookie.encode()):
                return SessionId(own, f"{owner_of(own)}.{_text(_mac(key, 'next', own))}")
        return None

    def new_id(self, owner: str) -> str:
        """Return an unguessable id for a new session of `owner`."""
        return f"{owner}.{self.random_id()}"

    def mac(self, purpose: str, *facts: str) -> str:
        """Return an authentication code of `facts`, valid for this purpose only."""
        return _text(_mac(self._keys[0], purpose, *facts))

    def verify(self, code: str, purpose: str, *facts: str) -> bool:
        """Return whether `code` is the `mac` of `facts` for this purpose, with any of the keys."""
        given = code.encode(errors="replace")  # text that is not ASCII cannot be compared in constant time
        return any(hmac.compare_digest(given, _text(_mac(key, purpose, *facts)).encode()) for key in self._keys)

    def encrypt(self, text: str) -> str:
        """Return `text` encrypted."""
        return self._cipher.encrypt(text.encode()).decode()

    def decrypt(self, text: str) -> str | None:
        """Return the decrypted text; None if it is forged, or its key has been removed."""
        try:
            return self._cipher.decrypt(text.encode(errors="replace")).decode()
        except InvalidToken:
            return None

    def secrets_of(self, purpose: str) -> list[str]:
        """Return a secret derived from each key for this purpose, that of the signing key first."""
        return [_text(_mac(key, purpose)) for key in self._keys]


def load_session_keys(environment: Mapping[str, str] = os.environ) -> SessionKeys:
    """Return the keys in the file that `FLEETSIGHT_SESSION_KEYS_FILE` names.

    Raises:
        ConfigError: the file does not exist, cannot be read or is empty, or a key is too short.
    """
    path = environment.get(KEYS_FILE_VARIABLE)
    if not path:
        raise ConfigError(f"auth.mode is oidc, and there is no {KEYS_FILE_VARIABLE}: {_REMEDY}")
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


def load_client_secret(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the secret of the client, or None for a public client.

    Raises:
        ConfigError: the file that the environment names cannot be read, or is empty.
    """
    path = environment.get(SECRET_FILE_VARIABLE)
    if not path:
        return environment.get(SECRET_VARIABLE) or None
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{SECRET_FILE_VARIABLE}={path!r} cannot be read ({type(error).__name__}): name a file with the secret "
            "of the provider's client, which only the web tier may read"
        ) from error
    if not secret:
        raise ConfigError(
            f"{SECRET_FILE_VARIABLE}={path!r} is empty: write the secret of the provider's client there"
        )
    return secret


def owner_of(session_id: str) -> str:
    """Return the id of the user that a session id belongs to."""
    return session_id.rpartition(".")[0]


def _signer(key: bytes) -> Signer:
    return Signer(key, salt=b"fleetsight session", digest_method=sha256)


def _mac(key: bytes, *facts: str) -> bytes:
    # Joined by NUL, which no fact contains, so that facts cannot run into each other.
    return hmac.digest(key, "\0".join(("fleetsight", *facts)).encode(), "sha256")


def _text(code: bytes) -> str:
    return base64.urlsafe_b64encode(code).rstrip(b"=").decode()
