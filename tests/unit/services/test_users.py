"""What the pool answers becomes a message for the user, or stays an error for the operator."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from services.clients import Clients
from services.endpoint import Endpoint
from services.user_errors import (
    EmailRefusedError,
    NoSecondFactorsError,
    PasswordRefusedError,
    PasswordResetError,
    SecondFactorError,
    SignedOutError,
    TooManyAttemptsError,
    UserPoolError,
    WrongCodeError,
    WrongCredentialsError,
    WrongSecondFactorError,
)
from services.users import (
    MAX_EMAIL_CHARACTERS,
    CodeRequired,
    NewPasswordRequired,
    PoolTokens,
    UserPool,
    normalise_email,
    required_email,
)

EMAIL, PASSWORD = "ann@example.org", "Correct-Horse-9"
POOL_WORDS = "User ann@example.org is CONFIRMED in this very pool"
RESULT = {"IdToken": "i", "AccessToken": "a", "RefreshToken": "r"}

_clients = Clients(Endpoint("us-east-1", None, max_attempts=1))


@pytest.fixture
def cognito(_no_real_aws: None) -> Iterator[Stubber]:
    with Stubber(_clients.cognito_idp) as stubber:
        yield stubber


@pytest.fixture
def pool(cognito: Stubber) -> UserPool:
    return UserPool(_clients.cognito_idp, "us-east-1_a", "client")


SESSION = f"{EMAIL} 0a-1b session"

Call = Callable[[UserPool], Any]

CALLS: dict[str, tuple[str, Call]] = {
    "invite": ("admin_create_user", lambda pool: pool.invite(EMAIL)),
    "sign_in": ("initiate_auth", lambda pool: pool.sign_in(EMAIL, PASSWORD)),
    "first": ("respond_to_auth_challenge", lambda pool: pool.set_first_password(EMAIL, SESSION, PASSWORD)),
    "code": ("respond_to_auth_challenge", lambda pool: pool.answer_code(EMAIL, SESSION, "123456")),
    "begin": ("associate_software_token", lambda pool: pool.begin_second_factor("token")),
    "confirm": ("verify_software_token", lambda pool: pool.confirm_second_factor("token", "123456")),
    "refresh": ("initiate_auth", lambda pool: pool.refresh("token")),
    "sign_out": ("revoke_token", lambda pool: pool.sign_out("token")),
    "forget": ("forgot_password", lambda pool: pool.send_reset_code(EMAIL)),
    "reset": ("confirm_forgot_password", lambda pool: pool.reset_password(EMAIL, "123456", PASSWORD)),
}


@pytest.mark.parametrize(
    ("call", "code", "refusal"),
    [
        ("invite", "InvalidParameterException", EmailRefusedError),
        ("invite", "TooManyRequestsException", TooManyAttemptsError),
        ("sign_in", "NotAuthorizedException", WrongCredentialsError),
        ("sign_in", "UserNotFoundException", WrongCredentialsError),
        ("sign_in", "UserNotConfirmedException", WrongCredentialsError),
        ("sign_in", "PasswordResetRequiredException", PasswordResetError),
        ("first", "InvalidPasswordException", PasswordRefusedError),
        ("first", "NotAuthorizedException", WrongCredentialsError),
        ("first", "CodeMismatchException", WrongCredentialsError),
        ("code", "CodeMismatchException", WrongSecondFactorError),
        ("code", "ExpiredCodeException", WrongSecondFactorError),
        ("code", "NotAuthorizedException", WrongCredentialsError),
        ("code", "SoftwareTokenMFANotFoundException", WrongCredentialsError),
        ("code", "TooManyFailedAttemptsException", TooManyAttemptsError),
        ("begin", "SoftwareTokenMFANotFoundException", NoSecondFactorsError),
        ("begin", "NotAuthorizedException", WrongCredentialsError),
        ("confirm", "EnableSoftwareTokenMFAException", WrongSecondFactorError),
        ("confirm", "CodeMismatchException", WrongSecondFactorError),
        ("confirm", "NotAuthorizedException", WrongCredentialsError),
        ("refresh", "NotAuthorizedException", SignedOutError),
        ("refresh", "UserNotFoundException", SignedOutError),
        ("refresh", "RefreshTokenReuseException", SignedOutError),
        ("reset", "CodeMismatchException", WrongCodeError),
        ("reset", "ExpiredCodeException", WrongCodeError),
        ("reset", "UserNotFoundException", WrongCodeError),
        ("reset", "InvalidPasswordException", PasswordRefusedError),
        ("sign_in", "TooManyRequestsException", TooManyAttemptsError),
        ("forget", "TooManyRequestsException", TooManyAttemptsError),
        ("reset", "LimitExceededException", TooManyAttemptsError),
        ("reset", "TooManyFailedAttemptsException", TooManyAttemptsError),
    ],
)
def test_a_refusal_has_words_for_the_user_and_never_in_the_pools(
    cognito: Stubber, pool: UserPool, call: str, code: str, refusal: type[UserPoolError]
) -> None:
    operation, ask = CALLS[call]
    cognito.add_client_error(operation, code, POOL_WORDS)
    with pytest.raises(refusal) as raised:
        ask(pool)
    assert type(raised.value) is refusal
    assert str(raised.value) == refusal.default_message
    assert raised.value.__suppress_context__, "the pool's words are in no log either"


@pytest.mark.parametrize(
    "code",
    [
        "UserNotFoundException",
        "InvalidParameterException",
        "NotAuthorizedException",
        "LimitExceededException",
        "CodeDeliveryFailureException",
    ],
)
def test_a_request_for_a_code_does_not_reveal_why_none_is_sent(cognito: Stubber, pool: UserPool, code: str) -> None:
    cognito.add_client_error("forgot_password", code, POOL_WORDS)
    pool.send_reset_code(EMAIL)
    cognito.assert_no_pending_responses()


def test_s8_the_pool_gets_the_same_calls_for_a_new_and_a_known_address(cognito: Stubber, pool: UserPool) -> None:
    created = {"User": {"Username": "sub", "Attributes": []}}
    cognito.add_response("admin_create_user", created)
    cognito.add_response("admin_create_user", created)
    pool.invite(EMAIL)
    cognito.assert_no_pending_responses()
    cognito.add_client_error("admin_create_user", "UsernameExistsException", POOL_WORDS)
    cognito.add_client_error("admin_create_user", "UnsupportedUserStateException", POOL_WORDS)
    pool.invite(EMAIL)
    cognito.assert_no_pending_responses()


@pytest.mark.parametrize("password", ["Short-1", "Password1234", " Blank-Before-1", ""])
def test_s8_a_weak_password_is_refused_before_the_pool_is_asked(
    cognito: Stubber, pool: UserPool, password: str
) -> None:
    """The stubber has no answer: a call would be an error. The order of the pool's checks would be an oracle."""
    with pytest.raises(PasswordRefusedError):
        pool.reset_password(EMAIL, "123456", password)
    with pytest.raises(PasswordRefusedError):
        pool.set_first_password(EMAIL, SESSION, password)


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException", "InternalErrorException"])
def test_what_is_no_refusal_stays_an_error_for_the_operator(
    cognito: Stubber, pool: UserPool, call: str, code: str
) -> None:
    operation, ask = CALLS[call]
    cognito.add_client_error(operation, code)
    with pytest.raises(ClientError, match=code):
        ask(pool)


def test_signing_out_by_a_token_that_is_no_longer_good_is_no_error(cognito: Stubber, pool: UserPool) -> None:
    cognito.add_client_error("revoke_token", "NotAuthorizedException")
    pool.sign_out("token")
    pool.sign_out("")
    cognito.assert_no_pending_responses()


def test_a_pool_that_rotates_refresh_tokens_is_followed(cognito: Stubber, pool: UserPool) -> None:
    cognito.add_response("initiate_auth", {"AuthenticationResult": {**RESULT, "RefreshToken": "next"}})
    assert pool.refresh("before").refresh_token == "next"


def test_an_account_with_a_second_factor_of_another_kind_is_refused_with_the_reason(
    cognito: Stubber, pool: UserPool
) -> None:
    cognito.add_response("initiate_auth", {"ChallengeName": "SMS_MFA", "Session": "s" * 20})
    with pytest.raises(SecondFactorError):
        pool.sign_in(EMAIL, PASSWORD)


def test_a_challenge_is_answered_by_the_accounts_own_name_and_not_by_its_address(
    cognito: Stubber, pool: UserPool
) -> None:
    parameters = {"USER_ID_FOR_SRP": "0a-1b", "requiredAttributes": "[]"}
    first = {"ChallengeName": "NEW_PASSWORD_REQUIRED", "Session": "s" * 20, "ChallengeParameters": parameters}
    second = {"ChallengeName": "SOFTWARE_TOKEN_MFA", "Session": "t" * 20, "ChallengeParameters": parameters}
    cognito.add_response("initiate_auth", first)
    for name, session, answer, reply in (
        ("NEW_PASSWORD_REQUIRED", "s" * 20, {"NEW_PASSWORD": PASSWORD}, second),
        ("SOFTWARE_TOKEN_MFA", "t" * 20, {"SOFTWARE_TOKEN_MFA_CODE": "123456"}, {"AuthenticationResult": RESULT}),
    ):
        answers = {"USERNAME": "0a-1b", **answer}
        asked = {"ClientId": "client", "ChallengeName": name, "Session": session, "ChallengeResponses": answers}
        cognito.add_response("respond_to_auth_challenge", reply, asked)
    wanted = pool.sign_in(EMAIL, "temporary")
    assert isinstance(wanted, NewPasswordRequired)
    code = pool.set_first_password(EMAIL, wanted.session, PASSWORD)
    assert isinstance(code, CodeRequired)
    assert pool.answer_code(EMAIL, code.session, "123456")


def test_what_cannot_be_right_is_refused_without_asking_the_pool(cognito: Stubber, pool: UserPool) -> None:
    """The stubber has no answer: asking would be an error."""
    for password in ("", " ", "x" * 257, " leading", "trailing\n"):
        with pytest.raises(WrongCredentialsError):
            pool.sign_in(EMAIL, password)
        with pytest.raises(PasswordRefusedError):
            pool.reset_password(EMAIL, "123456", password)
    for email in ("", "nobody", "ann@", "@example.org", "a b@example.org", "a@b@example.org", "a\n@b.c"):
        with pytest.raises(WrongCredentialsError):
            pool.sign_in(email, PASSWORD)
        with pytest.raises(EmailRefusedError):
            pool.invite(email)
        with pytest.raises(WrongCodeError):
            pool.reset_password(email, "123456", PASSWORD)
        pool.send_reset_code(email)
    for code in ("", "12345", "1234567", "abcdef", "\u0661" * 6, "1" * 10_000):
        with pytest.raises(WrongCodeError):
            pool.reset_password(EMAIL, code, PASSWORD)
    for token in ("", "x" * 20_000):
        with pytest.raises(SignedOutError):
            pool.refresh(token)


def test_tokens_and_sessions_are_not_shown() -> None:
    shown = f"{PoolTokens('secret', 'secret', 'secret')!r}{NewPasswordRequired('secret')!r}{CodeRequired('secret')!r}"
    assert "secret" not in shown


@given(st.text(max_size=200))
def test_an_address_is_one_line_in_small_letters_that_is_never_too_long(text: str) -> None:
    if (name := normalise_email(text)) is None:
        with pytest.raises(EmailRefusedError):
            required_email(text)
        return
    assert name == name.strip().lower()
    assert name.isprintable()
    assert len(name) <= MAX_EMAIL_CHARACTERS
    assert normalise_email(name) == name
