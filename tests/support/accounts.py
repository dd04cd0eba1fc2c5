"""A user pool in memory, and sign-in with it."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from botocore.exceptions import EndpointConnectionError
from flask import Flask
from flask.testing import FlaskClient

from core.credentials import PersonalTokens, RecoveryCodes
from core.tokens import TokenClaims, TokenVerifier
from services.table import Table
from services.user_errors import (
    PasswordRefusedError,
    TooManyAttemptsError,
    WrongCodeError,
    WrongCredentialsError,
    WrongSecondFactorError,
)
from services.users import Account, CodeRequired, NewPasswordRequired, PoolTokens, UserPool, required_email
from web_tier.auth.context import AccountCache, AuthContext, AuthServices
from web_tier.auth.session_keys import SessionKeys
from web_tier.auth.sessions import RenewedTokens, Sessions, SessionStore, SessionTimes

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}
PASSWORD = "Correct-horse-7-battery"
ANOTHER = "Another-horse-8-battery"
TEMPORARY = "Temporary-horse-9"
CODE = "123456"
KEY = "JBSWY3DPEHPK3PXP"
SESSION_KEY = "a key of sessions, for tests and nothing else"
MIN_CHARACTERS = 12


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
        refuses_all: whether every attempt fails, as after too many of them.
        refuses_to_remove: whether the removal of a second factor fails, as in an outage of the pool.
    """

    people: dict[str, Person] = field(default_factory=dict)
    mailed: list[str] = field(default_factory=list)
    signed_out: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    refuses_all: bool = False
    refuses_to_remove: bool = False

    def invite(self, email: str) -> None:
        self._attempt()
        if self.people.setdefault(required_email(email), Person(TEMPORARY, first=True)).first:
            self.people[email].password = TEMPORARY
            self.mailed.append(email)

    def send_reset_code(self, email: str) -> None:
        self._attempt()
        if email in self.people:
            self.mailed.append(email)

    def sign_in(self, email: str, password: str) -> PoolTokens | NewPasswordRequired | CodeRequired:
        self._attempt()
        person = self.people.get(email)
        if person is None or person.password != password:
            raise WrongCredentialsError
        if person.app:
            return CodeRequired(f"session of {email}")
        return NewPasswordRequired(f"session of {email}") if person.first else _tokens(email)

    def answer_code(self, email: str, session: str, code: str) -> PoolTokens:
        self._attempt()
        if session != f"session of {email}":
            raise WrongCredentialsError
        if code != CODE:
            raise WrongSecondFactorError
        return _tokens(email)

    def begin_second_factor(self, access_token: str) -> str:
        assert not self.people[access_token.removeprefix("access of ")].app
        return KEY

    def confirm_second_factor(self, access_token: str, code: str) -> None:
        if code != CODE:
            raise WrongSecondFactorError
        self.people[access_token.removeprefix("access of ")].app = True

    def sign_out_everywhere(self, sub: str) -> None:
        self.gone.add(sub)

    def remove_second_factor(self, sub: str) -> None:
        if self.refuses_to_remove:
            raise EndpointConnectionError(endpoint_url="http://inside")
        self.people[sub.removeprefix("sub of ")].app = False

    def set_first_password(self, email: str, session: str, password: str) -> PoolTokens:
        if session != f"session of {email}":
            raise WrongCredentialsError
        _check_new(password)
        self.people[email] = Person(password)
        return _tokens(email)

    def sign_out(self, refresh_token: str) -> None:
        self.signed_out.append(refresh_token)

    def reset_password(self, email: str, code: str, password: str) -> str:
        self._check_code(email, code)
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
        until = datetime.now(UTC) + timedelta(hours=1)
        return TokenClaims(f"sub of {email}", email, email, self.people[email].groups, "id", until)

    def _check_code(self, email: str, code: str) -> None:
        self._attempt()
        if email not in self.people or code != CODE:
            raise WrongCodeError

    def _attempt(self) -> None:
        if self.refuses_all:
            raise TooManyAttemptsError


def _check_new(password: str) -> None:
    if len(password) < MIN_CHARACTERS:
        raise PasswordRefusedError


def _tokens(email: str) -> PoolTokens:
    return PoolTokens(f"id of {email}", f"access of {email}", f"refresh of {email}")


def access_by(pool: MemoryPool, table: Table) -> AuthContext:
    """Return a sign-in with `pool`; sessions and tokens are in `table`."""

    def renew(refresh_token: str) -> RenewedTokens:
        return RenewedTokens(pool.verify(refresh_token.replace("refresh", "id")), refresh_token)

    parts = AuthServices(
        pool=cast(UserPool, pool),
        verifier=cast(TokenVerifier, pool),
        sessions=Sessions(
            SessionStore(table), SessionKeys([SESSION_KEY]), SessionTimes(3_600, 43_200), renew, time.time
        ),
        personal_tokens=PersonalTokens(table),
        recovery_codes=RecoveryCodes(table),
        accounts=AccountCache(pool.account),
    )
    return AuthContext(lambda: parts)


def sign_in(client: FlaskClient, email: str, password: str = PASSWORD, **fields: str) -> Any:
    """Send the sign-in form."""
    return client.post("/sign-in", data={"email": email, "password": password, **fields}, headers=SAME_SITE)


def signed_in(app: Flask, email: str) -> FlaskClient:
    """Return a browser with a session of this account."""
    client = app.test_client()
    assert sign_in(client, email).status_code == 303
    return client
