"""Pages: the upload form and its outcome, lists of jobs and images, markup that users type."""

import json
import re
from dataclasses import replace
from html import escape, unescape
from io import BytesIO
from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.fleet.models import BillingPeriod
from core.fleet.store import FleetStore
from core.format import short_date
from core.ids import new_id
from core.jobs.figures import JobFigures
from core.jobs.items import deleted_item
from core.jobs.lifecycle import Cancellations
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.table import TableBusyError
from tests.support.api import AppMaker
from tests.support.autoscaler import fleet_snapshot
from tests.support.jobs import (
    NOW,
    UNKNOWN_ID,
    add_images,
    client_error,
    done,
    failed,
    picture,
    put_counts,
    put_results,
)
from tests.support.memory_aws.s3 import MemoryBucket
from web_tier.pages import job as job_pages
from web_tier.pages.upload import keep_sentence


def post(client: FlaskClient, name: str, *files: tuple[str, bytes]) -> TestResponse:
    data = {"name": name, "images": [(BytesIO(content), filename) for filename, content in files]}
    return client.post("/", data=data, content_type="multipart/form-data", headers={"Sec-Fetch-Site": "same-origin"})


@pytest.mark.parametrize(
    ("endpoint_url", "command"),
    [
        (None, "./scripts/fleetsight model build photos"),
        ("http://127.0.0.1:4566", "./scripts/run.sh --model photos"),
    ],
)
def test_the_upload_form_explains_the_demo_model(make_app: AppMaker, endpoint_url: str | None, command: str) -> None:
    aws = {"endpoint_url": endpoint_url}
    assert f">{command}</code>" in make_app(aws=aws).test_client().get("/").text
    assert "--model photos" not in make_app(aws=aws, worker={"bundle": "models/resnet18"}).test_client().get("/").text


def test_every_page_marks_its_area_in_the_header(client: FlaskClient, job: Job) -> None:
    areas = {
        "/": ["Classify"],
        "/upload": ["Classify"],
        "/jobs": ["Jobs"],
        f"/jobs/{job.job_id}/delete": ["Jobs"],
        "/fleet/pause": ["Fleet"],
        "/api": ["API"],
        "/nowhere": [],
    }
    pages = {path: client.get(path).text for path in areas}
    marked = {path: page[page.index("<nav") : page.index("</nav>")] for path, page in pages.items()}
    assert {path: re.findall(r'aria-current="page">(\w+)<', each) for path, each in marked.items()} == areas


def test_rejected_files_are_shown_with_their_reason(client: FlaskClient, store: JobStore) -> None:
    answer = post(client, "holiday", ("good.jpg", picture()), ("<b>bad</b>.jpg", b"text"))
    assert answer.status_code == 200
    assert "<h1>1 image accepted, 1 file rejected</h1>" in answer.text
    assert escape(["<b>bad<", "b>.jpg"][-1]) in answer.text
    assert "this is not an image" in answer.text
    [job] = store.jobs(5)
    assert f"/jobs/{job.job_id}" in answer.text
    assert store.status(job.job_id).accepted == 1


def test_an_upload_without_an_image_creates_no_job(client: FlaskClient, store: JobStore) -> None:
    assert post(client, "holiday", ("a.jpg", b"text")).status_code == 422
    assert post(client, "holiday", ("", b"")).status_code == 422
    assert store.jobs(5) == []


def test_an_upload_that_could_not_be_stored_gets_503(make_app: AppMaker) -> None:
    client = make_app(bucket=MemoryBucket(fails=lambda _: client_error(400))).test_client()
    answer = post(client, "holiday", ("a.jpg", picture()))
    assert (answer.status_code, "send it again" in answer.text) == (503, True)


def test_jobs_are_listed_with_their_state_in_pages(
    client: FlaskClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No jobs yet" in client.get("/jobs").text
    monkeypatch.setattr(job_pages, "JOBS_PER_PAGE", 2)
    for index in range(3):
        post(client, f"batch {index}", ("a.jpg", picture()))
    first = client.get("/jobs").text
    older = re.search(r'href="(/jobs\?before=[^"]*)"', first)
    assert (first.count("<bdi>batch "), first.count('data-state="running"')) == (2, 2)
    assert older is not None
    assert client.get(older[1]).text.count("<bdi>batch ") == 1


def test_the_list_of_jobs_says_how_far_each_is_what_it_cost_and_when_it_started(
    client: FlaskClient, store: JobStore, job: Job
) -> None:
    one, two, three, _ = add_images(store, job, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    put_results(store, done(one), failed(two), failed(three, "cancelled", "cancelled"))
    put_counts(store, job.job_id, replace(JobFigures(store.table).counts(job.job_id), cancelled=1, runs=((7, 2),)))
    FleetStore(store.table).put_snapshot(
        fleet_snapshot(NOW, run=BillingPeriod(number=7, images=2, billed_seconds=60, cost=0.0017))
    )
    store.create(Job(new_id(), "Single images", NOW, is_single=True))
    page = client.get("/jobs").text
    assert "1 of 4 images · 1 failed · 1 cancelled" in page
    # A cancelled image leaves a gap in the bar; it did not fail.
    assert '<rect class="failed" x="25.00%" width="25.00%"' in page
    assert re.search(r"<td[^>]*>\$0\.00\d+</td>", page)
    assert f'title="{job.created_at:%Y-%m-%d %H:%M:%S} UTC">{short_date(job.created_at)}<br>' in page
    assert page.count("sent one by one") == 1


def test_a_job_has_the_picture_of_its_first_image_that_has_not_failed(
    client: FlaskClient, store: JobStore, job: Job
) -> None:
    address = f"/jobs/{job.job_id}/picture"
    assert client.get(address).headers["Location"].endswith("/no-picture.svg")
    assert address not in client.get("/jobs").text
    first, second = add_images(store, job, "a.jpg", "b.jpg")
    answer = client.get(address)
    assert answer.headers["Location"] == f"/jobs/{job.job_id}/images/{first.ref.image_id}/thumbnail"
    assert "max-age" in answer.headers["Cache-Control"]
    assert address in client.get("/jobs").text
    put_results(store, failed(first))
    assert client.get(address).headers["Location"] == f"/jobs/{job.job_id}/images/{second.ref.image_id}/thumbnail"
    assert client.get(f"/jobs/{UNKNOWN_ID}/picture").status_code == 404


def select(client: FlaskClient, path: str, *job_ids: str) -> TestResponse:
    return client.post(path, data={"job": list(job_ids)})


def test_several_jobs_are_cancelled_and_those_that_have_finished_stay(client: FlaskClient, store: JobStore) -> None:
    running, finished, _ = jobs = [Job(new_id(), name, NOW) for name in ("running", "finished", "other")]
    store.create(*jobs)
    images = [add_images(store, each, "a.jpg") for each in jobs]
    put_results(store, *map(done, images[1]))
    answer = select(client, "/jobs/cancel", running.job_id, finished.job_id, UNKNOWN_ID)
    assert answer.headers["Location"] == "/jobs?cancelled=1"
    assert "1 job cancelled. A retry of its failed images resumes a job." in client.get("/jobs?cancelled=1").text
    assert [store.status_of(each).state for each in jobs] == ["cancelled", "finished", "running"]


def test_several_jobs_are_deleted_after_a_confirmation_that_lists_them(client: FlaskClient, store: JobStore) -> None:
    first, second, other = jobs = [Job(new_id(), name, NOW) for name in ("<b>first", "second", "other")]
    store.create(*jobs)
    chosen = first.job_id, second.job_id, UNKNOWN_ID
    question = select(client, "/jobs/delete/confirm", *chosen).text
    assert "Delete 2 jobs?" in question
    assert ("&lt;b&gt;first" in question, "other" in question) == (True, False)
    assert len(store.existing([each.job_id for each in jobs])) == 3, "nothing is deleted yet"
    assert re.findall(r'name="job" value="(\w+)"', question) == list(chosen[:2])
    assert select(client, "/jobs/delete", *chosen).headers["Location"] == "/jobs"
    assert store.existing([each.job_id for each in jobs]) == {other.job_id}
    assert select(client, "/jobs/delete/confirm", *chosen).headers["Location"] == "/jobs", "they are gone"


def test_a_selected_job_that_is_being_deleted_leaves_the_others_to_be_cancelled(
    client: FlaskClient, store: JobStore, job: Job
) -> None:
    going = Job(new_id(), "going", NOW)
    store.create(going)
    for each in (job, going):
        add_images(store, each, "a.jpg")
    store.table.put_all([deleted_item(going)])
    assert select(client, "/jobs/cancel", going.job_id, job.job_id).headers["Location"] == "/jobs?cancelled=1"
    assert Cancellations(store.table).find([job.job_id, going.job_id]) == {job.job_id}


@pytest.mark.parametrize("path", ["/jobs/cancel", "/jobs/delete/confirm", "/jobs/delete"])
def test_a_selection_is_of_at_least_one_job_and_of_no_more_than_allowed(client: FlaskClient, path: str) -> None:
    assert "no job is selected" in select(client, path).text
    many = select(client, path, *(new_id() for _ in range(job_pages.MAX_SELECTED + 1)))
    assert (many.status_code, "select at most 100" in many.text) == (400, True)
    assert select(client, path, "../etc").status_code == 404
    assert client.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_page_of_a_service_that_failed_names_the_trace_that_the_log_has(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobStore, "jobs", Mock(side_effect=TableBusyError("busy")))
    answer = client.get("/jobs")
    trace_id = answer.headers["traceresponse"].split("-")[1]
    assert (answer.status_code, f"Trace ID: <code>{trace_id}</code>" in answer.text) == (503, True)


@pytest.mark.parametrize("path", ["/jobs?before=x", "/jobs?before=", "/fleet?span=year"])
def test_an_invalid_filter_in_the_address_of_a_list_is_ignored(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, "Newest" in answer.text) == (200, False)


@pytest.mark.parametrize(
    ("path", "thing"),
    [
        ("/jobs/x", "Job"),
        (f"/jobs/{UNKNOWN_ID}", "Job"),
        (f"/jobs/{UNKNOWN_ID}/delete", "Job"),
        (f"/jobs/{UNKNOWN_ID}/images/{UNKNOWN_ID}", "Image"),
    ],
)
def test_a_job_that_does_not_exist_may_have_expired_and_leads_to_the_list(
    make_app: AppMaker, path: str, thing: str
) -> None:
    answer = make_app(retention={"unkept_days": 7.0}).test_client().get(path)
    assert answer.status_code == 404
    for words in (f"{thing} not found", "Jobs that are not kept are deleted after 7 days.", 'href="/jobs"'):
        assert words in answer.text
    never = make_app(retention={"unkept_days": 0}).test_client().get(path)
    assert "It may have been deleted." in never.text


def test_the_page_has_the_limits_of_the_server_for_its_script(make_app: AppMaker) -> None:
    web = {"max_image_bytes": 4096, "max_image_pixels": 5000}
    found = re.search(r"data-limits='([^']*)'", make_app(web=web).test_client().get("/").text)
    assert found is not None
    limits = json.loads(unescape(found[1]))
    names = ("maxBytes", "maxPixels", "maxFiles", "maxRequestBytes", "bootSeconds", "isDirect")
    assert [limits[name] for name in names] == [4096, 5000, 1000, 1_073_741_824, 42.0, False]


def test_pages_may_ask_the_bucket_only_where_they_upload_to_it(make_app: AppMaker) -> None:
    for is_direct, allowed in ((False, "'self'"), (True, "'self' https://fleetsight-input.s3.amazonaws.com")):
        answer = make_app(web={"direct_uploads": is_direct}).test_client().get("/")
        rules = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
        assert rules["connect-src"] == allowed


def test_the_page_explains_what_happens_to_images_that_are_not_kept() -> None:
    start = "Off: the copies here are deleted once classified; thumbnails and results"
    ends = {7.0: "after 7 days.", 1.0: "after 1 day.", 0.5: "after 0.5 days.", 0.0: "stay."}
    assert {days: keep_sentence(days) for days in ends} == {days: f"{start} {end}" for days, end in ends.items()}
