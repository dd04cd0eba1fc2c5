"""Errors of the user pool, with messages for the user, and the table that translates Cognito's errors into them.

No message reveals whether an account exists.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from botocore.exceptions import ClientError

from services.errors import FleetsightError


class UserPoolError(FleetsightError):
    """Base of these errors; the message is for the user who is signing in."""

    default_message: ClassVar[str] = "The user pool refuses that. Try again, or ask the operator of this site."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message)


class WrongCredentialsError(UserPoolError):
    """Raised when this e-mail address and this password do not permit a sign-in."""

    default_message = "The e-mail address or the password is wrong."


class PasswordResetError(UserPoolError):
    """Raised when an operator has required a new password."""

    default_message = "You need a new password: ask for a code with 'Forgot password'."


class WrongSecondFactorError(WrongCredentialsError):
    """Raised when a code of an authenticator app is wrong or has been used."""

    default_message = (
        "That code is wrong, or has been used already. Enter the next one that your app shows, or start again."
    )


class WrongMailedCodeError(WrongCredentialsError):
    """Raised when a code does not sign in to a new account for the first time."""

    default_message = "The code is wrong, or has expired. Ask for another one; with an account, sign in instead."


class WrongRecoveryCodeError(WrongSecondFactorError):
    """Raised when a recovery code is not one of the account's."""

    default_message = "That is none of your recovery codes."


class SecondFactorError(UserPoolError):
    """Raised when an account has a second factor that these pages do not support."""

    default_message = "Your account signs in with a second factor that this site does not ask for. Ask its operator."


class NoSecondFactorsError(UserPoolError):
    """Raised when the user pool has no second factors."""

    default_message = "Second factors are turned off for this site. Ask its operator to turn them on."


class WrongCodeError(UserPoolError):
    """Raised when a code is wrong, has expired or has been used."""

    default_message = "The code is wrong, or has expired. Ask for a new one; if you have used it already, sign in."


class PasswordRefusedError(UserPoolError):
    """Raised when a new password is too short or easy to guess, or does not meet the pool's policy."""

    default_message = (
        "Choose a password that is harder to guess: at least 12 characters, such as four words that have nothing to "
        "do with each other."
    )


class EmailRefusedError(UserPoolError):
    """Raised when a text cannot be the e-mail address of an account."""

    default_message = "That is no e-mail address that an account can have."


class TooManyAttemptsError(UserPoolError):
    """Raised when the pool accepts no more attempts for now."""

    default_message = "There were too many attempts. Wait a while, then try again."


class SignedOutError(UserPoolError):
    """Raised when a refresh token is refused: signed out, expired, or the account is disabled or deleted."""

    default_message = "You are signed out. Sign in again."


class EmailTakenError(UserPoolError):
    """Raised when an operator creates an account for an e-mail address that has one."""

    default_message = "There is an account for this e-mail address."


ErrorMap = Mapping[str, type[UserPoolError] | None]
"""Our error for each of Cognito's error codes; None ignores the error."""

_TOO_MANY: ErrorMap = {
    "LimitExceededException": TooManyAttemptsError,
    "TooManyFailedAttemptsException": TooManyAttemptsError,
    "TooManyRequestsException": TooManyAttemptsError,
}
# Addresses with and without an account must be indistinguishable.
INVITING: ErrorMap = {
    "InvalidParameterException": EmailRefusedError,
    "UnsupportedUserStateException": None,
    "UserNotFoundException": None,
    "UsernameExistsException": None,
}
SIGNING_IN: ErrorMap = {
    "InvalidParameterException": WrongCredentialsError,
    "InvalidPasswordException": PasswordRefusedError,
    "NotAuthorizedException": WrongCredentialsError,
    "PasswordResetRequiredException": PasswordResetError,
    "UserNotConfirmedException": WrongCredentialsError,
    "UserNotFoundException": WrongCredentialsError,
}
PROVING: ErrorMap = {
    "AliasExistsException": WrongCodeError,
    "CodeMismatchException": WrongCodeError,
    "ExpiredCodeException": WrongCodeError,
    "InvalidParameterException": WrongCodeError,
    "InvalidPasswordException": PasswordRefusedError,
    "NotAuthorizedException": WrongCodeError,
    "UserNotConfirmedException": WrongCodeError,
    "UserNotFoundException": WrongCodeError,
}
REFRESHING: ErrorMap = {
    "InvalidParameterException": SignedOutError,
    "NotAuthorizedException": SignedOutError,
    "PasswordResetRequiredException": SignedOutError,
    "RefreshTokenReuseException": SignedOutError,
    "UserNotConfirmedException": SignedOutError,
    "UserNotFoundException": SignedOutError,
}
SETTING_THE_FIRST_PASSWORD: ErrorMap = {**SIGNING_IN, "CodeMismatchException": WrongCredentialsError}
_WRONG_TOTP_CODE: ErrorMap = {
    "CodeMismatchException": WrongSecondFactorError,
    "EnableSoftwareTokenMFAException": WrongSecondFactorError,
    "ExpiredCodeException": WrongSecondFactorError,
}
ANSWERING_WITH_A_CODE: ErrorMap = {
    **SIGNING_IN,
    **_WRONG_TOTP_CODE,
    "SoftwareTokenMFANotFoundException": WrongCredentialsError,  # removed meanwhile: sign in again
}
BEGINNING_A_SECOND_FACTOR: ErrorMap = {
    "NotAuthorizedException": WrongCredentialsError,
    "SoftwareTokenMFANotFoundException": NoSecondFactorsError,
    "UserNotFoundException": WrongCredentialsError,
}
CONFIRMING_A_SECOND_FACTOR: ErrorMap = {**BEGINNING_A_SECOND_FACTOR, **_WRONG_TOTP_CODE}
# The reason why no code is sent depends on the account. It is not revealed: any client may ask for any account.
ASKING_FOR_A_CODE: ErrorMap = {
    "CodeDeliveryFailureException": None,
    "InvalidParameterException": None,
    "LimitExceededException": None,
    "NotAuthorizedException": None,
    "UserNotConfirmedException": None,
    "UserNotFoundException": None,
}
# A rejected token is already invalid.
REVOKING: ErrorMap = {
    "InvalidParameterException": None,
    "NotAuthorizedException": None,
    "UnauthorizedException": None,
}


@contextmanager
def translated_errors(errors: ErrorMap) -> Iterator[None]:
    """Raise our errors instead of Cognito's; others, such as a missing permission, pass unchanged."""
    try:
        yield
    except ClientError as error:
        known, code = {**_TOO_MANY, **errors}, error.response["Error"]["Code"]
        if code not in known:
            raise
        if (translated := known[code]) is not None:
            raise translated from None  # Cognito's message may reveal whether the account exists
