"""Sharing: a link or an address reads one job until the share is over; it changes nothing and leaves no trace."""

import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import Config
from core.ids import ImageRef, new_id
from core.jobs.models import Counts, ImageRecord, Job
from core.jobs.shares import MAX_DAYS, MAX_SHARES
from core.jobs.store import JobStore
from tests.support.fixtures import AuditLog
from tests.support.jobs import NOW, UNKNOWN_ID, done, put_counts, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import BROWSER, SignInSite
from web_tier.app import create_app
from web_tier.auth.context import LINK_COOKIE
from web_tier.http.backend import current_backend

DAY = 86_400
OVER = "This link opens nothing"


def asks(site: SignInSite, sub: str, method: str, path: str, **sent: Any) -> TestResponse:
    """Send a request of a user, who has signed in once, with a token of the provider."""
    site.sign_in_once(sub)
    headers = {"Authorization": f"Bearer id.{sub}.1"}
    return site.anonymous().open(path, method=method, headers=headers, **sent)


@pytest.fixture
def job(site: SignInSite, table: MemoryTable) -> Job:
    """A job of anna's with a label."""
    store, job = JobStore(table), Job(new_id(), "holiday", NOW, owner="anna")
    image = ImageRecord(ImageRef(job.job_id, new_id()), "beach.jpg", "jpg", (100,), NOW)
    store.create(job)
    store.record_images([image], NOW)
    put_results(store, done(image, "sandbar"))
    return job


def share(site: SignInSite, job: Job, **wanted: Any) -> dict[str, Any]:
    """Let anna share her job; return the answer."""
    answer = asks(site, "anna", "POST", f"/api/v1/jobs/{job.job_id}/shares", json=wanted)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.get_json()
    return body


def opened(browser: FlaskClient, link: str) -> TestResponse:
    """Open a link as the script of its page does."""
    return browser.post("/shared", data={"link": link.partition("#")[2]}, headers=BROWSER)


def test_a_link_opens_its_job_alone_and_its_token_is_stored_and_shown_nowhere(
    site: SignInSite,
    job: Job,
    table: MemoryTable,
    config: Config,
    caplog: pytest.LogCaptureFixture,
    audit_log: AuditLog,
) -> None:
    caplog.set_level(logging.DEBUG)
    other_web_tier = create_app(config, store=JobStore(table), auth=site.access)
    made, viewer = share(site, job), other_web_tier.test_client()
    token = made["path"].partition(".")[2]
    assert len(token) >= 43
    answer = opened(viewer, made["path"])
    page = f"/jobs/{job.job_id}"
    assert (answer.status_code, answer.headers["Location"]) == (303, page)
    cookies = answer.headers.getlist("Set-Cookie")
    assert [cookie.partition("Path=")[2].partition(";")[0] for cookie in cookies] == [page, f"/api/v1{page}"]
    assert all({"Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; ")) for cookie in cookies)
    shown = viewer.get(page)
    assert (shown.status_code, "sandbar" in shown.text, "read-only" in shown.text) == (200, True, True)
    assert not any(secret in shown.text for secret in ("anna@", "/delete", "csrf_token", token))
    assert viewer.get(f"/api/v1{page}/results").status_code == 200
    for elsewhere in ("/", "/jobs", f"{page}/delete", f"/jobs/{UNKNOWN_ID}"):
        assert viewer.get(elsewhere).headers["Location"].startswith("/sign-in"), elsewhere
    assert token not in str(table.items) + caplog.text + str(audit_log())
    assert asks(site, "anna", "GET", f"/api/v1{page}/shares").get_json()["shares"] == [
        {name: made[name] for name in ("share_id", "email", "expires_at")}
    ]


def _ended(site: SignInSite, job: Job, made: dict[str, Any]) -> None:
    answer = asks(site, "anna", "DELETE", f"/api/v1/jobs/{job.job_id}/shares/{made['share_id']}")
    assert answer.status_code == 204


ENDS: dict[str, Callable[[SignInSite, Job, dict[str, Any]], object]] = {
    "ended by its owner": _ended,
    "expired": lambda site, _job, _made: site.clock.advance(7 * DAY),
    "made before a revocation": lambda site, _job, _made: site.access.revocations.revoke_all_of("anna"),
    "of a deleted job": lambda site, job, _made: asks(site, "anna", "DELETE", f"/api/v1/jobs/{job.job_id}"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("email", [None, "bert@example.org"], ids=["link", "address"])
def test_a_share_that_is_over_opens_what_a_missing_job_does(
    site: SignInSite, job: Job, email: str | None, end: Callable[[SignInSite, Job, dict[str, Any]], object]
) -> None:
    made, paths = share(site, job, email=email), ("/jobs/{}", "/jobs/{}/progress", "/api/v1/jobs/{}/results.csv")
    viewer = site.anonymous()
    if email is None:
        viewer.set_cookie(LINK_COOKIE, made["path"].partition(".")[2])
    else:
        site.sign_in_once("bert")
        viewer.environ_base["HTTP_AUTHORIZATION"] = "Bearer id.bert.1"
    assert [viewer.get(path.format(job.job_id)).status_code for path in paths] == [200] * 3
    end(site, job, made)
    for path in paths:
        answers = [viewer.get(path.format(each)) for each in (job.job_id, UNKNOWN_ID)]
        assert [answer.status_code for answer in answers] == [404] * 2, path
    assert "read-only" not in viewer.get("/jobs").text
    again = opened(site.anonymous(), made["path"] or "")
    assert (again.status_code, OVER in again.text) == (404, True)


@pytest.mark.parametrize("link", ["", ".", "x.y", f"{UNKNOWN_ID}.{'t' * 43}", "{job}.", "{job}.{other}", "{job}.é"])
def test_a_link_that_is_wrong_is_answered_like_one_to_a_missing_job(site: SignInSite, job: Job, link: str) -> None:
    share(site, job)
    answers = [opened(site.anonymous(), f"#{text}") for text in (link.format(job=job.job_id, other="t" * 43), "")]
    assert [(answer.status_code, OVER in answer.text) for answer in answers] == [(404, True)] * 2
    assert not any("Set-Cookie" in answer.headers for answer in answers)


def test_an_address_is_that_of_a_user_and_verified_by_the_provider(site: SignInSite, job: Job) -> None:
    share(site, job, email=" Bert@Example.org ")
    path = f"/api/v1/jobs/{job.job_id}/results"
    site.provider.add("bert")
    token = {"Authorization": "Bearer id.bert.1"}
    assert site.anonymous().get(path, headers=token).status_code == 404, "bert has never signed in here"
    assert [asks(site, sub, "GET", path).status_code for sub in ("bert", "carl")] == [200, 404]
    assert asks(site, "bert", "GET", "/api/v1/jobs").get_json()["jobs"] == []
    shown = [asks(site, sub, "GET", "/jobs").text for sub in ("bert", "carl")]
    assert ["holiday" in page and "read-only" in page for page in shown] == [True, False]
    site.provider.add("bert", is_verified=False)
    assert asks(site, "bert", "GET", path).status_code == 404
    assert "holiday" not in asks(site, "bert", "GET", "/jobs").text


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"days": MAX_DAYS}, 201),
        ({"days": MAX_DAYS + 1}, 422),
        ({"days": 0}, 422),
        ({"email": "anna@example.org"}, 422),
        ({"email": "no address"}, 422),
    ],
)
def test_a_share_ends_after_thirty_days_at_most_and_is_for_another(
    site: SignInSite, job: Job, wanted: dict[str, Any], status: int
) -> None:
    answer = asks(site, "anna", "POST", f"/api/v1/jobs/{job.job_id}/shares", json=wanted)
    assert answer.status_code == status, answer.text


def test_a_job_has_at_most_twenty_shares_and_no_personal_token_makes_one(
    site: SignInSite, job: Job, audit_log: AuditLog
) -> None:
    path = f"/api/v1/jobs/{job.job_id}/shares"
    for _ in range(2):  # the second replaces the first
        share(site, job, email="bert@example.org")
    made = [share(site, job) for _ in range(MAX_SHARES - 1)]
    assert asks(site, "anna", "POST", path).status_code == 422
    _ended(site, job, made[0])
    assert asks(site, "anna", "DELETE", f"{path}/{made[0]['share_id']}").status_code == 404
    token = site.with_token("anna", "classify", "read")
    answers = [site.anonymous().open(path, method=method, headers=token) for method in ("GET", "POST")]
    assert [answer.status_code for answer in answers] == [403] * 2
    actions = [event.action for event in audit_log()]
    assert (actions.count("job shared"), actions.count("share ended")) == (MAX_SHARES + 1, 1)


@pytest.mark.parametrize("email", [None, "bert@example.org"], ids=["link", "address"])
def test_a_viewers_stream_has_its_own_place_hides_the_cost_and_ends_with_the_share(
    site: SignInSite, job: Job, table: MemoryTable, email: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.results.live_feed.HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("web_tier.results.live_feed.WAIT_SECONDS", 0.01)
    JobStore(table).record_images([ImageRecord(ImageRef(job.job_id, new_id()), "waits.jpg", "jpg", (100,), NOW)], NOW)
    put_counts(JobStore(table), job.job_id, Counts(1, 0, 2, NOW, NOW))
    made = share(site, job, email=email)
    viewer = site.anonymous() if email is None else site.signed_in("bert")
    if email is None:
        opened(viewer, made["path"])
    with site.app.app_context():
        places = current_backend().bulkheads.streams
    while places.enter("anna"):
        pass
    answer = viewer.get(f"/api/v1/jobs/{job.job_id}/events", buffered=False)
    assert answer.status_code == 200
    stream = answer.iter_encoded()
    assert b'"sentence":"1 of 2 images done."' in b"".join(islice(stream, 5))
    _ended(site, job, made)
    assert len(list(islice(stream, 9))) < 9


def test_without_a_sign_in_there_is_nothing_to_share(config: Config, table: MemoryTable) -> None:
    client, job = create_app(config, store=JobStore(table)).test_client(), Job(new_id(), "open to all", NOW)
    JobStore(table).create(job)
    assert "Copy link" in client.get(f"/jobs/{job.job_id}").text
    client.set_cookie(LINK_COOKIE, "t" * 43)
    paths = ("/shared", f"/jobs/{job.job_id}/share", f"/api/v1/jobs/{job.job_id}/shares")
    assert [client.get(path).status_code for path in paths] == [404] * 3


def test_the_page_of_an_owner_makes_links_and_ends_them(site: SignInSite, job: Job) -> None:
    anna = site.signed_in("anna")
    form = {"csrf_token": site.token_for_forms(anna), "days": "7"}
    path = f"/jobs/{job.job_id}/share"
    assert f'href="{path}"' in anna.get(f"/jobs/{job.job_id}").text
    made = anna.post(path, data=form, headers=BROWSER | {"Origin": "https://photos.example.org"})
    link = made.text.partition('id="link" value="')[2].partition('"')[0]
    assert (made.status_code, link.partition("#")[0]) == (201, "https://photos.example.org/shared")
    assert opened(site.anonymous(), link).status_code == 303
    bert = site.signed_in("bert")
    assert opened(bert, link).status_code == 403, "no page of this site sent the form"
    token = {"csrf_token": site.token_for_forms(bert), "link": link.partition("#")[2]}
    assert bert.post("/shared", data=token, headers=BROWSER).status_code == 303
    assert (bert.get(f"/jobs/{job.job_id}").status_code, bert.get(path).status_code) == (200, 404)
    end = made.text.partition(f'action="/jobs/{job.job_id}/shares/')[2].partition('"')[0]
    assert link not in anna.get(path).text
    assert anna.post(f"/jobs/{job.job_id}/shares/{end}", data=form, headers=BROWSER).status_code == 303
    assert opened(site.anonymous(), link).status_code == 404
    assert anna.post(path, data=form | {"days": "31"}, headers=BROWSER).status_code == 422
