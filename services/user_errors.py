"""What can go wrong between a person and the user pool, in words for that person.

None of these words tells whether there is an account: what a stranger sees is the same either way.
"""

from typing import ClassVar

from services.errors import FleetsightError


class UserPoolError(FleetsightError):
    """Base of these errors; the message is for the user who is signing in."""

    words: ClassVar[str] = "The user pool refuses that. Try again, or ask the operator of this site."

    def __init__(self, words: str | None = None) -> None:
        super().__init__(words or self.words)


class WrongCredentialsError(UserPoolError):
    """Raised when this e-mail address and this password do not permit a sign-in."""

    words = "The e-mail address or the password is wrong."


class PasswordResetError(UserPoolError):
    """Raised when ops have asked for a new password."""

    words = "You need a new password: ask for a code with 'Forgot password'."


class WrongSecondFactorError(WrongCredentialsError):
    """Raised when a code of an authenticator app is wrong or has been used."""

    words = "That code is wrong, or has been used already. Enter the next one that your app shows, or start again."


class WrongRecoveryCodeError(WrongCredentialsError):
    """Raised when a recovery code is not one of the account's."""

    words = "That is none of your recovery codes."


class SecondFactorError(UserPoolError):
    """Raised when an account signs in with a second factor that these pages do not ask for."""

    words = "Your account signs in with a second factor that this site does not ask for. Ask its operator."


class NoSecondFactorsError(UserPoolError):
    """Raised when the user pool has no second factors."""

    words = "Second factors are turned off for this site. Ask its operator to turn them on."


class WrongCodeError(UserPoolError):
    """Raised when a code is wrong, has expired or has been used."""

    words = "The code is wrong, or has expired. Ask for a new one; if you have used it already, sign in."


class PasswordRefusedError(UserPoolError):
    """Raised when a new password is not what the pool asks of passwords."""

    words = "Choose a longer password, of at least 12 characters with capital and small letters and digits."


class EmailRefusedError(UserPoolError):
    """Raised when what was given cannot be the e-mail address of an account."""

    words = "That is no e-mail address that an account can have."


class TooManyAttemptsError(UserPoolError):
    """Raised when the pool takes no more attempts for now."""

    words = "There were too many attempts. Wait a while, then try again."


class SignedOutError(UserPoolError):
    """Raised when a refresh token is refused: signed out, expired, or the account is disabled or deleted."""

    words = "You are signed out. Sign in again."


class EmailTakenError(UserPoolError):
    """Raised when ops create an account for an e-mail address that has one."""

    words = "There is an account for this e-mail address."
