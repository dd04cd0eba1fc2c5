"""The user pool over the wire: what people do there, how they are refused, and that no user learns of another."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from core.ids import new_id
from core.provision import provision_user_pool
from core.tokens import TokenVerifier, issuer_of, jwks_url, keys_at
from localcloud.clients import mails
from localcloud.launch import LocalCloud
from services.accounts import Accounts
from services.clients import Clients
from services.clock import CLOCK
from services.endpoint import Endpoint
from services.errors import NotFoundError
from services.user_errors import (
    EmailTakenError,
    NoSecondFactorsError,
    PasswordRefusedError,
    SignedOutError,
    TooManyAttemptsError,
    WrongCodeError,
    WrongCredentialsError,
    WrongSecondFactorError,
)
from services.users import CodeRequired, NewPasswordRequired, PoolTokens, UserPool
from tests.support.operator_account import App

pytestmark = pytest.mark.processes

PASSWORD, OTHER_PASSWORD = "Correct-Horse-9", "Battery-Staple-8"
REGION = "us-east-1"
_numbers = count()


@dataclass
class Stage:
    """A user pool, and everybody who has to do with it."""

    cloud: LocalCloud
    clients: Clients
    pool_id: str
    client_id: str

    @property
    def pool(self) -> UserPool:
        return UserPool(self.clients.cognito_idp, self.pool_id, self.client_id)

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.clients.cognito_idp, self.pool_id)

    @property
    def verifier(self) -> TokenVerifier:
        fetch = keys_at(jwks_url(self.cloud.endpoint_url, REGION, self.pool_id))
        return TokenVerifier(issuer_of(REGION, self.pool_id), self.client_id, fetch, CLOCK)

    def mailed(self, email: str) -> list[str]:
        """Return the temporary passwords and codes that were mailed to an address, oldest first."""
        return [mail.content for mail in mails(self.cloud.endpoint_url) if mail.to == email]

    def signed_up(self) -> str:
        """Return the address of a new account with the password `PASSWORD`."""
        email = new_email()
        self.pool.invite(email)
        self.set_first_password(email, self.mailed(email)[-1])
        return email

    def set_first_password(self, email: str, temporary: str, password: str = PASSWORD) -> PoolTokens:
        wanted = self.pool.sign_in(email, temporary)
        assert isinstance(wanted, NewPasswordRequired)
        tokens = self.pool.set_first_password(email, wanted.session, password)
        assert isinstance(tokens, PoolTokens)
        return tokens

    def with_app(self) -> tuple[str, App]:
        """Return the address of a new account with a second factor, and the app."""
        email = self.signed_up()
        tokens = self.sign_in(email)
        app = App(self.pool.begin_second_factor(tokens.access_token))
        self.pool.confirm_second_factor(tokens.access_token, app.code())
        return email, app

    def asked_for_a_code(self, email: str) -> CodeRequired:
        wanted = self.pool.sign_in(email, PASSWORD)
        assert isinstance(wanted, CodeRequired)
        return wanted

    def sign_in(self, email: str, password: str = PASSWORD) -> PoolTokens:
        tokens = self.pool.sign_in(email, password)
        assert isinstance(tokens, PoolTokens)
        return tokens


@pytest.fixture(scope="module")
def clients(cloud: LocalCloud) -> Clients:
    """Clients that try nothing again, so that a refusal is there at once."""
    return Clients(Endpoint(REGION, cloud.endpoint_url, max_attempts=1, pool_size=8))


@pytest.fixture(scope="module")
def stage(cloud: LocalCloud, clients: Clients) -> Stage:
    return Stage(cloud, clients, *provision_user_pool(clients, new_id()))


def new_email() -> str:
    """Return an address that no other test has."""
    return f"person{next(_numbers)}@example.org"


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06d}"


def test_a_person_signs_in_with_the_mailed_password_and_sets_their_own(stage: Stage) -> None:
    email = new_email()
    stage.pool.invite(email)
    (temporary,) = stage.mailed(email)
    stage.set_first_password(email, temporary)
    with pytest.raises(WrongCredentialsError):
        stage.pool.sign_in(email, temporary)
    tokens = stage.sign_in(email)
    claims, access = (stage.verifier.verify(text) for text in (tokens.id_token, tokens.access_token))
    assert (claims.email, claims.groups, claims.use) == (email, frozenset(), "id")
    assert (access.sub, access.username, access.use) == (claims.sub, claims.username, "access")
    assert not claims.second_factor
    account = stage.pool.account(claims.sub)
    assert account is not None
    assert (account.sub, account.email, account.enabled, account.groups) == (claims.sub, email, True, frozenset())


@pytest.mark.parametrize("typed", [str, str.lower, lambda code: code.removeprefix("Fleet-").replace("-", " ")])
def test_a_person_signs_in_with_the_mailed_code_and_the_password_they_have_chosen(
    stage: Stage, typed: Callable[[str], str]
) -> None:
    email = new_email()
    stage.pool.invite(email)
    (code,) = stage.mailed(email)
    for wrong_code in ("", "123456", "0000-0000-0000", code[:-1]):
        with pytest.raises(WrongCredentialsError):
            stage.pool.accept(email, wrong_code, PASSWORD)
    assert stage.pool.accept(email, typed(code), PASSWORD)
    for used in (code, PASSWORD):  # nor is the password of an account in use a code
        with pytest.raises(WrongCredentialsError):
            stage.pool.accept(email, used, OTHER_PASSWORD)
    assert stage.sign_in(email)


def test_an_account_deletes_itself_and_no_other(stage: Stage) -> None:
    email, neighbour = stage.signed_up(), stage.signed_up()
    stage.pool.delete_account(stage.sign_in(email).access_token)
    assert stage.pool.account(email) is None
    assert stage.sign_in(neighbour)
    with pytest.raises(WrongCredentialsError):
        stage.pool.delete_account("made-up")


def test_an_address_is_the_same_in_capitals_and_with_blanks_around_it(stage: Stage) -> None:
    email = stage.signed_up()
    assert stage.sign_in(f"  {email.upper()} ")
    stage.pool.invite(email.title())
    assert len(stage.mailed(email)) == 1, "the account is the same one, and is in use"


def test_wrong_passwords_and_unknown_or_disabled_accounts_have_the_same_message(stage: Stage) -> None:
    email, disabled = stage.signed_up(), stage.signed_up()
    stage.accounts.set_enabled(disabled, is_enabled=False)
    messages = set()
    for name, password in [
        (email, OTHER_PASSWORD),
        (email, "\ud800"),  # half of a pair of characters
        (new_email(), PASSWORD),
        (disabled, PASSWORD),
        (disabled, OTHER_PASSWORD),
        ("nobody", PASSWORD),
        (email, ""),
        (email, "x" * 10_000),
        ("x" * 10_000 + "@example.org", PASSWORD),
    ]:
        with pytest.raises(WrongCredentialsError) as raised:
            stage.pool.sign_in(name, password)
        messages.add(str(raised.value))
    assert len(messages) == 1


def test_s4_a_password_counts_only_for_the_person_who_reads_the_mail(stage: Stage) -> None:
    """An attacker who knows the client's id signs up with the victim's address first, in every way there is."""
    victim, cognito = new_email(), stage.clients.cognito_idp
    asked: dict[str, Any] = {"ClientId": stage.client_id, "Username": victim}
    with pytest.raises(cognito.exceptions.NotAuthorizedException, match="SignUp is not permitted"):
        cognito.sign_up(Password=OTHER_PASSWORD, **asked)
    stage.pool.invite(victim)  # by the attacker, at the page
    with pytest.raises(cognito.exceptions.NotAuthorizedException):
        cognito.confirm_sign_up(ConfirmationCode="123456", **asked)
    with pytest.raises(WrongCredentialsError):
        stage.pool.sign_in(victim, OTHER_PASSWORD)
    stage.pool.invite(victim)  # by the victim
    stage.set_first_password(victim, stage.mailed(victim)[-1])
    assert stage.sign_in(victim)
    with pytest.raises(WrongCredentialsError):
        stage.pool.sign_in(victim, OTHER_PASSWORD)


def test_an_account_takes_no_other_address_by_itself(stage: Stage) -> None:
    email, cognito = stage.signed_up(), stage.clients.cognito_idp
    asked: dict[str, Any] = {"UserAttributes": [{"Name": "email", "Value": new_email()}]}
    with pytest.raises(cognito.exceptions.NotAuthorizedException):
        cognito.update_user_attributes(AccessToken=stage.sign_in(email).access_token, **asked)


def test_each_invitation_brings_another_password_until_the_first_sign_in(stage: Stage) -> None:
    email = new_email()
    stage.pool.invite(email)
    stage.pool.invite(email)
    first, second = stage.mailed(email)
    with pytest.raises(WrongCredentialsError):
        stage.pool.sign_in(email, first)
    stage.set_first_password(email, second)
    stage.pool.invite(email)
    assert stage.mailed(email) == [first, second]
    assert stage.sign_in(email)


def test_an_account_that_ops_made_can_be_invited_and_a_disabled_one_stays_out(stage: Stage) -> None:
    email = new_email()
    stage.accounts.add(email)
    stage.accounts.set_enabled(email, is_enabled=False)
    stage.pool.invite(email)
    (temporary,) = stage.mailed(email)
    with pytest.raises(WrongCredentialsError):
        stage.pool.sign_in(email, temporary)
    stage.accounts.set_enabled(email, is_enabled=True)
    assert stage.set_first_password(email, temporary)


def test_guessing_for_an_anonymous_user_is_answered_as_guessing_for_an_account(stage: Stage) -> None:
    for name in (stage.signed_up(), new_email()):
        stage.pool.send_reset_code(name)
        guess = wrong(stage.mailed(name)[-1]) if stage.mailed(name) else "123456"
        for _ in range(5):
            with pytest.raises(WrongCodeError):
                stage.pool.reset_password(name, guess, OTHER_PASSWORD)
        with pytest.raises(TooManyAttemptsError):
            stage.pool.reset_password(name, guess, OTHER_PASSWORD)


def test_asking_for_codes_says_nothing_of_accounts_and_mails_no_other_user(stage: Stage) -> None:
    known, anonymous, invited, of_ops = stage.signed_up(), new_email(), new_email(), new_email()
    stage.pool.invite(invited)
    stage.accounts.add(of_ops)
    for email in (known, anonymous, invited, of_ops):
        for _ in range(7):  # more than are sent
            stage.pool.send_reset_code(email)
    sent = {email: len(stage.mailed(email)) for email in (known, anonymous, invited, of_ops)}
    assert sent == {known: 1 + 5, anonymous: 0, invited: 1, of_ops: 0}


def test_a_forgotten_password_is_replaced_by_a_code(stage: Stage) -> None:
    email = stage.signed_up()
    before = stage.sign_in(email)
    stage.pool.send_reset_code(email)
    code = stage.mailed(email)[-1]
    with pytest.raises(PasswordRefusedError):
        stage.pool.reset_password(email, code, "weak")
    assert stage.pool.reset_password(email, code, OTHER_PASSWORD) == stage.verifier.verify(before.id_token).sub
    with pytest.raises(WrongCredentialsError):
        stage.pool.sign_in(email, PASSWORD)
    assert stage.sign_in(email, OTHER_PASSWORD)
    with pytest.raises(WrongCodeError):
        stage.pool.reset_password(email, code, PASSWORD)


def test_a_code_is_for_one_purpose_and_one_account(stage: Stage) -> None:
    email, other, invited = stage.signed_up(), stage.signed_up(), new_email()
    stage.pool.send_reset_code(email)
    stage.pool.send_reset_code(other)
    stage.pool.invite(invited)
    if stage.mailed(email)[-1] != stage.mailed(other)[-1]:
        with pytest.raises(WrongCodeError):
            stage.pool.reset_password(other, stage.mailed(email)[-1], OTHER_PASSWORD)
    for name, secret in ((email, stage.mailed(email)[-1]), (other, stage.mailed(invited)[-1])):
        with pytest.raises(WrongCredentialsError):
            stage.pool.sign_in(name, secret)


def test_refreshing_returns_the_groups_as_they_are_now(stage: Stage) -> None:
    email = stage.signed_up()
    tokens = stage.sign_in(email)
    stage.accounts.set_operator(email, is_operator=True)
    fresh = stage.pool.refresh(tokens.refresh_token)
    assert fresh.refresh_token == tokens.refresh_token
    assert stage.verifier.verify(fresh.id_token).groups == {"operators"}
    assert stage.verifier.verify(fresh.access_token).groups == {"operators"}
    assert stage.verifier.verify(fresh.id_token).email == email
    stage.accounts.set_operator(email, is_operator=False)
    assert stage.verifier.verify(stage.pool.refresh(tokens.refresh_token).id_token).groups == frozenset()


def disabled(stage: Stage, email: str) -> None:
    stage.accounts.set_enabled(email, is_enabled=False)


def removed(stage: Stage, email: str) -> None:
    stage.accounts.remove(email)


def signed_out_everywhere(stage: Stage, email: str) -> None:
    stage.clients.cognito_idp.admin_user_global_sign_out(UserPoolId=stage.pool_id, Username=email)


@pytest.mark.parametrize("end", [disabled, removed, signed_out_everywhere])
def test_who_is_put_out_is_refreshed_no_more(stage: Stage, end: Callable[[Stage, str], None]) -> None:
    email, neighbour = stage.signed_up(), stage.signed_up()
    tokens, others = stage.sign_in(email), stage.sign_in(neighbour)
    end(stage, email)
    with pytest.raises(SignedOutError):
        stage.pool.refresh(tokens.refresh_token)
    assert stage.pool.refresh(others.refresh_token)


def test_signing_out_ends_one_sign_in_and_may_be_done_twice(stage: Stage) -> None:
    email = stage.signed_up()
    here, there = stage.sign_in(email), stage.sign_in(email)
    for _ in range(2):
        stage.pool.sign_out(here.refresh_token)
    stage.pool.sign_out("made-up")
    with pytest.raises(SignedOutError):
        stage.pool.refresh(here.refresh_token)
    with pytest.raises(WrongCredentialsError):
        stage.pool.change_password(email, here.access_token, PASSWORD, OTHER_PASSWORD)
    assert stage.pool.refresh(there.refresh_token)
    stage.pool.change_password(email, there.access_token, PASSWORD, OTHER_PASSWORD)


def test_the_session_of_one_account_sets_no_other_accounts_password(stage: Stage) -> None:
    email, victim, of_ops = new_email(), stage.signed_up(), new_email()
    wanted = stage.pool.sign_in(email, stage.accounts.add(email))
    assert isinstance(wanted, NewPasswordRequired)
    stage.accounts.add(of_ops)
    for name in (victim, of_ops, new_email(), "nobody"):
        with pytest.raises(WrongCredentialsError):
            stage.pool.set_first_password(name, wanted.session, OTHER_PASSWORD)
    for session in ("", "made-up", "x" * 10_000):
        with pytest.raises(WrongCredentialsError):
            stage.pool.set_first_password(email, session, OTHER_PASSWORD)
    assert stage.sign_in(victim)


def test_an_address_has_one_account_until_it_is_removed(stage: Stage) -> None:
    accounts, email = stage.accounts, new_email()
    accounts.add(email.upper())
    with pytest.raises(EmailTakenError, match=email):
        accounts.add(email)
    sub = next(account.sub for account in accounts.list() if account.email == email)
    assert stage.pool.account(sub) in list(accounts.list())
    accounts.remove(email)
    assert stage.pool.account(sub) is None


def test_making_a_pool_again_finds_the_one_there_is(stage: Stage, clients: Clients) -> None:
    name = new_id()
    made = provision_user_pool(clients, name)
    assert provision_user_pool(clients, name) == made
    assert provision_user_pool(clients, new_id())[0] != made[0]
    pool = clients.cognito_idp.describe_user_pool(UserPoolId=made[0])["UserPool"]
    assert pool["Policies"]["PasswordPolicy"]["MinimumLength"] == 12


def test_an_account_with_an_app_signs_in_with_a_code_that_is_good_once(stage: Stage) -> None:
    email, app = stage.with_app()
    wanted, code = stage.asked_for_a_code(email), app.code()
    for refused in (wrong(code), "", "12345", "abcdef"):
        with pytest.raises(WrongSecondFactorError):
            stage.pool.answer_code(email, wanted.session, refused)
    tokens = stage.pool.answer_code(email, wanted.session, f" {code[:3]} {code[3:]} ")
    account = stage.pool.account(stage.verifier.verify(tokens.id_token).sub)
    assert account is not None
    assert account.second_factor
    for each in (tokens, stage.pool.refresh(tokens.refresh_token)):
        assert stage.verifier.verify(each.id_token).second_factor
        assert stage.verifier.verify(each.access_token).second_factor
    with pytest.raises(WrongSecondFactorError):
        stage.pool.answer_code(email, stage.asked_for_a_code(email).session, code)
    with pytest.raises(WrongCredentialsError):
        stage.pool.answer_code(email, wanted.session, code)
    assert code not in repr(wanted)
    assert wanted.session not in repr(wanted)


def test_a_session_for_a_code_is_one_accounts_and_for_nothing_else(stage: Stage) -> None:
    (ada, _), (bob, app) = stage.with_app(), stage.with_app()
    session = stage.asked_for_a_code(ada).session
    with pytest.raises(WrongCredentialsError):
        stage.pool.answer_code(bob, session, app.code())
    with pytest.raises(WrongCredentialsError):
        stage.pool.set_first_password(ada, session, OTHER_PASSWORD)


def test_signing_out_everywhere_ends_what_a_password_alone_has_opened(stage: Stage) -> None:
    email = stage.signed_up()
    tokens = stage.sign_in(email)
    account = stage.pool.account(email)
    assert account is not None
    stage.pool.sign_out_everywhere(account.sub)
    with pytest.raises(SignedOutError):
        stage.pool.refresh(tokens.refresh_token)
    with pytest.raises(WrongCredentialsError):
        stage.pool.begin_second_factor(tokens.access_token)


def test_a_second_factor_is_turned_off_by_a_role(stage: Stage) -> None:
    email, _ = stage.with_app()
    account = stage.pool.account(email)
    assert account is not None
    stage.pool.remove_second_factor(account.sub)
    stage.pool.remove_second_factor(account.sub)
    assert stage.sign_in(email)


def test_ops_turn_a_second_factor_off_and_sign_the_account_out(stage: Stage) -> None:
    email, app = stage.with_app()
    tokens = stage.pool.answer_code(email, stage.asked_for_a_code(email).session, app.code())
    stage.accounts.turn_off_second_factor(email)
    assert stage.sign_in(email)
    with pytest.raises(SignedOutError):
        stage.pool.refresh(tokens.refresh_token)
    with pytest.raises(NotFoundError):
        stage.accounts.turn_off_second_factor(new_email())


def test_a_pool_without_second_factors_says_so(stage: Stage, clients: Clients) -> None:
    pool_id, client_id = provision_user_pool(clients, new_id())
    clients.cognito_idp.set_user_pool_mfa_config(
        UserPoolId=pool_id, SoftwareTokenMfaConfiguration={"Enabled": False}, MfaConfiguration="OFF"
    )
    without = Stage(stage.cloud, clients, pool_id, client_id)
    tokens = without.sign_in(without.signed_up())
    with pytest.raises(NoSecondFactorsError):
        without.pool.begin_second_factor(tokens.access_token)
    with pytest.raises(WrongCredentialsError):
        without.pool.begin_second_factor("made-up")
