"""Sign-in by password, its challenges (first password, second factor), and refreshing; and how each is refused."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localcloud.patches import Patch
from localcloud.user_pools.passwords import check_password, is_expired
from localcloud.user_pools.pools import hides_who_exists, pool_of

BY_PASSWORD = "USER_PASSWORD_AUTH"  # nosec B105 # noqa: S105 - the name of a flow
NEW_PASSWORD = "NEW_PASSWORD_REQUIRED"  # nosec B105 # noqa: S105 - the name of a challenge
CODE_OF_AN_APP = "SOFTWARE_TOKEN_MFA"
_REFRESH = frozenset({"REFRESH_TOKEN", "REFRESH_TOKEN_AUTH"})
_FLOWS = ("ALLOW_USER_SRP_AUTH", "ALLOW_CUSTOM_AUTH", "ALLOW_REFRESH_TOKEN_AUTH")
"""Those of a client that names none."""

MAX_CHALLENGES = 10_000
_MINUTE = 60.0


@dataclass
class Challenges:
    """Accounts that have shown their password and are to show more, by the session they got; threads may share it."""

    clock: Callable[[], float] = time.monotonic
    _open: OrderedDict[str, tuple[str, str, str, float]] = field(default_factory=OrderedDict, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)

    def begin(self, challenge: str, pool_id: str, user_id: str, minutes: float) -> str:
        """Return a session in which this account, and no other, may answer this challenge."""
        session = secrets.token_urlsafe(48)
        with self._turn:
            self._open[session] = (challenge, pool_id, user_id, self.clock() + minutes * _MINUTE)
            while len(self._open) > MAX_CHALLENGES:
                self._open.popitem(last=False)
        return session

    def is_open(self, challenge: str, session: str, pool_id: str, user_id: str) -> bool:
        """Return True if the session is of this challenge, this account's, and not over."""
        with self._turn:
            *what, ends_at = self._open.get(session, ("", "", "", 0.0))
        return what == [challenge, pool_id, user_id] and self.clock() < ends_at

    def end(self, session: str) -> None:
        """Let a session be over."""
        with self._turn:
            self._open.pop(session, None)


challenges = Challenges()
"""Those of this process."""


def _initiate_auth(original: Any) -> Any:
    from moto.cognitoidp.exceptions import InvalidParameterException

    def initiate_auth(self: Any, client_id: str, auth_flow: str, auth_parameters: Mapping[str, str] | None) -> Any:
        """Sign in or refresh, by a flow that the client allows."""
        _, pool, client = pool_of(client_id)
        parameters = dict(auth_parameters or {})
        if not _is_allowed(client, auth_flow):
            raise InvalidParameterException(f"{auth_flow} flow not enabled for this client")
        if auth_flow in _REFRESH:
            _check_refresh(pool, client_id, parameters.get("REFRESH_TOKEN", ""))
        if auth_flow == BY_PASSWORD:
            user = _user_by_password(pool, client, parameters)
            if user.status == "FORCE_CHANGE_PASSWORD":
                parameters = {"USER_ID_FOR_SRP": user.username, "requiredAttributes": "[]"}
                return _challenge(NEW_PASSWORD, pool, client, user, parameters)
            if user.software_token_mfa_enabled:
                return _challenge(CODE_OF_AN_APP, pool, client, user, {"USER_ID_FOR_SRP": user.username})
            if not user.sms_mfa_enabled and pool.mfa_config != "ON":
                return self._log_user_in(pool, client, user.username)
            parameters["USERNAME"] = user.username
        return original(self, client_id, auth_flow, parameters)

    return initiate_auth


def _is_allowed(client: Any, flow: str) -> bool:
    allowed = client.extended_config.get("ExplicitAuthFlows") or _FLOWS
    named = "REFRESH_TOKEN_AUTH" if flow in _REFRESH else flow
    return bool({named, f"ALLOW_{named}"} & set(allowed))


def _user_by_password(pool: Any, client: Any, parameters: Mapping[str, str]) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError, UserNotFoundError
    from moto.core.exceptions import JsonRESTError

    user = pool._get_user(parameters.get("USERNAME", ""))
    if user is None and not hides_who_exists(client):
        raise UserNotFoundError("User does not exist.")
    if user is None or user.password is None or user.password != parameters.get("PASSWORD"):
        raise NotAuthorizedError("Incorrect username or password.")
    if not user.enabled:
        raise NotAuthorizedError("User is disabled.")
    if is_expired(user):
        raise NotAuthorizedError("Temporary password has expired and must be reset by an administrator.")
    if user.status == "RESET_REQUIRED":
        raise JsonRESTError("PasswordResetRequiredException", "Password reset required for the user")
    return user


def _challenge(name: str, pool: Any, client: Any, user: Any, parameters: Mapping[str, str]) -> dict[str, Any]:
    session = challenges.begin(name, pool.id, user.id, client.extended_config["AuthSessionValidity"])
    return {"ChallengeName": name, "ChallengeParameters": dict(parameters), "Session": session}


def _check_refresh(pool: Any, client_id: str, token: str) -> None:
    from moto.cognitoidp.exceptions import NotAuthorizedError

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


def _respond_to_auth_challenge(original: Any) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError
    from moto.cognitoidp.models import UserStatus

    def respond_to_auth_challenge(
        self: Any, session: str, client_id: str, challenge_name: str, challenge_responses: Mapping[str, str]
    ) -> Any:
        """Answer a challenge, which is of the account that the session was given to."""
        if challenge_name not in {NEW_PASSWORD, CODE_OF_AN_APP}:
            return original(self, session, client_id, challenge_name, challenge_responses)
        _, pool, client = pool_of(client_id)
        user = pool.users.get(challenge_responses.get("USERNAME", ""))  # AWS takes no alias here, such as an address
        if user is None or not user.enabled or not challenges.is_open(challenge_name, session, pool.id, user.id):
            raise NotAuthorizedError("Invalid session for the user.")
        if challenge_name == NEW_PASSWORD:
            check_password(pool, challenge_responses.get("NEW_PASSWORD"))
            user.password, user.status = challenge_responses["NEW_PASSWORD"], UserStatus.CONFIRMED
        else:
            user.authenticator.use(challenge_responses.get("SOFTWARE_TOKEN_MFA_CODE", ""))
        challenges.end(session)
        if challenge_name == NEW_PASSWORD and user.software_token_mfa_enabled:
            return _challenge(CODE_OF_AN_APP, pool, client, user, {"USER_ID_FOR_SRP": user.username})
        return self._log_user_in(pool, client, user.username)

    return respond_to_auth_challenge


def _log_user_in(original: Any) -> Any:
    def log_user_in(self: Any, user_pool: Any, client: Any, username: str) -> Any:
        """Return tokens that are known by the account's own name, not by the name in the request."""
        return original(self, user_pool, client, user_pool._get_user(username).username)

    return log_user_in


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.initiate_auth",
        ("self", "client_id", "auth_flow", "auth_parameters"),
        _initiate_auth,
        "tells unknown accounts from wrong passwords, allows every flow, and refreshes for accounts that are no more",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.respond_to_auth_challenge",
        ("self", "session", "client_id", "challenge_name", "challenge_responses"),
        _respond_to_auth_challenge,
        "lets any session set any account's password, and takes any code of a second factor",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend._log_user_in",
        ("self", "user_pool", "client", "username"),
        _log_user_in,
        "knows tokens by what the account was called by, so that signing out by another name ends none",
    ),
)
