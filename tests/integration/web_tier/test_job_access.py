"""Access to jobs: users reach their own jobs only, routes have no other way to a job, and ownership costs no call."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from core.config import Config, LimitSettings
from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.keys import merged_key
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Job, MergedFile
from core.jobs.store import JobStore
from core.tracing import trace_id
from localcloud.tests.support.cloud_clients import calls_of
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import Queue
from services.table import Table
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import cloud_table
from tests.support.jobs import NOW, UNKNOWN_ID, count_images, done, picture, put_results
from tests.support.people import BROWSER, PlayedProvider, SignInSite, access_of
from web_tier.app import create_app
from web_tier.auth.context import LINK_COOKIE
from web_tier.features import FEATURES
from web_tier.http.backend import current_backend

PICTURE = picture()
FILES = {"files": [{"name": "a.jpg", "bytes": len(PICTURE), "content_type": "image/jpeg"}]}
BODIES: dict[str, Any] = {
    "api_v1.add_images": lambda: {"data": {"f": (BytesIO(PICTURE), "x.jpg")}},
    "direct.offer_uploads": lambda: {"json": FILES},
}
"""What a route needs to be sent, so that nothing but the job is in its way."""

DELETING = ("api_v1.delete_job", "jobs.delete")

FOR_OPERATORS = "/dead-letters/"
"""Part of the address of each route on which operators decide about images of any owner."""

table = cloud_table


@contextmanager
def counted(clients: Clients) -> Iterator[Counter[str]]:
    """Count the calls of the job table, by operation, at the end of the context.

    Reads that are due by time are left out, so that the count does not depend on how fast the test runs.
    """
    counts: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch, calls_of(clients.dynamodb) as calls:
        patch.setattr("web_tier.uploads.served_models.RECENT_SECONDS", float("inf"))
        yield counts
    counts.update(operation for operation, _ in calls)


def clients_of(app: Flask) -> Clients:
    """Return the clients by which the web tier calls the table."""
    with app.app_context():
        return current_backend().clients


class Person:
    """A user who has signed in, with a token of the provider."""

    def __init__(self, site: SignInSite, sub: str) -> None:
        site.sign_in_once(sub)
        self.sub, self._browser = sub, site.anonymous()
        self._headers = {"Authorization": f"Bearer id.{sub}.1"}

    def asks(self, method: str, path: str, headers: dict[str, str] | None = None, **sent: Any) -> TestResponse:
        """Send a request; of a stream only the beginning is read."""
        return self._browser.open(path, method=method, headers={**self._headers, **(headers or {})}, **sent)

    def makes_a_job(self, **headers: str) -> str:
        """Create a job; return its id."""
        answer = self.asks("POST", "/api/v1/jobs", headers)
        assert answer.status_code == 201, answer.text
        return str(answer.get_json()["job_id"])

    def sends(self, job_id: str, body: bytes = PICTURE) -> dict[str, Any]:
        """Send an image into a job; return the response's outcome."""
        answer = self.asks("POST", f"/api/v1/jobs/{job_id}/images", data={"f": (BytesIO(body), "mine.jpg")})
        assert answer.status_code == 200, answer.text
        accepted: dict[str, Any] = answer.get_json()["accepted"][0]
        return accepted

    def jobs(self) -> set[str]:
        """Return the ids of the jobs that this person is shown."""
        return {job["job_id"] for job in self.asks("GET", "/api/v1/jobs").get_json()["jobs"]}


@pytest.fixture
def site(config: Config, table: Table, provider: PlayedProvider) -> SignInSite:
    """A web tier with sign-in that calls the table by its own clients, so that its calls are counted."""
    access = access_of(table, provider)
    return SignInSite(create_app(config, auth=access), access, provider)


@pytest.fixture
def anna(site: SignInSite, provisioned: Clients) -> Person:
    return Person(site, "anna")


@pytest.fixture
def bert(site: SignInSite) -> Person:
    return Person(site, "bert")


@dataclass(frozen=True)
class Belongings:
    """A job of anna's with all that there can be of one."""

    job_id: str
    image_id: str
    upload_id: str

    def path(self, rule: Rule) -> str:
        """Return the address of one of them."""
        ids = {"job_id": self.job_id, "image_id": self.image_id, "upload_id": self.upload_id, "share_id": UNKNOWN_ID}
        _, path = rule.build(ids | {"uuid": f"{self.job_id}-{self.image_id}"}) or ("", "")
        return path

    def blank(self, text: str) -> str:
        """Return `text` without the ids."""
        return text.replace(self.job_id, "").replace(self.image_id, "").replace(self.upload_id, "")


NOTHING = Belongings(UNKNOWN_ID, UNKNOWN_ID, UNKNOWN_ID)


@pytest.fixture
def hers(anna: Person, site: SignInSite, store: JobStore, config: Config, provisioned: Clients) -> Belongings:
    job_id = anna.asks("POST", "/api/v1/jobs", json={"keep": True}).get_json()["job_id"]
    image = ImageRef(job_id, anna.sends(job_id)["image_id"])
    upload = anna.asks("POST", f"/api/v1/jobs/{job_id}/uploads", json=FILES).get_json()
    put_results(store, done(store.image(image)))
    Bucket.named(provisioned, config.names.output_bucket).put(merged_key(job_id), b"{}\n", "application/x-ndjson")
    JobFigures(store.table).put_merged(job_id, MergedFile(merged_key(job_id), "1", NOW))
    return Belongings(job_id, image.image_id, upload["upload_id"])


def routes_to_belongings(app: Flask) -> list[tuple[str, Rule]]:
    """Return method and rule of every route whose address names a job or a ticket; those that delete last."""
    named = [rule for rule in app.url_map.iter_rules() if {"job_id", "uuid"} & rule.arguments]
    found = [(method, rule) for rule in named for method in sorted((rule.methods or set()) - {"OPTIONS"})]
    return sorted(found, key=lambda each: each[1].endpoint in DELETING)


def sent_to(rule: Rule) -> dict[str, Any]:
    """Return what a request to a route has to bring."""
    sent: dict[str, Any] = BODIES.get(rule.endpoint, dict)()
    return sent


def outcome_of(answer: TestResponse, ids: Belongings) -> tuple[int, str, list[tuple[str, str]]]:
    """Return what an answer says, but for the ids in it and the request's own."""
    request_id, traceparent = answer.headers["X-Request-Id"], answer.headers["traceresponse"]
    headers = [(name, ids.blank(value)) for name, value in answer.headers if value not in {request_id, traceparent}]
    text = ids.blank(answer.text).replace(request_id, "").replace(trace_id(traceparent), "")
    return answer.status_code, text, headers


def test_a_job_of_another_user_is_answered_exactly_like_a_missing_one(
    site: SignInSite, bert: Person, hers: Belongings, store: JobStore, requests_queue: Queue
) -> None:
    before, asked = (store.status(hers.job_id), list(store.images(hers.job_id))), requests_queue.counts()
    routes = routes_to_belongings(site.app)
    assert len(routes) > 30
    for method, rule in routes:
        answers, calls = [], []
        for ids in (hers, NOTHING):
            with counted(clients_of(site.app)) as made:
                answers.append(outcome_of(bert.asks(method, ids.path(rule), **sent_to(rule)), ids))
            calls.append(made)
        assert answers[0] == answers[1], (method, rule.rule)
        refusal = 403 if FOR_OPERATORS in rule.rule else 404
        assert (answers[0][0], calls[0]) == (refusal, calls[1]), (method, rule.rule)
    assert (store.status(hers.job_id), list(store.images(hers.job_id))) == before
    assert requests_queue.counts() == asked


READ_BY_VIEWERS = frozenset({
    "jobs.job_page", "live.job_rows", "live.job_progress", "live.job_events",
    "image.image_page", "image.image_thumbnail", "image.image_preview", "image.job_picture",
    "api_v1.job_results", "api_v1.job_results_csv", "api_v1.job_results_jsonl", "api_v1.job_images_zip",
    "api_v1.job_image",
})  # fmt: skip
"""Routes that a share opens."""


@pytest.mark.skipif("sharing" not in FEATURES, reason="nothing is shared without the feature")
@pytest.mark.parametrize("email", [None, "bert@example.org"], ids=["link", "address"])
def test_a_share_opens_what_reads_the_job_and_nothing_else(
    site: SignInSite, anna: Person, bert: Person, hers: Belongings, store: JobStore, email: str | None
) -> None:
    made = anna.asks("POST", f"/api/v1/jobs/{hers.job_id}/shares", json={"email": email}).get_json()
    viewer = site.anonymous()
    if email is None:
        viewer.set_cookie(LINK_COOKIE, made["path"].partition(".")[2])  # for all addresses
    ask = bert.asks if email else lambda method, path, **sent: viewer.open(path, method=method, **sent)
    before = store.status(hers.job_id), list(store.images(hers.job_id)), anna.jobs()
    opened = set()
    for method, rule in routes_to_belongings(site.app):
        answer = ask(method, hers.path(rule), **sent_to(rule))
        if answer.status_code < 400 and not answer.headers.get("Location", "").startswith("/sign-in"):
            assert method in {"GET", "HEAD"}, rule.rule
            opened.add(rule.endpoint)
        elif email:
            assert answer.status_code == (403 if FOR_OPERATORS in rule.rule else 404), (method, rule.rule)
    assert opened == READ_BY_VIEWERS
    assert (store.status(hers.job_id), list(store.images(hers.job_id)), anna.jobs()) == before


def test_lists_show_each_user_their_own_jobs_page_by_page(anna: Person, bert: Person) -> None:
    annas, berts = [anna.makes_a_job() for _ in range(3)], [bert.makes_a_job() for _ in range(2)]
    assert (anna.jobs(), bert.jobs()) == (set(annas), set(berts))
    first = anna.asks("GET", "/api/v1/jobs?limit=2").get_json()
    second = anna.asks("GET", f"/api/v1/jobs?limit=2&before={first['next']}").get_json()
    assert [job["job_id"] for job in first["jobs"] + second["jobs"]] == sorted(annas, reverse=True)
    assert second["next"] is None
    page = bert.asks("GET", "/jobs").text
    assert all(job in page for job in berts)
    assert not any(job in page for job in annas)
    assert not bert.asks("GET", f"/api/v1/jobs?before={annas[2]}&name=job").get_json()["jobs"]


def test_an_upload_of_another_user_cannot_be_committed(
    anna: Person, bert: Person, hers: Belongings, store: JobStore
) -> None:
    own = bert.makes_a_job()
    answers = [
        bert.asks("POST", f"/api/v1/jobs/{own}/uploads/{upload_id}/commit")
        for upload_id in (hers.upload_id, UNKNOWN_ID)
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert outcome_of(answers[0], hers) == outcome_of(answers[1], NOTHING)
    assert count_images(store, own) == 0


def test_the_same_idempotency_key_of_two_people_makes_a_job_for_each(anna: Person, bert: Person) -> None:
    key = {"Idempotency-Key": "k-1"}
    annas, berts = anna.makes_a_job(**key), bert.makes_a_job(**key)
    assert annas != berts
    assert (anna.makes_a_job(**key), bert.makes_a_job(**key)) == (annas, berts)
    assert (anna.jobs(), bert.jobs()) == ({annas}, {berts})
    other = bert.asks("POST", "/api/v1/jobs", key, json={"name": "another request"})
    assert other.get_json()["type"] == "urn:fleetsight:problem:idempotency-key-reused"


def test_single_images_go_into_a_job_of_their_sender(anna: Person, bert: Person) -> None:
    sent = {
        person.sub: person.asks("POST", "/api/v1/classify?wait=0", data=PICTURE, content_type="image/jpeg").get_json()
        for person in (anna, bert)
    }
    assert ({sent["anna"]["job_id"]}, {sent["bert"]["job_id"]}) == (anna.jobs(), bert.jobs())
    assert anna.asks("GET", sent["anna"]["location"]).status_code == 200
    assert bert.asks("GET", sent["anna"]["location"]).status_code == 404


def test_the_form_of_the_page_creates_a_job_of_its_sender(anna: Person, bert: Person) -> None:
    answer = anna.asks("POST", "/", BROWSER, data={"name": "holiday", "files": (BytesIO(PICTURE), "a.jpg")})
    assert answer.status_code == 303, answer.text
    assert len(anna.jobs()) == 1
    assert bert.jobs() == set()


def test_jobs_from_before_the_sign_in_are_shown_only_without_sign_in(
    config: Config, anna: Person, store: JobStore
) -> None:
    before, annas = Job(new_id(), "from before", NOW), anna.makes_a_job()
    store.create(before)
    later = [anna.makes_a_job() for _ in range(3)]
    assert anna.jobs() == {annas, *later}
    assert anna.asks("GET", f"/api/v1/jobs/{before.job_id}").status_code == 404
    local = create_app(config).test_client()
    assert _ids(local, "/api/v1/jobs?limit=1") == [before.job_id]
    assert (local.get(f"/api/v1/jobs/{annas}").status_code, local.get(f"/jobs/{before.job_id}").status_code) == (
        404,
        200,
    )


def _ids(client: FlaskClient, path: str) -> list[str]:
    return [job["job_id"] for job in client.get(path).get_json()["jobs"]]


@pytest.fixture
def narrow(
    make_config: ConfigMaker,
    provisioned: Clients,
    store: JobStore,
    provider: PlayedProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> SignInSite:
    """A web tier where a user may have two open jobs, and all together five."""
    monkeypatch.setattr(LimitSettings, "open_jobs", 2)
    config = make_config(web={"max_open_jobs": 5})
    access = access_of(store.table, provider)
    return SignInSite(create_app(config, auth=access), access, provider)


def test_a_user_with_as_many_open_jobs_as_allowed_makes_no_more_and_others_do(
    narrow: SignInSite, store: JobStore
) -> None:
    anna, bert = Person(narrow, "anna"), Person(narrow, "bert")
    opened = [anna.makes_a_job() for _ in range(2)]
    for job_id in opened:
        anna.sends(job_id)
    once = anna.asks("POST", "/api/v1/jobs", {"Idempotency-Key": "k"})
    for refused in (anna.asks("POST", "/api/v1/jobs"), once):
        problem = refused.get_json()
        assert (refused.status_code, problem["type"]) == (429, "urn:fleetsight:problem:too-many-open-jobs")
        assert "2 of your jobs" in problem["detail"]
        assert int(refused.headers["Retry-After"]) > 0
    page = anna.asks("POST", "/", BROWSER, data={"files": (BytesIO(PICTURE), "a.jpg")})
    assert (page.status_code, "try again when some have finished" in page.text) == (429, True)
    assert anna.jobs() == set(opened)
    bert.sends(bert.makes_a_job())
    assert OpenJobs(store.table).close(
        next(job for job in OpenJobs(store.table).find_all() if job.job_id == opened[0])
    )
    assert anna.makes_a_job()
