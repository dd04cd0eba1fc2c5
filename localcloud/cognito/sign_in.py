"""Sign-in by password, its challenges (first password, second factor) and refreshing, with Cognito's errors.

A second factor is an authenticator app. The pool checks its codes (RFC 6238), each of which is valid once.
"""

import hmac
import secrets
import threading
import time
from base64 import b32encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from moto.cognitoidp.exceptions import (
    CodeMismatchException,
    ExpiredCodeException,
    InvalidParameterException,
    NotAuthorizedError,
    UserNotFoundError,
)
from moto.cognitoidp.models import UserStatus
from moto.core.exceptions import JsonRESTError

from localcloud.clock import wall_seconds
from localcloud.cognito.passwords import check_password, is_expired
from localcloud.cognito.pools import pool_of, prevents_existence_errors
from localcloud.patches import Patches

PATCHES = Patches()

BY_PASSWORD = "USER_PASSWORD_AUTH"  # nosec B105 # noqa: S105 - the name of a flow

NEW_PASSWORD = "NEW_PASSWORD_REQUIRED"  # nosec B105 # noqa: S105 - the name of a challenge

CODE_OF_AN_APP = "SOFTWARE_TOKEN_MFA"

_REFRESH = frozenset({"REFRESH_TOKEN", "REFRESH_TOKEN_AUTH"})

_FLOWS = ("ALLOW_USER_SRP_AUTH", "ALLOW_CUSTOM_AUTH", "ALLOW_REFRESH_TOKEN_AUTH")
"""The flows of a client that names none."""

MAX_CHALLENGES = 10_000
"""Largest number of open challenges."""

_MINUTE = 60.0


@dataclass
class Challenges:
    """Open challenges of accounts with a correct password, by session; threads may share an instance."""

    clock: Callable[[], float] = time.monotonic
    _open: OrderedDict[str, tuple[str, str, str, float]] = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def begin(self, challenge: str, pool_id: str, user_id: str, minutes: float) -> str:
        """Return a new session in which only this account may answer this challenge."""
        session = secrets.token_urlsafe(48)
        with self._lock:
            self._open[session] = (challenge, pool_id, user_id, self.clock() + minutes * _MINUTE)
            while len(self._open) > MAX_CHALLENGES:
                self._open.popitem(last=False)
        return session

    def is_open(self, challenge: str, session: str, pool_id: str, user_id: str) -> bool:
        """Return True if the session belongs to this challenge and account and has not expired."""
        with self._lock:
            *what, ends_at = self._open.get(session, ("", "", "", 0.0))
        return what == [challenge, pool_id, user_id] and self.clock() < ends_at

    def end(self, session: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(session, None)


challenges = Challenges()
"""The challenges of this process."""


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpBackend.initiate_auth",
    "reveals which accounts exist, allows every flow, and refreshes for accounts that do not exist any more",
)
def initiate_auth(
    original: Any, self: Any, client_id: str, auth_flow: str, auth_parameters: Mapping[str, str] | None
) -> Any:
    """Sign in or refresh, by a flow that the client allows."""
    _, pool, client = pool_of(client_id)
    parameters = dict(auth_parameters or {})
    flow = "REFRESH_TOKEN_AUTH" if auth_flow in _REFRESH else auth_flow
    if not {flow, f"ALLOW_{flow}"} & set(client.extended_config.get("ExplicitAuthFlows") or _FLOWS):
        raise InvalidParameterException(f"{auth_flow} flow not enabled for this client")
    if auth_flow in _REFRESH:
        _check_refresh(pool, client_id, parameters.get("REFRESH_TOKEN", ""))
    if auth_flow == BY_PASSWORD:
        user = _user_by_password(pool, client, parameters)
        if user.status == "FORCE_CHANGE_PASSWORD":
            return _challenge(NEW_PASSWORD, pool, client, user, requiredAttributes="[]")
        if user.software_token_mfa_enabled:
            return _challenge(CODE_OF_AN_APP, pool, client, user)
        if not user.sms_mfa_enabled and pool.mfa_config != "ON":
            return self._log_user_in(pool, client, user.username)
        parameters["USERNAME"] = user.username
    return original(self, client_id, auth_flow, parameters)


def _user_by_password(pool: Any, client: Any, parameters: Mapping[str, str]) -> Any:
    user = pool._get_user(parameters.get("USERNAME", ""))
    if user is None and not prevents_existence_errors(client):
        raise UserNotFoundError("User does not exist.")
    stored = None if user is None else user.password
    # Half of a pair of characters, which UTF-8 does not have, is a part of a wrong password like any other.
    texts = [str(text).encode(errors="surrogatepass") for text in (stored, parameters.get("PASSWORD"))]
    if stored is None or not hmac.compare_digest(*texts):
        raise NotAuthorizedError("Incorrect username or password.")
    if not user.enabled:
        raise NotAuthorizedError("User is disabled.")
    if is_expired(user):
        raise NotAuthorizedError("Temporary password has expired and must be reset by an administrator.")
    if user.status == "RESET_REQUIRED":
        raise JsonRESTError("PasswordResetRequiredException", "Password reset required for the user")
    return user


def _challenge(name: str, pool: Any, client: Any, user: Any, **more: str) -> dict[str, Any]:
    session = challenges.begin(name, pool.id, user.id, client.extended_config["AuthSessionValidity"])
    parameters = {"USER_ID_FOR_SRP": user.username, **more}
    return {"ChallengeName": name, "ChallengeParameters": parameters, "Session": session}


def _check_refresh(pool: Any, client_id: str, token: str) -> None:
    if token not in pool.refresh_tokens:
        raise NotAuthorizedError("Invalid Refresh Token")
    if (issued := pool.refresh_tokens[token]) is None:
        raise NotAuthorizedError("Refresh Token has been revoked")
    owner, username, _ = issued
    user = pool._get_user(username)
    if owner != client_id or user is None:
        raise NotAuthorizedError("Invalid Refresh Token")
    if not user.enabled:
        raise NotAuthorizedError("User is disabled.")


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpBackend.respond_to_auth_challenge",
    "lets any session set any account's password, and accepts any code of a second factor",
)
def respond_to_auth_challenge(
    original: Any,
    self: Any,
    session: str,
    client_id: str,
    challenge_name: str,
    challenge_responses: Mapping[str, str],
) -> Any:
    """Answer a challenge; the session must belong to the account."""
    if challenge_name not in {NEW_PASSWORD, CODE_OF_AN_APP}:
        return original(self, session, client_id, challenge_name, challenge_responses)
    _, pool, client = pool_of(client_id)
    user = pool.users.get(challenge_responses.get("USERNAME", ""))  # AWS accepts no alias here, such as an address
    if user is None or not user.enabled or not challenges.is_open(challenge_name, session, pool.id, user.id):
        raise NotAuthorizedError("Invalid session for the user.")
    if challenge_name == NEW_PASSWORD:
        check_password(pool, challenge_responses.get("NEW_PASSWORD"))
        user.password, user.status = challenge_responses["NEW_PASSWORD"], UserStatus.CONFIRMED
    else:
        user.authenticator.use(challenge_responses.get("SOFTWARE_TOKEN_MFA_CODE", ""))
    challenges.end(session)
    if challenge_name == NEW_PASSWORD and user.software_token_mfa_enabled:
        return _challenge(CODE_OF_AN_APP, pool, client, user)
    return self._log_user_in(pool, client, user.username)


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpBackend._log_user_in",
    "knows tokens by what the account was called by, so that signing out by another name ends none",
)
def log_user_in(original: Any, self: Any, user_pool: Any, client: Any, username: str) -> Any:
    """Return tokens for the account's own name, not for the name in the request."""
    return original(self, user_pool, client, user_pool._get_user(username).username)


DIGITS = 6

STEP_SECONDS = 30

ALLOWED_STEPS_ASIDE = 1
"""Codes of so many steps before and after the current one are valid: clocks differ, and users type slowly."""

_SECRET_BYTES = 20


@dataclass
class Authenticator:
    """An authenticator app of an account, as the pool knows it; the clock is in epoch seconds."""

    clock: Callable[[], float] = wall_seconds
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(_SECRET_BYTES), repr=False)
    _last_step: int = field(default=-1, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def saved(self) -> dict[str, Any]:
        """Return what `restored` needs."""
        return {"secret": self.secret, "last_step": self._last_step}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "Authenticator":
        """Return an app as it was when it was saved."""
        app = cls(secret=saved["secret"])
        app._last_step = saved["last_step"]
        return app

    @property
    def text(self) -> str:
        """The secret in Base32, as apps accept it."""
        return b32encode(self.secret).decode()

    def code(self, step: int) -> str:
        """Return the code of a step of 30 seconds since the epoch."""
        # All apps support SHA-1, and HMAC needs no collision resistance.
        return HOTP(self.secret, DIGITS, SHA1()).generate(step).decode()  # nosec B303 # noqa: S303 - for HMAC

    def use(self, code: str) -> None:
        """Use up a code.

        Raises:
            CodeMismatchException: the code is wrong.
            ExpiredCodeException: this code or a later one has been used (RFC 6238, section 5.2).
        """
        now = int(self.clock() // STEP_SECONDS)
        for step in range(now - ALLOWED_STEPS_ASIDE, now + ALLOWED_STEPS_ASIDE + 1):
            if hmac.compare_digest(self.code(step).encode(), code.encode()):
                with self._lock:
                    if step <= self._last_step:
                        raise ExpiredCodeException("Your software token has already been used once.")
                    self._last_step = step
                return
        raise CodeMismatchException("Invalid code received for user")


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpBackend.associate_software_token", "gives every account the same secret"
)
def associate_software_token(self: Any, access_token: str, session: str) -> dict[str, str]:  # noqa: ARG001
    """Return a new secret, and turn the account's previous factor off."""
    user = _owner_of(self, access_token)
    user.new_authenticator = Authenticator()
    user.software_token_mfa_enabled = False
    return {"SecretCode": user.new_authenticator.text}


@PATCHES.replace("moto.cognitoidp.models:CognitoIdpBackend.verify_software_token", "accepts any code")
def verify_software_token(
    self: Any,
    access_token: str,
    session: str,  # noqa: ARG001 - moto's signature
    user_code: str,
    friendly_device_name: str,  # noqa: ARG001
) -> dict[str, str]:
    """Store the new secret in the account if the code is valid for it."""
    user = _owner_of(self, access_token)
    new: Authenticator = getattr(user, "new_authenticator", None) or Authenticator()
    try:
        new.use(user_code)
    except (CodeMismatchException, ExpiredCodeException):
        message = "Code mismatch and fail enable Software Token MFA"
        raise JsonRESTError("EnableSoftwareTokenMFAException", message) from None
    user.authenticator, user.new_authenticator, user.token_verified = new, None, True
    return {"Status": "SUCCESS"}


def _owner_of(backend: Any, access_token: str) -> Any:
    """Return the account of an access token, in a pool that allows second factors."""
    for pool in list(backend.user_pools.values()):
        if access_token in pool.access_tokens:
            user = pool._get_user(pool.access_tokens[access_token][1])
            if user is not None and user.enabled:
                if pool.mfa_config == "OFF" or not (pool.token_mfa_config or {}).get("Enabled"):
                    message = "Software Token MFA has not been enabled by the userPool"
                    raise JsonRESTError("SoftwareTokenMFANotFoundException", message)
                return user
    raise NotAuthorizedError("Invalid Access Token")
