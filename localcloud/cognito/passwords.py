"""Passwords of user pools: the policy, temporary passwords, and the codes that reset a forgotten password.

A code has six digits and is valid for an hour, for one use and for five attempts.
https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html has the lifetime. Cognito does not document the
exact number of attempts.
"""

import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moto.cognitoidp.exceptions import (
    CodeMismatchException,
    ExpiredCodeException,
    InvalidParameterException,
    NotAuthorizedError,
    UserNotFoundError,
)
from moto.cognitoidp.models import UserStatus
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult, EmptyResult

from localcloud.clock import wall_seconds
from localcloud.cognito.mailbox import mailbox
from localcloud.cognito.pools import address_of, pool_of, prevents_existence_errors
from localcloud.patches import Patches

LIFETIME_SECONDS = 3600.0

WINDOW_SECONDS = 3600.0

MAX_IN_WINDOW = 5
"""Largest number of codes sent to an address, and of its wrong attempts, within the window."""

MAX_ADDRESSES = 10_000
"""Largest number of addresses with stored codes."""

Key = tuple[str, str]
"""Pool and address."""


class AttemptsExceededError(JsonRESTError):  # type: ignore[misc]  # of moto, which has no types
    """Raised when an address has requested or tried too many codes, with Cognito's message."""

    def __init__(self) -> None:
        super().__init__("LimitExceededException", "Attempt limit exceeded, please try after some time.")


@dataclass
class _Proof:
    code: str | None = None
    ends_at: float = 0.0
    sent: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)


@dataclass
class Codes:
    """The codes of this cloud; threads may share an instance. Addresses without an account behave as all others."""

    clock: Callable[[], float] = time.monotonic
    _proofs: OrderedDict[Key, _Proof] = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def new(self, key: Key) -> str:
        """Return a new code, which replaces the previous one; raise `AttemptsExceededError` after too many codes."""
        with self._lock:
            proof, now = self._proof(key), self.clock()
            _check_count(proof.sent, now)
            proof.sent.append(now)
            proof.code, proof.ends_at = f"{secrets.randbelow(10**6):06d}", now + LIFETIME_SECONDS
            return proof.code

    def use(self, key: Key, code: str) -> None:
        """Use up the code of an address.

        Raises:
            AttemptsExceededError: the address has too many wrong attempts.
            CodeMismatchException: the code is wrong.
            ExpiredCodeException: no code exists, or it was used or is too old.
        """
        with self._lock:
            proof, now = self._proof(key), self.clock()
            _check_count(proof.wrong, now)
            is_right = proof.code is not None and hmac.compare_digest(proof.code.encode(), code.encode())
            if not is_right:
                proof.wrong.append(now)
            if proof.code is None or now >= proof.ends_at:
                raise ExpiredCodeException("Invalid code provided, please request a code again.")
            if not is_right:
                raise CodeMismatchException("Invalid verification code provided, please try again.")
            proof.code = None

    def _proof(self, key: Key) -> _Proof:
        proof = self._proofs.setdefault(key, _Proof())
        self._proofs.move_to_end(key)
        while len(self._proofs) > MAX_ADDRESSES:
            self._proofs.popitem(last=False)
        return proof


def _check_count(times: list[float], now: float) -> None:
    """Drop the times before the window, and raise an error if no further one may follow."""
    times[:] = [each for each in times if now - each < WINDOW_SECONDS]
    if len(times) >= MAX_IN_WINDOW:
        raise AttemptsExceededError


codes = Codes()
"""The codes of this process."""

MAX_CHARACTERS = 256
"""Longest password, as in Cognito."""
_KINDS = (
    ("RequireLowercase", re.compile("[a-z]"), "Password must have lowercase characters"),
    ("RequireUppercase", re.compile("[A-Z]"), "Password must have uppercase characters"),
    ("RequireNumbers", re.compile("[0-9]"), "Password must have numeric characters"),
    (
        "RequireSymbols",
        re.compile(r"""[\^$*.\[\]{}()?"!@#%&/\\,><':;|_~`=+\- ]"""),
        "Password must have symbol characters",
    ),
)


def fault_of(password: str, policy: Mapping[str, Any]) -> str | None:
    """Return Cognito's message about a password that breaks a policy, else None."""
    if len(password) < policy.get("MinimumLength", 8):
        return "Password not long enough"
    if len(password) > MAX_CHARACTERS:
        return "Password too long"
    for requirement, characters, fault in _KINDS:
        if policy.get(requirement, True) and not characters.search(password.strip()):
            return fault
    return None


def check_password(pool: Any, password: str | None) -> None:
    """Raise InvalidPasswordException if a password breaks the pool's policy."""
    if fault := fault_of(password or "", _policy(pool)):
        raise JsonRESTError("InvalidPasswordException", f"Password did not conform with policy: {fault}")


def is_expired(user: Any) -> bool:
    """Return True if an account still has its temporary password and this has expired."""
    return bool(user.status == "FORCE_CHANGE_PASSWORD" and wall_seconds() >= user.temporary_password_ends_at)


def _policy(pool: Any) -> Mapping[str, Any]:
    policy: Mapping[str, Any] = pool.extended_config.get("Policies", {}).get("PasswordPolicy", {})
    return policy


PATCHES = Patches()


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpBackend._validate_password",
    "rejects more than 98 characters, accepts 5, and does not name the fault",
)
def validate_password(self: Any, user_pool_id: str, password: str) -> None:
    """Check a password against the pool's policy."""
    check_password(self.describe_user_pool(user_pool_id), password)


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpBackend.admin_create_user",
    "accepts any temporary password, mails none, and creates a second account instead of resending",
)
def admin_create_user(  # noqa: PLR0917 - moto's signature
    original: Any,
    self: Any,
    user_pool_id: str,
    username: str,
    message_action: str,
    temporary_password: str,
    attributes: Any,
) -> Any:
    """Create an account, or set a new temporary password; mail the password unless this is suppressed."""
    pool = self.describe_user_pool(user_pool_id)
    password = temporary_password or f"{secrets.token_urlsafe(9)}-Aa1"
    check_password(pool, password)
    if message_action == "RESEND":
        user = self.admin_get_user(user_pool_id, username)
        if user.status != "FORCE_CHANGE_PASSWORD":
            message = f"Resend not possible. User status is {user.status}"
            raise JsonRESTError("UnsupportedUserStateException", message)
        user.password = password
    else:
        user = original(self, user_pool_id, username, message_action, password, attributes)
    days = int(_policy(pool).get("TemporaryPasswordValidityDays", 7))
    user.temporary_password_ends_at = wall_seconds() + days * 86_400
    if message_action != "SUPPRESS":
        mailbox.send(address_of(user, username), "invitation", password)
    return user


@PATCHES.replace(
    "moto.cognitoidp.responses:CognitoIdpResponse.forgot_password",
    "reveals the code in a header, and sends no mail",
)
def forgot_password(self: Any) -> Any:
    """Mail a code to the address of an account; the answer is the same if the account does not exist.

    A code for an address without an account counts, too, but is not mailed.
    """
    name = str(self._get_param("Username"))
    _, pool, client = pool_of(self._get_param("ClientId"))
    user = pool._get_user(name)
    known = user is not None and user.enabled and user.attribute_lookup.get("email_verified") == "true"
    if known and user.status is UserStatus.FORCE_CHANGE_PASSWORD:
        raise NotAuthorizedError("User password cannot be reset in the current state.")
    if not known and not prevents_existence_errors(client):
        if user is None:
            raise UserNotFoundError("Username/client id combination not found.")
        raise InvalidParameterException(
            "Cannot reset password for the user as there is no registered/verified email or phone_number"
        )
    address = address_of(user, name)
    code = codes.new((pool.id, address))
    if known:
        mailbox.send(address, "reset", code)
    local, _, domain = address.partition("@")
    details = {"Destination": f"{local[:1]}***@{domain[:1]}***", "DeliveryMedium": "EMAIL", "AttributeName": "email"}
    return ActionResult({"CodeDeliveryDetails": details})


@PATCHES.replace(
    "moto.cognitoidp.responses:CognitoIdpResponse.confirm_forgot_password",
    "accepts any code and any password, and codes never expire",
)
def confirm_forgot_password(self: Any) -> Any:
    """Set a new password with a valid code."""
    name, password = str(self._get_param("Username")), str(self._get_param("Password"))
    _, pool, _ = pool_of(self._get_param("ClientId"))
    check_password(pool, password)
    user = pool._get_user(name)
    try:
        codes.use((pool.id, address_of(user, name)), str(self._get_param("ConfirmationCode")))
    except ExpiredCodeException:
        if user is not None:
            raise
    if user is None or not user.enabled:
        raise CodeMismatchException("Invalid verification code provided, please try again.")
    user.password, user.status = password, UserStatus.CONFIRMED
    return EmptyResult()
