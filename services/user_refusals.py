"""What each of Cognito's errors is for the person who is signing in, by what they were doing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore.exceptions import ClientError

from services.user_errors import (
    EmailRefusedError,
    NoSecondFactorsError,
    PasswordRefusedError,
    PasswordResetError,
    SignedOutError,
    TooManyAttemptsError,
    UserPoolError,
    WrongCodeError,
    WrongCredentialsError,
    WrongSecondFactorError,
)

Refusals = Mapping[str, type[UserPoolError] | None]
"""What each error of the pool is for the person; None is nothing."""

_TOO_MANY: Refusals = {
    "LimitExceededException": TooManyAttemptsError,
    "TooManyFailedAttemptsException": TooManyAttemptsError,
    "TooManyRequestsException": TooManyAttemptsError,
}
# An address that has an account must look like any other.
INVITING: Refusals = {
    "InvalidParameterException": EmailRefusedError,
    "UnsupportedUserStateException": None,
    "UserNotFoundException": None,
    "UsernameExistsException": None,
}
SIGNING_IN: Refusals = {
    "InvalidParameterException": WrongCredentialsError,
    "InvalidPasswordException": PasswordRefusedError,
    "NotAuthorizedException": WrongCredentialsError,
    "PasswordResetRequiredException": PasswordResetError,
    "UserNotConfirmedException": WrongCredentialsError,
    "UserNotFoundException": WrongCredentialsError,
}
PROVING: Refusals = {
    "AliasExistsException": WrongCodeError,
    "CodeMismatchException": WrongCodeError,
    "ExpiredCodeException": WrongCodeError,
    "InvalidParameterException": WrongCodeError,
    "InvalidPasswordException": PasswordRefusedError,
    "NotAuthorizedException": WrongCodeError,
    "UserNotConfirmedException": WrongCodeError,
    "UserNotFoundException": WrongCodeError,
}
REFRESHING: Refusals = {
    "InvalidParameterException": SignedOutError,
    "NotAuthorizedException": SignedOutError,
    "PasswordResetRequiredException": SignedOutError,
    "RefreshTokenReuseException": SignedOutError,
    "UserNotConfirmedException": SignedOutError,
    "UserNotFoundException": SignedOutError,
}
SETTING_THE_FIRST_PASSWORD: Refusals = {**SIGNING_IN, "CodeMismatchException": WrongCredentialsError}
_WRONG_CODE_OF_AN_APP: Refusals = {
    "CodeMismatchException": WrongSecondFactorError,
    "EnableSoftwareTokenMFAException": WrongSecondFactorError,
    "ExpiredCodeException": WrongSecondFactorError,
}
ANSWERING_WITH_A_CODE: Refusals = {
    **SIGNING_IN,
    **_WRONG_CODE_OF_AN_APP,
    "SoftwareTokenMFANotFoundException": WrongCredentialsError,  # it was removed meanwhile: sign in again
}
BEGINNING_A_SECOND_FACTOR: Refusals = {
    "NotAuthorizedException": WrongCredentialsError,
    "SoftwareTokenMFANotFoundException": NoSecondFactorsError,
    "UserNotFoundException": WrongCredentialsError,
}
CONFIRMING_A_SECOND_FACTOR: Refusals = {**BEGINNING_A_SECOND_FACTOR, **_WRONG_CODE_OF_AN_APP}
# Why no code is sent depends on the account; the client is not told, since any client may ask for any account.
ASKING_FOR_A_CODE: Refusals = {
    "CodeDeliveryFailureException": None,
    "InvalidParameterException": None,
    "LimitExceededException": None,
    "NotAuthorizedException": None,
    "UserNotConfirmedException": None,
    "UserNotFoundException": None,
}
# What is refused is good for nothing already.
REVOKING: Refusals = {
    "InvalidParameterException": None,
    "NotAuthorizedException": None,
    "UnauthorizedException": None,
}


@contextmanager
def refused_as(refusals: Refusals) -> Iterator[None]:
    """Raise our error for the pool's; one that is no refusal, such as a missing role, stays what it is."""
    try:
        yield
    except ClientError as error:
        known, code = {**_TOO_MANY, **refusals}, error.response["Error"]["Code"]
        if code not in known:
            raise
        if (refusal := known[code]) is not None:
            raise refusal from None  # the pool's own words may tell of the account
