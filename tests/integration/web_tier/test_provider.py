"""Sign-in at OpenID providers that we did not write, and answers that must be refused."""

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask, Response, jsonify
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.jobs.store import JobStore
from services.clock import CLOCK
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.fixtures import AuditLog
from tests.support.people import BROWSER, KEY, cookie_of
from tests.support.provider_tokens import HEADER, JWKS, OTHER_KEY, rs256, token
from tests.support.providers import CLIENT, EACH_JUDGE, JUDGES, OPERATOR, SECRET, USER, RunningProvider
from tests.support.servers import served
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.app import create_app
from web_tier.auth.context import COOKIE, current_auth
from web_tier.auth.provider import STATE_COOKIE
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE, SECRET_VARIABLE
from web_tier.http.backend import backend_of

SITE = "http://localhost"
AppFor = Callable[[str], Flask]


@pytest.fixture
def app_for(make_config: ConfigMaker, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppFor:
    """Make a web tier where users sign in at an issuer."""
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(keys))
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)

    def make(issuer: str) -> Flask:
        auth = {"mode": "oidc", "issuer": issuer, "client_id": CLIENT}
        return create_app(make_config(auth=auth), store=JobStore(table))

    return make


@pytest.fixture(scope="module", params=EACH_JUDGE)
def judge(request: pytest.FixtureRequest) -> Iterator[RunningProvider]:
    with JUDGES[request.param](SITE) as running:
        yield running


@pytest.fixture
def app(judge: RunningProvider, app_for: AppFor) -> Flask:
    return app_for(judge.issuer)


def location(answer: TestResponse) -> str:
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def sign_in(browser: FlaskClient, judge: RunningProvider, sub: str, page: str = "/account") -> str:
    """Sign in, and return the address with the code that the provider has sent the browser back to."""
    back = judge.sign_in(location(browser.get(location(browser.get(page)))), sub)
    assert location(browser.get(back)) == page
    return back


def test_a_user_comes_back_to_the_page_that_they_asked_for(app: Flask, judge: RunningProvider) -> None:
    for sub, operates in ((USER, False), (OPERATOR, True)):
        browser = app.test_client()
        sign_in(browser, judge, sub, "/account?a=b%20c")
        page = browser.get("/account").text
        assert f"{sub}@example.org" in page
        assert ("manage the fleet" in page) is operates
        assert browser.get("/fleet").status_code == (200 if operates else 403)


def test_a_session_is_renewed_by_its_refresh_token(app: Flask, judge: RunningProvider) -> None:
    browser = app.test_client()
    sign_in(browser, judge, USER)
    before = cookie_of(browser)
    with app.test_request_context("/"):
        sessions = current_auth().sessions
        ids = sessions.keys.read(before)
        assert ids is not None
        found = sessions.store.find(ids.own)
        refresh_token = sessions.keys.decrypt(found.refresh_token)  # type: ignore[union-attr]
        assert refresh_token
        renewed = sessions.renew(refresh_token)
    # oidc-provider-mock sends no ID token at a refresh, which the standard allows.
    assert renewed.claims is None or (renewed.claims.email, renewed.claims.is_verified) == ("user@example.org", True)
    assert renewed.refresh_token


def test_a_provider_s_token_authenticates_a_program(app: Flask, judge: RunningProvider) -> None:
    browser = app.test_client()
    taken = list[str]()
    with app.test_request_context("/"):
        provider = current_auth().provider
    original = type(provider).tokens_of_return
    with pytest.MonkeyPatch.context() as patch:

        def keep(self: Any) -> Any:
            tokens, back = original(self)
            taken.append(tokens.id_token)
            return tokens, back

        patch.setattr(type(provider), "tokens_of_return", keep)
        sign_in(browser, judge, USER)
    program = {"Authorization": f"Bearer {taken[0]}"}
    assert app.test_client().get("/api/v1/jobs", headers=program).status_code == 200
    assert app.test_client().get("/api/v1/fleet", headers=program).status_code == 403


def test_signing_out_ends_the_session_and_leads_to_the_provider_s(app: Flask, judge: RunningProvider) -> None:
    browser = app.test_client()
    sign_in(browser, judge, USER)
    kept, form = cookie_of(browser), browser.get("/account").text.partition('name="csrf_token" value="')[2]
    answer = browser.post("/sign-out", data={"csrf_token": form.partition('"')[0]}, headers=BROWSER)
    address = urlsplit(answer.headers["Refresh"].removeprefix("0; url="))
    assert f"{address.scheme}://{address.netloc}" == judge.issuer
    assert parse_qs(address.query)["post_logout_redirect_uri"] == [f"{SITE}/signed-out"]
    thief = app.test_client()
    thief.set_cookie(COOKIE, kept)
    assert location(thief.get("/account")).startswith("/sign-in")


def test_an_answer_counts_once_and_only_in_the_browser_that_began(app: Flask, judge: RunningProvider) -> None:
    victim, browser = app.test_client(), app.test_client()
    back = judge.sign_in(location(browser.get("/sign-in")), OPERATOR)
    assert victim.get(back).status_code == 403  # the code of an attacker signs no other user in
    location(browser.get(back))
    assert browser.get(back).status_code == 403
    assert victim.get_cookie(COOKIE) is None


def test_a_sign_in_never_continues_a_session_that_was_there(app: Flask, judge: RunningProvider) -> None:
    browser = app.test_client()
    sign_in(browser, judge, USER)
    fixed = cookie_of(browser)
    back = judge.sign_in(location(browser.get("/sign-in?again=1")), OPERATOR)
    location(browser.get(back))
    assert cookie_of(browser) != fixed
    browser.set_cookie(COOKIE, fixed)
    assert location(browser.get("/account")).startswith("/sign-in")


def test_some_sign_ins_in_tabs_of_a_browser_finish_in_any_order(app: Flask, judge: RunningProvider) -> None:
    browser = app.test_client()
    starts = [location(browser.get(f"/sign-in?next=/jobs&again={number}")) for number in range(7)]
    cookie = browser.get_cookie(STATE_COOKIE)
    assert cookie is not None
    assert len(cookie.value) < 4_000
    assert location(browser.get(judge.sign_in(starts[3], USER))) == "/jobs"
    assert browser.get(judge.sign_in(starts[0], USER)).status_code == 403  # the oldest ones are forgotten


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1"])
def test_a_sign_in_leads_to_no_other_site(app: Flask, judge: RunningProvider, elsewhere: str) -> None:
    browser = app.test_client()
    back = judge.sign_in(location(browser.get(f"/sign-in?{urlencode({'next': elsewhere})}")), USER)
    assert location(browser.get(back)) == "/"


@dataclass
class Rogue:
    """A provider that says what a test lets it say; its key is that of `provider_tokens`.

    Attributes:
        names: its metadata, beside the usual.
        answer: of the token endpoint, beside the usual.
        gate: until it is set, the provider answers nothing, if there is one.
        claims: of its ID tokens, beside the usual.
        sign: the signature of a token.
        status: of the token endpoint.
    """

    names: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=lambda: dict(HEADER))
    sign: Callable[[bytes], bytes] = rs256
    answer: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    gate: threading.Event | None = None
    issuer: str = ""
    nonce: str = ""

    def app(self) -> Flask:
        app = Flask("rogue")

        @app.before_request
        def wait() -> None:
            if self.gate is not None:
                self.gate.wait(DEADLINE_SECONDS)

        @app.get("/.well-known/openid-configuration")
        def metadata() -> Response:
            usual = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            }
            return jsonify({**usual, **self.names})

        @app.get("/jwks")
        def keys() -> Response:
            return Response(JWKS, mimetype="application/json")

        @app.post("/token")
        def tokens() -> tuple[Response, int]:
            now = int(CLOCK.epoch_seconds())
            usual = {
                "iss": self.issuer,
                "sub": "ann",
                "aud": CLIENT,
                "iat": now,
                "exp": now + 600,
                "nonce": self.nonce,
                "email": "ann@example.org",
            }
            id_token = token(self.header, {**usual, **self.claims}, self.sign)
            return jsonify(
                {"access_token": "x", "token_type": "Bearer", "id_token": id_token, **self.answer}
            ), self.status

        return app


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    rogue = Rogue()
    with served(rogue.app()) as issuer:
        rogue.issuer = issuer
        yield rogue


def answered(app: Flask, rogue: Rogue, **query: str) -> TestResponse:
    """Return the site's answer to a browser that the provider sends back, with these fields in its address."""
    browser = app.test_client()
    start = parse_qs(urlsplit(location(browser.get("/sign-in"))).query)
    rogue.nonce = start["nonce"][0]
    fields = {"code": "c", "state": start["state"][0], **query}
    return browser.get(f"/sign-in/callback?{urlencode(fields)}")


def test_a_provider_with_the_bare_minimum_is_enough(app_for: AppFor, rogue: Rogue) -> None:
    assert location(answered(app_for(rogue.issuer), rogue)) == "/"


ATTACKS: Mapping[str, dict[str, Any]] = {
    "a state that the site did not give": {"query": {"state": "made-up"}},
    "no state": {"query": {"state": ""}},
    "an answer of another issuer": {"query": {"iss": "https://evil.example"}},
    "a refusal by the user": {"query": {"error": "access_denied"}},
    "another nonce": {"claims": {"nonce": "that of another sign-in"}},
    "no nonce": {"claims": {"nonce": None}},
    "a token for another client": {"claims": {"aud": "another"}},
    "a token of another issuer": {"claims": {"iss": "https://evil.example"}},
    "an expired token": {"claims": {"exp": 1}},
    "no user": {"claims": {"sub": ""}},
    "no ID token": {"answer": {"id_token": None}},
    "no signature": {"header": {"alg": "none"}, "sign": lambda _: b""},
    "the signature of another key": {"sign": partial(rs256, key=OTHER_KEY)},
    "a key that is gone": {"header": {"kid": "of last year"}},
    "an algorithm with a shared secret": {"header": {"alg": "HS256"}},
    "a logout token": {"claims": {"events": {}}},
    "a refused code": {"answer": {"error": "invalid_grant"}, "status": 400},
}
"""What the provider says instead, as attributes of `Rogue` of which mappings are added, or in the query."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_wrong_answer_signs_nobody_in(app_for: AppFor, rogue: Rogue, audit_log: AuditLog, attack: str) -> None:
    said = dict(ATTACKS[attack])
    query = said.pop("query", {})
    for name, value in said.items():
        setattr(rogue, name, getattr(rogue, name) | value if isinstance(value, dict) else value)
    answer = answered(app_for(rogue.issuer), rogue, **query)
    assert answer.status_code == 403
    assert "You are not signed in" in answer.text
    assert not [each for each in answer.headers.getlist("Set-Cookie") if each.startswith(f"{COOKIE}=")]
    assert [event.action for event in audit_log()] == ["failed sign-in"]


@pytest.mark.parametrize("names", [{"issuer": "https://evil.example"}, {"token_endpoint": "ftp://evil.example"}])
def test_a_provider_with_wrong_metadata_is_used_once_they_are_right(
    app_for: AppFor, rogue: Rogue, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, rogue.names = app_for(rogue.issuer), names
    answer = app.test_client().get("/sign-in")
    assert answer.status_code == 503
    assert "evil.example" in answer.text
    rogue.names = {}
    assert app.test_client().get("/sign-in").status_code == 503  # each failure holds for seconds
    monkeypatch.setattr("web_tier.auth.provider.PAUSE_SECONDS", 0.0)
    location(app.test_client().get("/sign-in"))


def test_a_start_holds_for_an_hour(app_for: AppFor, rogue: Rogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web_tier.auth.provider.START_SECONDS", -1)
    assert answered(app_for(rogue.issuer), rogue).status_code == 403


def test_no_other_site_fills_the_cookie_of_starts(app_for: AppFor, rogue: Rogue) -> None:
    browser = app_for(rogue.issuer).test_client()
    for size in (1_990, 1_100, 1_990):
        location(browser.get(f"/sign-in?next=/{secrets.token_urlsafe(size)[:size]}"))
    answer = browser.get("/sign-in")
    assert len(answer.headers["Set-Cookie"]) < 4_096
    start = parse_qs(urlsplit(location(answer)).query)
    rogue.nonce = start["nonce"][0]
    query = urlencode({"code": "c", "state": start["state"][0]})
    assert location(browser.get(f"/sign-in/callback?{query}")) == "/"


def test_a_provider_that_hangs_leaves_threads_for_everything_else(app_for: AppFor, rogue: Rogue) -> None:
    app, rogue.gate = app_for(rogue.issuer), threading.Event()
    places = backend_of(app).bulkheads.sign_ins

    def is_full() -> bool:
        with places.place() as may_enter:
            return not may_enter

    with ThreadPoolExecutor(places.size) as browsers:
        waiting = [browsers.submit(app.test_client().get, "/sign-in") for _ in range(places.size)]
        try:
            wait_until(is_full, "all places are taken")
            answer = app.test_client().get("/sign-in")
            assert (answer.status_code, "Too many sign-ins wait" in answer.text) == (503, True)
        finally:
            rogue.gate.set()
        assert {each.result().status_code for each in waiting} <= {303, 503}


def test_a_provider_that_is_away_is_named_and_can_be_tried_again(app_for: AppFor, rogue: Rogue) -> None:
    app, browser = app_for("http://127.0.0.1:9"), app_for("http://127.0.0.1:9").test_client()
    answer = browser.get("/sign-in")
    assert answer.status_code == 503
    assert "127.0.0.1:9 does not answer" in answer.text
    header = {"Authorization": f"Bearer {json.dumps(rogue.issuer)}"}
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 401
    rogue.status = 500
    assert answered(app_for(rogue.issuer), rogue).status_code == 503
