"""Passwords of user pools: the password policy, temporary passwords, and the reset of a forgotten password."""

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from localcloud.cognito.codes import code_delivery_details, codes, send_code
from localcloud.cognito.mailbox import mailbox
from localcloud.cognito.pools import address_of, pool_of, prevents_existence_errors
from localcloud.patches import Patch

MAX_CHARACTERS = 256
"""Longest password, as in Cognito."""
_SYMBOLS = re.compile(r"""[\^$*.\[\]{}()?"!@#%&/\\,><':;|_~`=+\- ]""")
_KINDS = (
    ("RequireLowercase", re.compile("[a-z]"), "Password must have lowercase characters"),
    ("RequireUppercase", re.compile("[A-Z]"), "Password must have uppercase characters"),
    ("RequireNumbers", re.compile("[0-9]"), "Password must have numeric characters"),
    ("RequireSymbols", _SYMBOLS, "Password must have symbol characters"),
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
    """Check a password against the pool's policy.

    Raises:
        InvalidPasswordException: the password breaks the policy.
    """
    from moto.core.exceptions import JsonRESTError

    if fault := fault_of(password or "", _policy(pool)):
        raise JsonRESTError("InvalidPasswordException", f"Password did not conform with policy: {fault}")


def _validate_password(_original: Any) -> Any:
    def validate_password(self: Any, user_pool_id: str, password: str) -> None:
        """Check a password against the pool's policy."""
        check_password(self.describe_user_pool(user_pool_id), password)

    return validate_password


def _admin_create_user(original: Any) -> Any:
    from moto.core.exceptions import JsonRESTError

    def admin_create_user(
        self: Any, user_pool_id: str, username: str, message_action: str, temporary_password: str, attributes: Any
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
        user.temporary_password_ends_at = time.time() + days * 86_400
        if message_action != "SUPPRESS":
            mailbox.send(address_of(user, username), "invitation", password)
        return user

    return admin_create_user


def is_expired(user: Any) -> bool:
    """Return True if an account still has its temporary password and this has expired."""
    return bool(user.status == "FORCE_CHANGE_PASSWORD" and time.time() >= user.temporary_password_ends_at)


def _policy(pool: Any) -> Mapping[str, Any]:
    policy: Mapping[str, Any] = pool.extended_config.get("Policies", {}).get("PasswordPolicy", {})
    return policy


def _forgot_password(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import InvalidParameterException, NotAuthorizedError, UserNotFoundError
    from moto.cognitoidp.models import UserStatus
    from moto.core.responses import ActionResult

    def forgot_password(self: Any) -> Any:
        """Send a code to the address of an account; the answer is the same if the account does not exist."""
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
        send_code((pool.id, address), has_account=known)
        return ActionResult({"CodeDeliveryDetails": code_delivery_details(address)})

    return forgot_password


def _confirm_forgot_password(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException
    from moto.cognitoidp.models import UserStatus
    from moto.core.responses import EmptyResult

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
            user = None
        if user is None or not user.enabled:
            raise CodeMismatchException("Invalid verification code provided, please try again.")
        user.password, user.status = password, UserStatus.CONFIRMED
        return EmptyResult()

    return confirm_forgot_password


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend._validate_password",
        ("self", "user_pool_id", "password"),
        _validate_password,
        "rejects more than 98 characters, accepts 5, and does not name the fault",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.admin_create_user",
        ("self", "user_pool_id", "username", "message_action", "temporary_password", "attributes"),
        _admin_create_user,
        "accepts any temporary password, mails none, and creates a second account instead of resending",
    ),
    Patch(
        "moto.cognitoidp.responses:CognitoIdpResponse.forgot_password",
        ("self",),
        _forgot_password,
        "reveals the code in a header, and sends no mail",
    ),
    Patch(
        "moto.cognitoidp.responses:CognitoIdpResponse.confirm_forgot_password",
        ("self",),
        _confirm_forgot_password,
        "accepts any code and any password, and codes never expire",
    ),
)
