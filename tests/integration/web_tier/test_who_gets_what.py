"""Who gets what: every route of the web tier and every kind of user (rows 39 and 40; OWASP API1, API2, API5).

A line of `ROUTES` says what an anonymous user, the owner of a job, another user, an operator, and the holder of an
expired or a forged token are answered. A route without a line fails, unless it is below an address of `OPERATORS` and
succeeds for operators alone.
"""

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from core.config import Config
from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.keys import merged_key
from core.jobs.models import ImageRecord, Job, MergedFile
from core.jobs.store import JobStore
from core.provision import provision
from localcloud.launch import LocalCloud
from services.clients import Clients
from services.errors import ConfigError
from services.s3 import Bucket
from tests.conftest import config_of
from tests.support.jobs import NOW, UNKNOWN_ID, done, picture, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import BROWSER, HOUR, PlayedProvider, access_of
from tests.support.provider_tokens import HEADER, ID, JWKS, OTHER_KEY, PROVIDER_KEY, SECONDS, rs256, token, verifier
from web_tier.app import create_app
from web_tier.auth.context import COOKIE, AuthServices
from web_tier.auth.permissions import Right
from web_tier.features import FEATURES
from web_tier.http.assets import assets_hash
from web_tier.http.routes import RoutedApp, Routes

OWNER, OTHER, OPERATOR = "owner", "other", "operator"
INSTANCE = "i-0123456789abcdef0"
PEOPLE = ("anonymous", OTHER, OPERATOR, "expired", "forged", OWNER)
"""The owner comes last, since some of it can be done only once."""

Statuses = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Route:
    """A route, what is sent to it, and the answers to anonymous, owner, other, operator, expired and forged token."""

    method: str
    path: str
    expected: Statuses
    send: dict[str, Any] = field(default_factory=dict)

    def status_for(self, who: str) -> int:
        return self.expected[("anonymous", OWNER, OTHER, OPERATOR, "expired", "forged").index(who)]


def everybody(status: int) -> Statuses:
    """What is the same for all, and reads no token."""
    return (status,) * 6


def public(status: int, known: int | None = None) -> Statuses:
    """What is for anonymous users too; a token that is sent must be a good one all the same."""
    user = known or status
    return status, user, user, user, 401, 401


def page(owner: int = 200, other: int = 404, operator: int | None = None) -> Statuses:
    """What people open: an anonymous user is sent to the sign-in."""
    return 303, owner, other, other if operator is None else operator, 401, 401


def program(owner: int = 200, other: int = 404, operator: int | None = None) -> Statuses:
    """What programs call, and forms that change something: an anonymous user is refused."""
    return 401, owner, other, other if operator is None else operator, 401, 401


def of(feature: str, *routes: Route) -> tuple[Route, ...]:
    """The routes of a feature, unless it is removed."""
    return routes if feature in FEATURES else ()


def form(**parts: Any) -> dict[str, Any]:
    return {"data": parts, "content_type": "multipart/form-data"}


OPERATORS = re.compile(r"(/api/v1)?/(fleet|dead-letters)(/|$)")
"""Addresses below which everything is for operators."""

JOB, IMAGE = "/jobs/{job}", "/jobs/{job}/images/{image}"
API_JOB, API_IMAGE = f"/api/v1{JOB}", f"/api/v1{IMAGE}"
LETTER = "/dead-letters/{job}/{image}"
INSTANCE_PAGE, API_INSTANCE = f"/fleet/instances/{INSTANCE}", f"/api/v1/fleet/instances/{INSTANCE}"
BASE64 = {"json": {"data": "{base64}"}}
FILE = {"name": "a.png", "bytes": 100, "content_type": "image/png"}

ROUTES = (
    # For everybody
    Route("GET", "/static/fleetsight.css", everybody(200)),
    Route("GET", f"/static/{assets_hash()}/fleetsight.css", everybody(200)),
    Route("GET", "/healthz", everybody(200)),
    Route("GET", "/readyz", everybody(200)),
    Route("GET", "/api/v1/healthz", everybody(200)),
    Route("GET", "/api/v1/readyz", everybody(200)),
    Route("GET", "/api", public(200)),
    Route("GET", "/api/v1", public(200)),
    Route("GET", "/api/v1/", public(200)),
    Route("GET", "/api/v1/openapi.json", public(200)),
    Route("GET", "/internal/admission", public(401, known=204)),
    # Accounts
    Route("GET", "/sign-in", public(303)),
    Route("GET", "/sign-in/callback", public(403)),  # the provider has sent no user back
    Route("POST", "/sign-out", public(200)),
    Route("GET", "/signed-out", public(200)),
    Route("GET", "/account", page(200, 200)),
    Route("GET", "/account/visitor", public(200)),
    Route("GET", "/account/data", page(200, 200)),
    Route("POST", "/account/delete", program(403, 403)),
    Route("POST", "/account/sessions/end", program(403, 403)),
    Route("POST", "/account/tokens", program(403, 403)),
    Route("POST", "/account/tokens/{token}/revoke", program(303)),
    Route("GET", "/api/v1/tokens", program(200, 200)),
    Route("POST", "/api/v1/tokens", program(201, 201), {"json": {"name": "ci", "scopes": ["read"], "days": 1}}),
    Route("DELETE", "/api/v1/tokens/{token}", program(204)),
    Route("GET", "/api/v1/limits", program(200, 200)),
    # Pages
    Route("GET", "/", page(200, 200)),
    Route("GET", "/upload", page(200, 200)),
    Route("POST", "/", program(504, 504), form(images="{file}")),
    Route("GET", "/jobs", page(200, 200)),
    Route("GET", JOB, page()),
    Route("GET", f"{JOB}/delete", page()),
    Route("POST", f"{JOB}/delete", program(303)),
    Route("POST", f"{JOB}/retry", program(303)),
    Route("POST", f"{JOB}/cancel", program(303)),
    Route("POST", f"{JOB}/min-scores", program(303), form(below="80")),
    Route("POST", "/jobs/cancel", program(400, 400)),  # no job is selected
    Route("POST", "/jobs/delete/confirm", program(400, 400)),  # no job is selected
    Route("POST", "/jobs/delete", program(400, 400)),  # no job is selected
    Route("GET", f"{JOB}/rows", page()),
    Route("GET", f"{JOB}/progress", page()),
    Route("GET", IMAGE, page()),
    Route("POST", f"{IMAGE}/retry", program(303)),
    Route("GET", f"{IMAGE}/thumbnail", page(200)),
    Route("GET", f"{JOB}/picture", page(302)),
    Route("GET", f"{IMAGE}/preview", page(200)),
    # Jobs by the API
    Route("GET", "/api/v1/jobs", program(200, 200)),
    Route("GET", "/api/v1/forecast?images=9", program(404, 404)),  # no controller has reported
    Route("POST", "/api/v1/jobs", program(201, 201), {"json": {"name": "mine"}}),
    Route("GET", API_JOB, program()),
    Route("DELETE", API_JOB, program(204)),
    Route("POST", f"{API_JOB}/images", program(), form(images="{file}")),
    Route("POST", f"{API_JOB}/retry", program()),
    Route("POST", f"{API_JOB}/cancel", program()),
    Route("PUT", f"{API_JOB}/min-scores", program(), {"json": {"min_score": 0.8}}),
    Route("GET", f"{API_JOB}/results", program()),
    Route("GET", f"{API_JOB}/results.csv", program()),
    Route("GET", f"{API_JOB}/results.jsonl", program()),
    Route("GET", f"{API_JOB}/results/file", program()),
    Route("GET", f"{API_JOB}/images.zip", program()),
    Route("GET", f"{API_JOB}/events", program()),
    Route("GET", API_IMAGE, program()),
    Route("POST", f"{API_IMAGE}/retry", program()),
    Route("POST", f"{API_JOB}/uploads", program(), {"json": {"files": [FILE]}}),
    Route("POST", f"{API_JOB}/uploads/{{upload}}/commit", program(422)),  # nothing has arrived
    # Single images; a label takes longer than is waited here, so 504 is a good answer
    Route("POST", "/api/v1/classify?wait=0", program(202, 202), BASE64),
    Route("POST", "/classify", program(504, 504), form(myfile="{file}")),
    Route("POST", "/api/image", program(504, 504), form(myfile="{file}")),
    Route("POST", "/classify-image", program(504, 504), form(myfile="{file}")),
    Route("POST", "/file-upload", program(504, 504), form(inputFile="{file}")),
    Route("POST", "/inference/image", program(200, 200), BASE64),
    Route("POST", "/inference/image/", program(200, 200), BASE64),
    Route("GET", "/predictions/{job}-{image}", program()),
    Route("GET", "/predictions/{job}-{image}/", program()),
    # The fleet; before its controller's first report there is nothing to show, nor an instance to drain or read
    Route("GET", "/metrics", program(403, 403, 200)),
    Route("POST", "/fleet/limits", program(403, 403, 422)),
    Route("POST", "/fleet/allowance", program(403, 403, 422)),
    Route("GET", f"{INSTANCE_PAGE}/drain", page(403, 403, 404)),
    Route("POST", f"{INSTANCE_PAGE}/drain", program(403, 403, 404)),
    Route("GET", f"{INSTANCE_PAGE}/console", page(403, 403, 404)),
    Route("GET", "/api/v1/fleet", program(403, 403, 404)),
    Route("PUT", "/api/v1/fleet/limits", program(403, 403, 200), {"json": {"min_workers": 0, "max_workers": 1}}),
    # No spending cap is configured, so there is none to raise
    Route("PUT", "/api/v1/fleet/allowance", program(403, 403, 422), {"json": {"dollars": 1}}),
    Route("POST", f"{API_INSTANCE}/drain", program(403, 403, 404)),
    Route("GET", f"{API_INSTANCE}/console", program(403, 403, 404)),
    *of(
        "models",
        # The only one is the default
        Route("GET", "/model", page(200, 200)),
        Route("GET", "/api/v1/models", program(200, 200)),
        Route("POST", "/api/v1/models", program(403, 403, 422), {"json": {"place": "/nothing"}}),
        Route("DELETE", "/api/v1/models/demo", program(403, 403, 422)),
        Route("PUT", "/api/v1/models/default", program(403, 403, 200), {"json": {"model": "demo"}}),
        Route("POST", "/api/v1/models/roll-back", program(403, 403, 422)),
        Route("POST", "/models/roll-back", program(403, 403, 422)),
    ),
    *of(
        "sharing",
        # No link is sent, and the owner has made no share that could end
        Route("GET", "/shared", public(200)),
        Route("POST", "/shared", public(404)),
        Route("GET", f"{JOB}/share", page()),
        Route("POST", f"{JOB}/share", program(422)),  # for no days
        Route("POST", f"{JOB}/shares/{{token}}/end", program(404)),
        Route("GET", f"{API_JOB}/shares", program()),
        Route("POST", f"{API_JOB}/shares", program(201)),
        Route("DELETE", f"{API_JOB}/shares/{{token}}", program(404)),
    ),
    *of(
        "review",
        Route("GET", f"{JOB}/evaluation", page()),
        Route("POST", f"{JOB}/truth/csv", program(422), form(file="{file}")),  # it is an image
        Route("POST", f"{JOB}/truth/folders", program()),
        Route("POST", f"{IMAGE}/truth", program(303)),
        Route("GET", f"{API_JOB}/evaluation", program()),
        Route("PUT", f"{API_JOB}/truth", program(), {"json": {"labels": {UNKNOWN_ID: "dog"}}}),
        Route("GET", f"{API_JOB}/truth.csv", program()),
        Route("POST", f"{API_JOB}/truth.csv", program(), {"data": b"a.png,dog"}),
        Route("POST", f"{API_JOB}/truth/folders", program()),
    ),
    *of(
        "dead_letters",
        # The image of the owner has a label, so it is none
        Route("POST", f"{LETTER}/redrive", program(403, 403, 303)),
        Route("POST", f"{LETTER}/discard", program(403, 403, 303)),
        Route("GET", f"/api/v1{LETTER}", program(403, 403, 404)),
        Route("POST", f"/api/v1{LETTER}/redrive", program(403, 403, 200)),
        Route("DELETE", f"/api/v1{LETTER}", program(403, 403, 204)),
    ),
)


@dataclass
class Stage:
    """The web tier with sign-in, and what the owner has there."""

    app: Flask
    config: Config
    clients: Clients
    table: MemoryTable
    access: AuthServices
    provider: PlayedProvider

    def belongings(self, route: Route) -> dict[str, str]:
        """Make what a route is about, a job of the owner with an answered image, an upload, a token; return the ids.

        A request that concerns no user's data needs none.
        """
        return self._made() if "{" in route.path else {}

    def _made(self) -> dict[str, str]:
        store, job = JobStore(self.table), Job(new_id(), "holiday", NOW, keep=True, owner=OWNER)
        ref = ImageRef(job.job_id, new_id())
        image = ImageRecord(ref, "a.png", "png", (100,), NOW)
        store.create(job)
        store.record_images([image], NOW)
        put_results(store, done(image))
        JobFigures(store.table).put_merged(job.job_id, MergedFile(merged_key(job.job_id), "1", NOW))
        self._bucket(self.config.names.input_bucket).put(image.key, picture("PNG"), "image/png")
        self._bucket(self.config.names.output_bucket).put(merged_key(job.job_id), b"{}\n", "application/x-ndjson")
        _, personal = self.access.personal_tokens.make(
            OWNER, "", "mine", ["read"], 1, int(self.provider.clock.epoch_seconds())
        )
        offer = self.client(OWNER).post(f"{API_JOB.format(job=job.job_id)}/uploads", json={"files": [FILE]})
        return {
            "job": job.job_id,
            "image": ref.image_id,
            "token": personal.token_id,
            "upload": offer.get_json()["upload_id"],
        }

    def forget(self, belongings: dict[str, str]) -> None:
        """Revoke the owner's token: a user may have few."""
        if belongings:
            self.client(OWNER).delete(f"/api/v1/tokens/{belongings['token']}")

    def client(self, who: str) -> FlaskClient:
        """Return a client with a token of the provider; an anonymous user has none."""
        client = self.app.test_client()
        if who != "anonymous":
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {self._token(who)}"
        return client

    def browser(self, cookie: str) -> FlaskClient:
        client = self.app.test_client()
        client.set_cookie(COOKIE, cookie)
        return client

    def session(self) -> str:
        return self.access.sessions.begin(self.provider.verify(f"id.{OWNER}.1"), "refresh")

    def _token(self, who: str) -> str:
        claims = ID | {"sub": OWNER, "groups": ["users"]}
        match who:
            case "expired":
                return token(HEADER, claims | {"exp": SECONDS - 1})
            case "forged":
                return token(HEADER, claims, lambda content: rs256(content, OTHER_KEY))
            case _:
                groups = ["operators"] if who == OPERATOR else ["users"]
                own = claims | {"sub": who, "groups": groups}
                return token(HEADER, own, lambda content: rs256(content, PROVIDER_KEY))

    def _bucket(self, name: str) -> Bucket:
        return Bucket.named(self.clients, name)


@pytest.fixture(scope="module")
def stage(cloud: LocalCloud, clients: Clients) -> Iterator[Stage]:
    config = config_of(cloud, new_id().lower(), classic={"wait_seconds": 0.01})
    provision(clients, config)
    table, provider = MemoryTable(), PlayedProvider()
    for sub in (OWNER, OTHER, OPERATOR):
        provider.add(sub, is_operator=sub == OPERATOR)
    access = replace(access_of(table, provider), verifier=verifier(fetch=lambda: JWKS))
    app = create_app(config, store=JobStore(table), auth=access)
    yield Stage(app, config, clients, table, access, provider)


def ask(client: FlaskClient, route: Route, ids: dict[str, str], **more: Any) -> int:
    """Return the status of the answer; a stream is not read."""
    send = {key: sent(value) for key, value in route.send.items()}
    answer = client.open(route.path.format(**ids), method=route.method, buffered=False, **send, **more)
    answer.close()
    return answer.status_code


def sent(value: Any) -> Any:
    """Return a body with an image in it, made again for each request."""
    if isinstance(value, dict):
        return {key: sent(part) for key, part in value.items()}
    if value == "{file}":
        return BytesIO(picture("PNG")), "a.png"
    return b64encode(picture("PNG")).decode() if value == "{base64}" else value


def answers_of(stage: Stage, route: Route) -> dict[str, int]:
    ids = stage.belongings(route)
    answers = {who: ask(stage.client(who), route, ids) for who in PEOPLE}
    stage.forget(ids)
    return answers


def answers_to_ended_sessions(stage: Stage, route: Route) -> set[int]:
    ids = {name: new_id() for name in ("job", "image", "upload", "token")}
    over = stage.session()
    stage.provider.clock.advance(HOUR)
    return {ask(stage.browser(cookie), route, ids, headers=BROWSER) for cookie in (over, forged(stage.session()))}


def forged(cookie: str) -> str:
    """Return a cookie with another signature: not its last character, of which some bits mean nothing in base64."""
    return f"{cookie[:-3]}{'B' if cookie[-3] == 'A' else 'A'}{cookie[-2:]}"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_answers_everybody_as_is_right(stage: Stage, route: Route) -> None:
    assert answers_of(stage, route) == {who: route.status_for(who) for who in PEOPLE}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_session_that_is_over_or_forged_is_no_better_than_none(stage: Stage, route: Route) -> None:
    assert answers_to_ended_sessions(stage, route) == {route.status_for("anonymous")}


def test_every_route_has_its_line_or_is_for_operators_alone(stage: Stage) -> None:
    routes = stage.app.url_map.bind("localhost")
    lined = {(routes.match(route.path.partition("?")[0], route.method)[0], route.method) for route in ROUTES}
    for rule in stage.app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if (rule.endpoint, method) in lined:
                continue
            assert OPERATORS.match(rule.rule), f"write a line for {method} {rule.rule}"
            refused = page if method == "GET" and not rule.rule.startswith("/api/") else program
            route = Route(method, rule.rule, refused(403, 403))
            answers = answers_of(stage, route)
            assert answers.pop(OPERATOR) < 400, f"write a line for {method} {rule.rule}"
            assert answers == {who: route.status_for(who) for who in answers}, rule.rule
            assert answers_to_ended_sessions(stage, route) == {route.status_for("anonymous")}, rule.rule


def test_a_route_without_a_right_stops_the_web_tier_at_start() -> None:
    with pytest.raises(ConfigError, match="the route /new has no right"):
        RoutedApp("tier").add_url_rule("/new", view_func=lambda: "")


@pytest.mark.parametrize("options", [{"right": Right.CLASSIFY}, {"right": Right.READ, "methods": ["GET", "POST"]}])
def test_a_route_that_changes_shared_jobs_stops_the_web_tier_at_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the route /new does more than read"):
        RoutedApp("tier").add_url_rule("/new", view_func=lambda: "", reads_shared_jobs=True, **options)


def test_a_form_without_a_page_stops_the_web_tier_at_start() -> None:
    with pytest.raises(ConfigError, match="the form /new has no page"):
        Routes("operations", right=Right.PUBLIC).add_url_rule("/new", view_func=lambda: "", form="/new")
