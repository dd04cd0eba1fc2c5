"""Second factors: an authenticator app for an account. The pool checks its codes (RFC 6238), each good once."""

import hmac
import secrets
import threading
import time
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException

from localcloud.patches import Patch

DIGITS = 6
STEP_SECONDS = 30
STEPS_ASIDE = 1
"""Steps before and after the current one with codes that are taken: clocks differ, and people type slowly."""

_SECRET_BYTES = 20


@dataclass
class Authenticator:
    """What the pool knows of an app.

    Attributes:
        clock: in epoch seconds.
    """

    clock: Callable[[], float] = time.time
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(_SECRET_BYTES), repr=False)
    _last_step: int = field(default=-1, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def text(self) -> str:
        """The secret in Base32, as apps take it."""
        return b32encode(self.secret).decode()

    def code(self, step: int) -> str:
        """Return the code of a step of 30 seconds since the epoch."""
        # SHA-1 is what every app knows; HMAC does not need it to resist collisions.
        return HOTP(self.secret, DIGITS, SHA1()).generate(step).decode()  # nosec B303 # noqa: S303 - for HMAC

    def use(self, code: str) -> None:
        """Use up a code.

        Raises:
            CodeMismatchException: it is wrong.
            ExpiredCodeException: it has been used, or a later one has (RFC 6238, section 5.2).
        """
        now = int(self.clock() // STEP_SECONDS)
        for step in range(now - STEPS_ASIDE, now + STEPS_ASIDE + 1):
            if hmac.compare_digest(self.code(step).encode(), code.encode()):
                with self._turn:
                    if step <= self._last_step:
                        raise ExpiredCodeException("Your software token has already been used once.")
                    self._last_step = step
                return
        raise CodeMismatchException("Invalid code received for user")


def _associate_software_token(_original: Any) -> Any:
    def associate_software_token(self: Any, access_token: str, session: str) -> dict[str, str]:  # noqa: ARG001
        """Return a new secret. A factor that the account had is off until the new one is confirmed, and stays off."""
        pool, user = _owner_of(self, access_token)
        _check_there_are_any(pool)
        user.new_authenticator = Authenticator()
        user.software_token_mfa_enabled = False
        return {"SecretCode": user.new_authenticator.text}

    return associate_software_token


def _verify_software_token(_original: Any) -> Any:
    from moto.core.exceptions import JsonRESTError

    def verify_software_token(
        self: Any,
        access_token: str,
        session: str,  # noqa: ARG001 - moto's signature
        user_code: str,
        friendly_device_name: str,  # noqa: ARG001
    ) -> dict[str, str]:
        """Let the new secret be the account's, if the code is of it."""
        pool, user = _owner_of(self, access_token)
        _check_there_are_any(pool)
        new: Authenticator = getattr(user, "new_authenticator", None) or Authenticator()
        try:
            new.use(user_code)
        except (CodeMismatchException, ExpiredCodeException):
            message = "Code mismatch and fail enable Software Token MFA"
            raise JsonRESTError("EnableSoftwareTokenMFAException", message) from None
        user.authenticator, user.new_authenticator, user.token_verified = new, None, True
        return {"Status": "SUCCESS"}

    return verify_software_token


def _check_there_are_any(pool: Any) -> None:
    from moto.core.exceptions import JsonRESTError

    if pool.mfa_config == "OFF" or not (pool.token_mfa_config or {}).get("Enabled"):
        raise JsonRESTError(
            "SoftwareTokenMFANotFoundException", "Software Token MFA has not been enabled by the userPool"
        )


def _owner_of(backend: Any, access_token: str) -> tuple[Any, Any]:
    """Return the pool and the account that an access token is of."""
    from moto.cognitoidp.exceptions import NotAuthorizedError

    for pool in list(backend.user_pools.values()):
        if access_token in pool.access_tokens:
            user = pool._get_user(pool.access_tokens[access_token][1])
            if user is not None and user.enabled:
                return pool, user
    raise NotAuthorizedError("Invalid Access Token")


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.associate_software_token",
        ("self", "access_token", "session"),
        _associate_software_token,
        "gives every account the same secret",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.verify_software_token",
        ("self", "access_token", "session", "user_code", "friendly_device_name"),
        _verify_software_token,
        "takes any code",
    ),
)
