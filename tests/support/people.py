"""Users of the web tier, with a provider in memory, a clock to set, and browsers in which they have signed in.

The flow at a real provider is in tests/integration/web_tier/test_provider.py and tests/browser/test_sign_in.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

from flask import Flask, Response, redirect, request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import Config
from core.jobs.store import JobStore
from core.tokens import TokenClaims, TokenRefusedError
from services.table import Table
from tests.support.clocks import ManualClock
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from web_tier.app import create_app
from web_tier.auth.context import COOKIE, AuthServices, auth_services
from web_tier.auth.guard import csrf_token
from web_tier.auth.provider import ProviderTokens, SignedOutError, SignInRefusedError
from web_tier.auth.session_keys import SessionKeys
from web_tier.auth.sessions import SessionTimes

KEY = "a key of the sessions, long enough to be one"
MINUTE, HOUR = 60, 3_600
TIMES = SessionTimes(idle=HOUR, longest=12 * HOUR)
BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SIGN_IN, SIGN_OUT = "https://login.example.org/in", "https://login.example.org/out"

SMALL_LIMITS = {"requests_per_minute": 3, "images_per_day": 3, "bytes_per_day": 0}

OIDC = {"mode": "oidc", "issuer": "https://login.example.org", "client_id": "fleetsight"}
"""Settings of a site with sign-in."""

BROWSER = {"Sec-Fetch-Site": "same-origin"}
"""What a browser says when one of our own pages sends something."""


@dataclass(frozen=True)
class PlayedUser:
    """A user of the provider."""

    sub: str
    is_operator: bool = False
    is_verified: bool = True
    has_email: bool = True

    @property
    def email(self) -> str:
        return f"{self.sub}@example.org" if self.has_email else ""


@dataclass
class PlayedProvider:
    """The provider and the verifier of its tokens, which are `id.SUB.TIME`, with the time of the sign-in.

    Its page is at `SIGN_IN`; a user who signs in there is sent back with `code=SUB`.

    Attributes:
        away: is raised by each call.
        asked: the refresh tokens that it was asked for.
        started: path of the page after each sign-in that a browser has started, by its state.
        refreshes_id_tokens: whether a refresh gives an ID token, too.
    """

    users: dict[str, PlayedUser] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=lambda: ManualClock(0.0, BEGIN))
    away: Exception | None = None
    asked: list[str] = field(default_factory=list)
    started: dict[str, str] = field(default_factory=dict)
    refreshes_id_tokens: bool = True

    def add(self, sub: str, **facts: bool) -> PlayedUser:
        self.users[sub] = PlayedUser(sub, **facts)
        return self.users[sub]

    def tokens(self, sub: str) -> ProviderTokens:
        now = int(self.clock.epoch_seconds())
        return ProviderTokens(f"id.{sub}.{now}", f"refresh.{sub}.{len(self.asked)}")

    def redirect_to_sign_in(self, callback: str, back: str, *, again: bool = False) -> Response:
        self._answer()
        state = str(len(self.started))
        self.started[state] = back
        query = {"redirect_uri": callback, "state": state, **({"prompt": "login"} if again else {})}
        return cast(Response, redirect(f"{SIGN_IN}?{urlencode(query)}", 303))

    def tokens_of_return(self) -> tuple[ProviderTokens, str]:
        self._answer()
        back = self.started.pop(request.args.get("state", ""), None)
        if back is None or "code" not in request.args:
            raise SignInRefusedError("the provider has refused the sign-in")
        return self.tokens(request.args["code"]), back

    def refresh(self, refresh_token: str) -> ProviderTokens:
        self.asked.append(refresh_token)
        self._answer()
        sub = refresh_token.split(".")[1]
        if sub not in self.users:
            raise SignedOutError
        tokens = self.tokens(sub)
        return tokens if self.refreshes_id_tokens else replace(tokens, id_token="")

    def sign_out_address(self, back: str) -> str | None:
        self._answer()
        return f"{SIGN_OUT}?{urlencode({'post_logout_redirect_uri': back})}"

    def verify(self, text: str, nonce: str | None = None) -> TokenClaims:
        use, sub, signed_in = (*text.split("."), "", "")[:3]
        user = self.users.get(sub)
        if user is None or use not in {"id", "access"}:
            raise TokenRefusedError("not signed by the provider")
        email = user.email if use == "id" else ""
        return TokenClaims(sub, email, user.is_verified, user.is_operator, BEGIN, int(signed_in or 0))

    def _answer(self) -> None:
        if self.away is not None:
            raise self.away


def access_of(table: Table, provider: PlayedProvider) -> AuthServices:
    """Return sign-in as one process of the web tier has it."""
    played = cast(Any, provider)
    return auth_services(played, played, table, SessionKeys([KEY]), TIMES, provider.clock)


@dataclass
class SignInSite:
    """A web tier with sign-in, and clients for its users."""

    app: Flask
    access: AuthServices
    provider: PlayedProvider

    @property
    def clock(self) -> ManualClock:
        """The clock of the provider and of the web tier."""
        return self.provider.clock

    def signed_in(self, sub: str) -> FlaskClient:
        """Return the browser of a user who has signed in."""
        self.provider.users.get(sub) or self.provider.add(sub)
        browser = self.anonymous()
        with self.app.test_request_context("/"):
            answer = self.access.begin(self.provider.tokens(sub), Response())
        keep(browser, answer.headers["Set-Cookie"])
        return browser

    def sign_in_once(self, sub: str) -> PlayedUser:
        """Let a user sign in, so that the web tier knows their profile, in a browser that is then closed."""
        user = self.provider.users.get(sub) or self.provider.add(sub)
        self.access.profiles.put(self.provider.verify(self.provider.tokens(sub).id_token))
        return user

    def anonymous(self) -> FlaskClient:
        """Return the browser of a user who has not signed in."""
        return self.app.test_client()

    def with_token(self, sub: str, *scopes: str, days: int = 30) -> dict[str, str]:
        """Return the header of a new personal token of a user, who has signed in once."""
        user = self.sign_in_once(sub)
        text, _ = self.access.personal_tokens.make(
            sub, user.email, "test", scopes, days, int(self.clock.epoch_seconds())
        )
        return {"Authorization": f"Bearer {text}"}

    def token_for_forms(self, browser: FlaskClient) -> str:
        """Return the token in the pages that a browser has of its session."""
        with self.app.test_request_context("/", headers={"Cookie": f"{COOKIE}={cookie_of(browser)}"}):
            self.app.preprocess_request()
            return csrf_token()

    def signs_in(self, browser: FlaskClient, sub: str, path: str = "/sign-in") -> TestResponse:
        """Let a user sign in by the pages of a browser; return the answer to their return from the provider."""
        self.provider.users.get(sub) or self.provider.add(sub)
        location = browser.get(path, base_url="https://localhost").headers["Location"]
        query = {"state": parse_qs(urlsplit(location).query)["state"][0], "code": sub}
        return browser.get("/sign-in/callback", query_string=query, base_url="https://localhost")

    def operator(self) -> FlaskClient:
        """Return an operator's browser."""
        self.provider.add("ops", is_operator=True)
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


def sign_in_site(config: Config, store: JobStore) -> SignInSite:
    """Return a web tier with sign-in, and with a bucket and a queue in memory."""
    provider = PlayedProvider()
    access = access_of(store.table, provider)
    bucket, queue = MemoryBucket(), MemoryQueue()
    app = create_app(config, store=store, input_bucket=bucket, request_queue=queue, auth=access, inspect=inspect)
    return SignInSite(app, access, provider)
