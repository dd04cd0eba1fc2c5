"""The user pool as people use it: invitation, sign-in, second factor, forgotten passwords; by Amazon Cognito's API.

An account is created by AdminCreateUser, never by SignUp. SignUp takes a password from a person who has not shown
that the address is theirs, and that password counts once the address's owner confirms it. AdminCreateUser mails a
temporary password to the address instead, the code of the sign-up page, and the first sign-in with it sets the real
password (https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AdminCreateUser.html). This
works in every tier; the session of ConfirmSignUp signs in by USER_AUTH only, which the tier Lite does not have.

The web tier sends the password to the pool over TLS (USER_PASSWORD_AUTH). It sees the password in any case, so the
secure remote password protocol would prove nothing. Passwords and the pool's messages are never logged or shown: the
messages may disclose whether an address has an account.
"""

import re
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from services.passwords import is_good, is_typable
from services.user_errors import (
    ANSWERING_WITH_A_CODE,
    ASKING_FOR_A_CODE,
    BEGINNING_A_SECOND_FACTOR,
    CONFIRMING_A_SECOND_FACTOR,
    INVITING,
    PROVING,
    REFRESHING,
    REVOKING,
    SETTING_THE_FIRST_PASSWORD,
    SIGNING_IN,
    EmailRefusedError,
    PasswordRefusedError,
    SecondFactorError,
    SignedOutError,
    WrongCodeError,
    WrongCredentialsError,
    WrongMailedCodeError,
    WrongSecondFactorError,
    translated_errors,
)

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.literals import ChallengeNameTypeType
    from mypy_boto3_cognito_idp.type_defs import (
        AttributeTypeTypeDef,
        AuthenticationResultTypeTypeDef,
        InitiateAuthResponseTypeDef,
        RespondToAuthChallengeResponseTypeDef,
    )

MAX_EMAIL_CHARACTERS = 128
"""Characters of a user name, which the address is, in Cognito."""

MAX_SESSION_CHARACTERS = 2_048 + 2 * (MAX_EMAIL_CHARACTERS + 1)
"""Characters: what Cognito calls a session, with two names of the account before it."""

MAX_TOKEN_CHARACTERS = 16_384

_TOTP_CHALLENGE: Final = "SOFTWARE_TOKEN_MFA"
"""Cognito's name of the challenge, and of the setting of an account, for codes of an authenticator app (RFC 6238)."""

CODE_DIGITS: Final = 12
"""Digits of a mailed temporary password: too many to guess at the attempts that the pool allows in its three days."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_CODE = re.compile(r"\d{6}", re.ASCII)


@dataclass(frozen=True)
class PoolTokens:
    """What a sign-in gives; none of it is shown."""

    id_token: str = field(repr=False)
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)


@dataclass(frozen=True)
class NewPasswordRequired:
    """The first sign-in to an account that ops made: `session` is returned with a new password, within minutes."""

    session: str = field(repr=False)


@dataclass(frozen=True)
class CodeRequired:
    """The password was right: `session` is returned with a code of the second factor, within some minutes."""

    session: str = field(repr=False)


@dataclass(frozen=True)
class Account:
    """An account of the pool.

    Attributes:
        sub: its id, which is never given to another.
        enabled: whether it may sign in.
        second_factor: whether it signs in with a second factor; a list of accounts does not say.
        is_verified: whether the pool has verified the address.
    """

    sub: str
    email: str
    enabled: bool
    groups: frozenset[str]
    second_factor: bool = False
    is_verified: bool = False

    @classmethod
    def of_attributes(
        cls,
        attributes: "Sequence[AttributeTypeTypeDef]",
        enabled: bool,
        groups: Collection[str],
        second_factor: bool = False,
    ) -> "Account":
        """Return the account with these attributes in the pool."""
        found = {each["Name"]: each.get("Value", "") for each in attributes}
        is_verified = found.get("email_verified") == "true"
        return cls(found["sub"], found.get("email", ""), enabled, frozenset(groups), second_factor, is_verified)


class UserPool:
    """The pool, called on behalf of the person at the page.

    `invite`, `account`, `reset_password`, `sign_out_everywhere` and `remove_second_factor` need a role.

    Every method may raise TooManyAttemptsError, and botocore's errors when the pool cannot be asked. A weak new
    password raises PasswordRefusedError, and code or session stay good. A token or session that has expired, was
    revoked or is another account's raises WrongCredentialsError.
    """

    def __init__(self, client: "CognitoIdentityProviderClient", pool_id: str, client_id: str) -> None:
        self._client, self._pool_id, self._client_id = client, pool_id, client_id

    def invite(self, email: str) -> None:
        """Create an account if the address has none, and have the pool mail a code to the address, for `accept`.

        Can be repeated until the first sign-in: each mail brings a new code. Does nothing for an
        account that is in use. The pool gets the same two calls either way, so the time that they
        take discloses little about the account.

        Raises:
            EmailRefusedError: the address cannot be the name of an account.
        """
        name = required_email(email)
        attributes = [{"Name": "email", "Value": name}, {"Name": "email_verified", "Value": "true"}]
        with translated_errors(INVITING):
            self._client.admin_create_user(
                UserPoolId=self._pool_id,
                Username=name,
                MessageAction="SUPPRESS",
                UserAttributes=attributes,  # type: ignore[arg-type]  # of dicts that are TypedDicts
            )
        with translated_errors(INVITING):
            self._client.admin_create_user(
                UserPoolId=self._pool_id,
                Username=name,
                TemporaryPassword=_temporary_password(f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"),
                MessageAction="RESEND",
                DesiredDeliveryMediums=["EMAIL"],
            )

    def accept(self, email: str, code: str, password: str) -> PoolTokens | CodeRequired:
        """Set the first password of an account by the code of `invite`, or a temporary password, which signs in.

        Raises:
            WrongMailedCodeError: the code is wrong or has expired, or the account is in use.
        """
        with suppress(WrongCredentialsError):
            outcome = self.sign_in(email, _temporary_password(code))
            if isinstance(outcome, NewPasswordRequired):
                return self.set_first_password(email, outcome.session, password)
        raise WrongMailedCodeError

    def sign_in(self, email: str, password: str) -> PoolTokens | NewPasswordRequired | CodeRequired:
        """Sign in.

        Raises:
            WrongCredentialsError: wrong, unknown or disabled.
            PasswordResetError, SecondFactorError: as they say; the password was right.
        """
        name = normalise_email(email)
        if name is None or not is_typable(password):
            raise WrongCredentialsError
        with translated_errors(SIGNING_IN):
            reply = self._client.initiate_auth(
                ClientId=self._client_id,
                AuthFlow="USER_PASSWORD_AUTH",
                AuthParameters={"USERNAME": name, "PASSWORD": password},
            )
        if reply.get("ChallengeName") == "NEW_PASSWORD_REQUIRED":
            return NewPasswordRequired(_session_of(name, reply))
        if reply.get("ChallengeName") == _TOTP_CHALLENGE:
            return CodeRequired(_session_of(name, reply))
        return _tokens(reply.get("AuthenticationResult"))

    def set_first_password(self, email: str, session: str, password: str) -> PoolTokens | CodeRequired:
        """Answer `NewPasswordRequired`, which signs in."""
        name, username, pools_session = _challenge_parts(email, session)
        check_new_password(password, name)
        with translated_errors(SETTING_THE_FIRST_PASSWORD):
            answers = {"USERNAME": username, "NEW_PASSWORD": password}
            reply = self._answer("NEW_PASSWORD_REQUIRED", pools_session, answers)
        if reply.get("ChallengeName") == _TOTP_CHALLENGE:
            return CodeRequired(_session_of(name, reply))
        return _tokens(reply.get("AuthenticationResult"))

    def answer_code(self, email: str, session: str, code: str) -> PoolTokens:
        """Answer `CodeRequired` with a code of the authenticator app, which signs in.

        Raises:
            WrongSecondFactorError: the code is wrong or has been used; the session is still good.
        """
        (_, username, pools_session), digits = _challenge_parts(email, session), _digits(code)
        if digits is None:
            raise WrongSecondFactorError
        with translated_errors(ANSWERING_WITH_A_CODE):
            answers = {"USERNAME": username, f"{_TOTP_CHALLENGE}_CODE": digits}
            reply = self._answer(_TOTP_CHALLENGE, pools_session, answers)
        return _tokens(reply.get("AuthenticationResult"))

    def begin_second_factor(self, access_token: str) -> str:
        """Return a new secret, in Base32, for the authenticator app of an account that has no second factor.

        Never for an account that has one: Cognito would take that away
        (https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AssociateSoftwareToken.html).

        Raises:
            NoSecondFactorsError: the pool has none.
        """
        with translated_errors(BEGINNING_A_SECOND_FACTOR):
            return self._client.associate_software_token(AccessToken=access_token)["SecretCode"]

    def confirm_second_factor(self, access_token: str, code: str) -> None:
        """Have every later sign-in ask for a code of the app that the secret was given to.

        Raises:
            WrongSecondFactorError: the code is not of that secret; the secret is still good.
            WrongCredentialsError, NoSecondFactorsError: as `begin_second_factor`.
        """
        if (digits := _digits(code)) is None:
            raise WrongSecondFactorError
        with translated_errors(CONFIRMING_A_SECOND_FACTOR):
            self._client.verify_software_token(AccessToken=access_token, UserCode=digits)
            self._client.set_user_mfa_preference(
                AccessToken=access_token, SoftwareTokenMfaSettings={"Enabled": True, "PreferredMfa": True}
            )

    def change_password(self, email: str, access_token: str, password: str, new_password: str) -> None:
        """Replace the password of an account, which has just signed in.

        Raises:
            WrongCredentialsError: `password` is wrong, or the token has expired or was revoked.
        """
        check_new_password(new_password, email)
        with translated_errors(SIGNING_IN):
            self._client.change_password(
                AccessToken=access_token, PreviousPassword=password, ProposedPassword=new_password
            )

    def delete_account(self, access_token: str) -> None:
        """Delete the account of a token, which has just signed in, for good."""
        with translated_errors(SIGNING_IN):
            self._client.delete_user(AccessToken=access_token)

    def sign_out_everywhere(self, sub: str) -> None:
        """Revoke every refresh token of an account, and every access token for the pool's own calls.

        https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AdminUserGlobalSignOut.html
        """
        self._client.admin_user_global_sign_out(UserPoolId=self._pool_id, Username=sub)

    def remove_second_factor(self, sub: str) -> None:
        """Have an account sign in by its password alone; one without a second factor stays so."""
        self._client.admin_set_user_mfa_preference(
            UserPoolId=self._pool_id,
            Username=sub,
            SoftwareTokenMfaSettings={"Enabled": False, "PreferredMfa": False},
        )

    def refresh(self, refresh_token: str) -> PoolTokens:
        """Return new tokens, with the groups that the account has now.

        Raises:
            SignedOutError: signed out, expired, or the account is disabled or deleted.
        """
        if not 0 < len(refresh_token) <= MAX_TOKEN_CHARACTERS:
            raise SignedOutError
        with translated_errors(REFRESHING):
            reply = self._client.initiate_auth(
                ClientId=self._client_id,
                AuthFlow="REFRESH_TOKEN_AUTH",
                AuthParameters={"REFRESH_TOKEN": refresh_token},
            )
        return _tokens(reply.get("AuthenticationResult"), refresh_token)

    def sign_out(self, refresh_token: str) -> None:
        """Revoke a refresh token; one that is good for nothing already stays so."""
        if 0 < len(refresh_token) <= MAX_TOKEN_CHARACTERS:
            with translated_errors(REVOKING):
                self._client.revoke_token(Token=refresh_token, ClientId=self._client_id)

    def send_reset_code(self, email: str) -> None:
        """Have the pool send a code for a new password to an account's address; no error if the address has none."""
        if name := normalise_email(email):
            with translated_errors(ASKING_FOR_A_CODE):
                self._client.forgot_password(ClientId=self._client_id, Username=name)

    def reset_password(self, email: str, code: str, password: str) -> str:
        """Set a new password by the code that was sent; return the account's `sub`.

        Raises:
            WrongCodeError: wrong, expired, used, or there is no such account.
        """
        name, digits = normalise_email(email), _digits(code)
        if name is None or digits is None:
            raise WrongCodeError
        check_new_password(password, name)
        with translated_errors(PROVING):
            self._client.confirm_forgot_password(
                ClientId=self._client_id, Username=name, ConfirmationCode=digits, Password=password
            )
        user = self._client.admin_get_user(UserPoolId=self._pool_id, Username=name)
        return sub_in(user["UserAttributes"])

    def account(self, name: str) -> Account | None:
        """Return an account as it is now, None when there is none; `name` is its `sub` or its e-mail address."""
        try:
            user = self._client.admin_get_user(UserPoolId=self._pool_id, Username=name)
            pages = self._client.get_paginator("admin_list_groups_for_user").paginate(
                UserPoolId=self._pool_id, Username=name
            )
            groups = {group["GroupName"] for page in pages for group in page["Groups"]}
        except self._client.exceptions.UserNotFoundException:
            return None
        second_factor = _TOTP_CHALLENGE in user.get("UserMFASettingList", ())
        return Account.of_attributes(user["UserAttributes"], user["Enabled"], groups, second_factor)

    def _answer(
        self, challenge: "ChallengeNameTypeType", session: str, answers: dict[str, str]
    ) -> "RespondToAuthChallengeResponseTypeDef":
        return self._client.respond_to_auth_challenge(
            ClientId=self._client_id, ChallengeName=challenge, Session=session, ChallengeResponses=answers
        )


def sub_in(attributes: "Sequence[AttributeTypeTypeDef]") -> str:
    """Return the id of the account with these attributes; it is never given to another."""
    return next(each.get("Value", "") for each in attributes if each["Name"] == "sub")


def normalise_email(text: str) -> str | None:
    """Return an e-mail address as the pool has it, in small letters; None for what cannot be one."""
    name = text.strip().lower()
    plausible = len(name) <= MAX_EMAIL_CHARACTERS and name.isprintable() and _EMAIL.fullmatch(name)
    return name if plausible else None


def required_email(text: str) -> str:
    """Return an e-mail address as the pool has it.

    Raises:
        EmailRefusedError: when it cannot be one.
    """
    if (name := normalise_email(text)) is None:
        raise EmailRefusedError
    return name


def _session_of(email: str, reply: "InitiateAuthResponseTypeDef | RespondToAuthChallengeResponseTypeDef") -> str:
    """Return what an answer to the pool's challenge takes: the address, the account's name, and the pool's session.

    An answer names the account by its own name: "You must use the username and not an alias".
    https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AdminInitiateAuth.html
    """
    username = reply.get("ChallengeParameters", {}).get("USER_ID_FOR_SRP", email)
    return f"{email} {username} {reply['Session']}"


def _challenge_parts(email: str, session: str) -> tuple[str, str, str]:
    """Return the parts of `session`, which has to be of this address."""
    name, parts = normalise_email(email), session.split(" ")
    if name is None or len(session) > MAX_SESSION_CHARACTERS or len(parts) != 3 or parts[0] != name or "" in parts:
        raise WrongCredentialsError
    return name, parts[1], parts[2]


def _temporary_password(code: str) -> str:
    """Return the temporary password that a code stands for, which every policy for passwords of a pool accepts."""
    is_code = re.fullmatch(rf"(fleet)?([\s-]*\d){{{CODE_DIGITS}}}", code.strip(), re.ASCII | re.IGNORECASE)
    return "-".join(["Fleet", *re.findall("....", re.sub(r"\D", "", code))]) if is_code else code.strip()


def _digits(code: str) -> str | None:
    """Return the six digits of a code as people type it, None if it is no code."""
    digits = re.sub(r"[\s-]", "", code[:32])
    return digits if _CODE.fullmatch(digits) else None


def check_new_password(password: str, email: str) -> None:
    """Raise PasswordRefusedError for a weak password.

    It is checked before the pool is asked, so that the order of the pool's own checks cannot disclose whether an
    address has an account.
    """
    if not is_good(password, email):
        raise PasswordRefusedError


def _tokens(result: "AuthenticationResultTypeTypeDef | None", refresh_token: str = "") -> PoolTokens:  # nosec B107 # no token
    if result is None:  # another challenge
        raise SecondFactorError
    return PoolTokens(result["IdToken"], result["AccessToken"], result.get("RefreshToken", refresh_token))
