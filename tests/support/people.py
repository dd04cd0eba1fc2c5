"""Users of the web tier, without a real user pool: two pools in memory, a clock to set, and sign-in with them.

`PlayedPool` is for tests of what users may do, `MemoryPool` for tests of the pages by which they sign in.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flask import Flask, Response
from flask.testing import FlaskClient

from core.config import Config
from core.credentials import PersonalTokens, RecoveryCodes, Revocations
from core.jobs.store import JobStore
from core.tokens import TokenClaims, TokenRefusedError
from services.accounts import OPERATORS
from services.table import Table
from services.user_errors import (
    PasswordRefusedError,
    SignedOutError,
    WrongCodeError,
    WrongCredentialsError,
    WrongMailedCodeError,
    WrongSecondFactorError,
)
from services.users import Account, CodeRequired, NewPasswordRequired, PoolTokens, required_email
from tests.support.clocks import ManualClock
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from web_tier.app import create_app
from web_tier.auth.context import COOKIE, AccountCache, AuthServices
from web_tier.auth.guard import csrf_token
from web_tier.auth.session_keys import SessionKeys
from web_tier.auth.sessions import RenewedTokens, Sessions, SessionStore, SessionTimes

KEY = "a key of the sessions, long enough to be one"
RIGHT_PASSWORD = "Correct-Horse-9"
PASSWORD = "Correct-horse-7-battery"
ANOTHER = "Another-horse-8-battery"
TEMPORARY = "Temporary-horse-9"
CODE = "123456"
APP_KEY = "JBSWY3DPEHPK3PXP"
MIN_CHARACTERS = 12
MINUTE, HOUR = 60, 3_600
TIMES = SessionTimes(idle=HOUR, longest=12 * HOUR)
BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

SMALL_LIMITS = {"requests_per_minute": 3, "sign_in_attempts_per_minute": 4, "images_per_day": 3, "bytes_per_day": 0}

BROWSER = {"Sec-Fetch-Site": "same-origin"}
"""What a browser says when one of our own pages sends something."""


@dataclass
class PlayedPool:
    """The user pool: its tokens are `x.SUB.TIME`, with the time of the sign-in, and `.mfa` if that included a code.

    `away` is raised by each call; `asked` are the accounts and refresh tokens that it was asked for.
    """

    accounts: dict[str, Account] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=lambda: ManualClock(0.0, BEGIN))
    away: Exception | None = None
    asked: list[str] = field(default_factory=list)
    signed_out: list[str] = field(default_factory=list)

    def add(self, sub: str, *groups: str) -> Account:
        self.accounts[sub] = Account(sub, f"{sub}@example.org", True, frozenset(groups), is_verified=True)
        return self.accounts[sub]

    def tokens(self, sub: str) -> PoolTokens:
        now = int(self.clock.epoch_seconds())
        return PoolTokens(f"id.{sub}.{now}", f"access.{sub}.{now}", f"refresh.{sub}.{len(self.asked)}")

    def sign_in(self, email: str, password: str) -> PoolTokens:
        sub = email.strip().lower().removesuffix("@example.org")
        if sub not in self.accounts or password != RIGHT_PASSWORD:
            raise WrongCredentialsError
        return self.tokens(sub)

    def answer_code(self, email: str, session: str, code: str) -> PoolTokens:
        raise WrongSecondFactorError

    def account(self, sub: str) -> Account | None:
        self._ask(sub)
        return self.accounts.get(sub)

    def refresh(self, refresh_token: str) -> PoolTokens:
        self._ask(refresh_token)
        sub = refresh_token.split(".")[1]
        if refresh_token in self.signed_out or sub not in self.accounts or not self.accounts[sub].enabled:
            raise SignedOutError
        return self.tokens(sub)

    def sign_out_everywhere(self, sub: str) -> None:
        self._ask(sub)

    def change_password(self, email: str, access_token: str, password: str, new_password: str) -> None:
        self._ask(access_token)

    def sign_out(self, refresh_token: str) -> None:
        self._ask(refresh_token)
        self.signed_out.append(refresh_token)

    def send_reset_code(self, email: str) -> None:
        self._ask(email)

    def verify(self, text: str) -> TokenClaims:
        use, sub, signed_in = (*text.split("."), "", "")[:3]
        account = self.accounts.get(sub)
        if account is None or use not in {"id", "access"}:
            raise TokenRefusedError("not signed by the pool")
        email = account.email if use == "id" else ""
        return TokenClaims(
            account.sub,
            email,
            account.email,
            account.groups,
            cast(Any, use),
            BEGIN,
            int(signed_in or 0),
            text.endswith(".mfa"),
        )

    def renew(self, owner: str, refresh_token: str) -> RenewedTokens:
        tokens = self.refresh(refresh_token)
        return RenewedTokens(self.verify(tokens.id_token), tokens.refresh_token)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away is not None:
            raise self.away


@dataclass
class Person:
    """An account; `first` is whether its password is temporary, `app` whether it has a second factor."""

    password: str = PASSWORD
    first: bool = False
    groups: frozenset[str] = frozenset()
    app: bool = False


@dataclass
class MemoryPool:
    """A user pool in memory: every code of a mail or an app is `CODE`, every temporary password `TEMPORARY`.

    Attributes:
        people: accounts by address.
        mailed: addresses to which mails were sent, in order.
        gone: accounts that were signed out everywhere.
    """

    people: dict[str, Person] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=lambda: ManualClock(0.0, BEGIN))
    mailed: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)

    def invite(self, email: str) -> None:
        if self.people.setdefault(required_email(email), Person(TEMPORARY, first=True)).first:
            self.people[email].password = TEMPORARY
            self.mailed.append(email)

    def accept(self, email: str, code: str, password: str) -> PoolTokens:
        if self.people.get(email) != Person(code, first=True):
            raise WrongMailedCodeError
        return self.set_first_password(email, f"session of {email}", password)

    def delete_account(self, access_token: str) -> None:
        del self.people[access_token.removeprefix("access of ")]

    def send_reset_code(self, email: str) -> None:
        if email in self.people:
            self.mailed.append(email)

    def sign_in(self, email: str, password: str) -> PoolTokens | NewPasswordRequired | CodeRequired:
        person = self.people.get(email)
        if person is None or person.password != password:
            raise WrongCredentialsError
        if person.app:
            return CodeRequired(f"session of {email}")
        return NewPasswordRequired(f"session of {email}") if person.first else _tokens(email)

    def answer_code(self, email: str, session: str, code: str) -> PoolTokens:
        if session != f"session of {email}":
            raise WrongCredentialsError
        if code != CODE:
            raise WrongSecondFactorError
        return _tokens(email)

    def begin_second_factor(self, access_token: str) -> str:
        assert not self.people[access_token.removeprefix("access of ")].app
        return APP_KEY

    def confirm_second_factor(self, access_token: str, code: str) -> None:
        if code != CODE:
            raise WrongSecondFactorError
        self.people[access_token.removeprefix("access of ")].app = True

    def sign_out_everywhere(self, sub: str) -> None:
        self.gone.add(sub)

    def change_password(self, email: str, access_token: str, password: str, new_password: str) -> None:
        _check_new(new_password)
        self.people[access_token.removeprefix("access of ")].password = new_password

    def remove_second_factor(self, sub: str) -> None:
        self.people[sub.removeprefix("sub of ")].app = False

    def set_first_password(self, email: str, session: str, password: str) -> PoolTokens:
        if session != f"session of {email}":
            raise WrongCredentialsError
        _check_new(password)
        self.people[email] = Person(password)
        return _tokens(email)

    def sign_out(self, refresh_token: str) -> None:
        """Do nothing: no test asks what became of the token."""

    def reset_password(self, email: str, code: str, password: str) -> str:
        if email not in self.people or code != CODE:
            raise WrongCodeError
        _check_new(password)
        self.people[email].password = password
        return f"sub of {email}"

    def account(self, name: str) -> Account | None:
        email = name.removeprefix("sub of ")
        person = self.people.get(email)
        return Account(f"sub of {email}", email, True, person.groups, person.app) if person else None

    def verify(self, text: str) -> TokenClaims:
        """Return the claims of a token of this pool, as the verifier does."""
        email = text.removeprefix("id of ").removeprefix("access of ")
        groups, until = self.people[email].groups, self.clock.utc_now() + timedelta(hours=1)
        return TokenClaims(f"sub of {email}", email, email, groups, "id", until, int(self.clock.epoch_seconds()))

    def renew(self, owner: str, refresh_token: str) -> RenewedTokens:
        return RenewedTokens(self.verify(refresh_token.replace("refresh", "id")), refresh_token)


def _check_new(password: str) -> None:
    if len(password) < MIN_CHARACTERS:
        raise PasswordRefusedError


def _tokens(email: str) -> PoolTokens:
    return PoolTokens(f"id of {email}", f"access of {email}", f"refresh of {email}")


def sessions_of(table: Table, pool: PlayedPool | MemoryPool) -> Sessions:
    """Return the sessions as one process of the web tier has them."""
    return Sessions(
        SessionStore(table),
        SessionKeys([KEY]),
        TIMES,
        pool.renew,
        Revocations(table, pool.clock),
        pool.clock,
    )


def access_of(table: Table, pool: PlayedPool | MemoryPool) -> AuthServices:
    """Return sign-in as one process of the web tier has it."""
    revocations = Revocations(table, pool.clock)
    return AuthServices(
        pool=cast(Any, pool),
        verifier=cast(Any, pool),
        sessions=sessions_of(table, pool),
        revocations=revocations,
        personal_tokens=PersonalTokens(table, revocations, pool.clock),
        recovery_codes=RecoveryCodes(table),
        accounts=AccountCache(cast(Any, pool), pool.clock),
    )


@dataclass
class SignInSite:
    """A web tier with sign-in, and clients for its users."""

    app: Flask
    access: AuthServices
    pool: PlayedPool

    @property
    def clock(self) -> ManualClock:
        """The clock of the pool and of the web tier."""
        return self.pool.clock

    def signed_in(self, sub: str) -> FlaskClient:
        """Return the browser of a user who has signed in."""
        self.pool.accounts.get(sub) or self.pool.add(sub)
        browser = self.anonymous()
        with self.app.test_request_context("/"):
            answer = self.access.begin(self.pool.tokens(sub), Response())
        keep(browser, answer.headers["Set-Cookie"])
        return browser

    def anonymous(self) -> FlaskClient:
        """Return the browser of a user who has not signed in."""
        return self.app.test_client()

    def with_token(self, sub: str, *scopes: str, days: int = 30) -> dict[str, str]:
        """Return the header of a new personal token of a user."""
        account = self.pool.accounts.get(sub) or self.pool.add(sub)
        text, _ = self.access.personal_tokens.make(
            sub, account.email, "test", scopes, days, int(self.clock.epoch_seconds())
        )
        return {"Authorization": f"Bearer {text}"}

    def token_for_forms(self, browser: FlaskClient) -> str:
        """Return the token in the pages that a browser has of its session."""
        with self.app.test_request_context("/", headers={"Cookie": f"{COOKIE}={cookie_of(browser)}"}):
            self.app.preprocess_request()
            return csrf_token()

    def operator(self) -> FlaskClient:
        """Return an operator's browser."""
        self.pool.add("ops", OPERATORS)
        return self.signed_in("ops")


def cookie_of(browser: FlaskClient) -> str:
    """Return the session's cookie in a browser."""
    cookie = browser.get_cookie(COOKIE)
    assert cookie is not None
    return cookie.value


def keep(browser: FlaskClient, set_cookie: str) -> None:
    """Let a browser have the cookie of an answer."""
    name, _, rest = set_cookie.partition("=")
    browser.set_cookie(name, rest.partition(";")[0], secure=True, httponly=True)


SignInSiteMaker = Callable[..., SignInSite]


def sign_in(client: FlaskClient, email: str, password: str = PASSWORD, **fields: str) -> Any:
    """Send the sign-in form."""
    return client.post("/sign-in", data={"email": email, "password": password, **fields}, headers=BROWSER)


def signed_in(app: Flask, email: str) -> FlaskClient:
    """Return a browser with a session of this account."""
    client = app.test_client()
    assert sign_in(client, email).status_code == 303
    return client


def sign_in_site(config: Config, store: JobStore) -> SignInSite:
    """Return a web tier with sign-in, and with a bucket and a queue in memory."""
    pool = PlayedPool()
    access = access_of(store.table, pool)
    bucket, queue = MemoryBucket(), MemoryQueue()
    app = create_app(config, store=store, input_bucket=bucket, request_queue=queue, auth=access, inspect=inspect)
    return SignInSite(app, access, pool)
