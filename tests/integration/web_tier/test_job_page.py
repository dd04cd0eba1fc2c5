"""The page of a job and what belongs to it, as a browser without JavaScript gets them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from html import unescape
from io import BytesIO

import pytest
from flask.testing import FlaskClient
from PIL import Image

from core.config import Config
from core.ids import new_id, output_key
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import Model, Prediction, Timings
from services.clients import Clients
from services.s3 import Bucket
from tests.support.hostile_images import POLYGLOTS, SCRIPT
from tests.support.jobs import NOW, add_images, done, failed, put_results, record, send_again
from tests.support.pictures import picture
from web_tier.app import create_app


@pytest.fixture
def images(store: JobStore, job: Job) -> list[ImageRecord]:
    """Return three images of the job: done, failed, waiting."""
    found = add_images(store, job, "Beach.jpg", "city.jpg", "dune.jpg")
    put_results(store, job, done(found[0]), failed(found[1]))
    return found


@pytest.fixture
def tiles(client: FlaskClient, job: Job) -> Callable[[str], list[str]]:
    """Return the filenames on the page of a query."""

    def names(query: str) -> list[str]:
        page = client.get(f"/jobs/{job.job_id}?{query}").text.partition("<template")[0]
        return re.findall(r'class="filename"[^>]*>(?:<a[^>]*>)?<bdi>([^<]*)</bdi>', page)

    return names


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["Beach.jpg", "city.jpg", "dune.jpg"]),
        ("state=done", ["Beach.jpg"]),
        ("state=failed", ["city.jpg"]),
        ("state=waiting", ["dune.jpg"]),
        ("label=stop+sign", ["Beach.jpg"]),
        ("label=cat", []),
        ("q=bEAch", ["Beach.jpg"]),
        ("q=.jpg&state=failed", ["city.jpg"]),
        ("view=table&state=failed", ["city.jpg"]),
        ("from=90&to=95", ["Beach.jpg"]),
        ("from=93", ["Beach.jpg"]),
        ("to=92.9", []),
        ("sort=state", ["city.jpg", "dune.jpg", "Beach.jpg"]),
        ("sort=name&q=.jpg", ["Beach.jpg", "city.jpg", "dune.jpg"]),
    ],
)
def test_images_are_filtered_by_state_label_and_name(
    images: list[ImageRecord], tiles: Callable[[str], list[str]], query: str, names: list[str]
) -> None:
    assert tiles(query) == names


@pytest.mark.parametrize("query", ["state=lost", "sort=size", "from=x", "to=101", "from=nan", "sort=name&page=0"])
def test_an_invalid_query_of_a_job_page_gets_400(client: FlaskClient, job: Job, query: str) -> None:
    assert client.get(f"/jobs/{job.job_id}?{query}").status_code == 400


def test_sorted_pages_link_to_the_next_page_in_the_same_order(
    client: FlaskClient, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.pages.job.IMAGES_PER_PAGE", 2)
    add_images(store, job, "c.jpg", "b.jpg", "a.jpg")
    page = client.get(f"/jobs/{job.job_id}?sort=name&from=").text
    [link] = [unescape(link) for link in re.findall(r'href="([^"]*page=[^"]*)"', page)]
    rest = client.get(link).text.partition("<template")[0]
    assert re.findall(r"<bdi>(.\.jpg)</bdi>\s*</span>", rest) == ["c.jpg"]
    assert "page=3" not in rest


def test_a_job_too_large_to_be_sorted_has_a_note(
    client: FlaskClient, images: list[ImageRecord], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.results.query.MAX_SORTED", 2)
    assert "this one has 3, shown in the order of their upload" in client.get(f"/jobs/{job.job_id}?sort=name").text


def test_the_links_of_a_filtered_page_keep_its_query(
    client: FlaskClient, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.pages.job.IMAGES_PER_PAGE", 1)
    add_images(store, job, "a b.jpg", "a b c.jpg")
    page = client.get(f"/jobs/{job.job_id}?q=a+b&state=waiting").text
    links = [unescape(link) for link in re.findall(r'href="([^"]*after=[^"]*)"', page)]
    assert len(links) == 1
    assert "q=a+b" in links[0]
    assert "state=waiting" in links[0]
    assert "a b c.jpg" in client.get(links[0]).text


def test_labels_are_counted_and_link_to_their_images(client: FlaskClient, store: JobStore, job: Job) -> None:
    found = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    put_results(store, job, done(found[0], "cat & dog"), done(found[1], "cat & dog"), done(found[2], "ship"))
    page = client.get(f"/jobs/{job.job_id}").text
    assert re.findall(r'class="number">(\d)</td></tr>', page) == ["2", "1"]
    assert f"/jobs/{job.job_id}?label=cat+%26+dog" in page


def test_rows_have_the_fields_of_a_list(client: FlaskClient, images: list[ImageRecord], job: Job) -> None:
    body = client.get(f"/jobs/{job.job_id}/rows?limit=2").get_json()
    one, two = body["rows"]
    assert one == {
        "id": images[0].ref.image_id, "name": "Beach.jpg", "bytes": 1234, "status": "done", "label": "stop sign",
        "score": 0.93,
    }  # fmt: skip
    assert two["reason"] == "its workers crashed"
    rest = client.get(f"/jobs/{job.job_id}/rows?after={body['next']}").get_json()
    assert [row["status"] for row in rest["rows"]] == ["waiting"]
    assert "next" not in rest


def test_progress_has_figures_and_sentences(client: FlaskClient, images: list[ImageRecord], job: Job) -> None:
    body = client.get(f"/jobs/{job.job_id}/progress").get_json()
    assert [body[name] for name in ("accepted", "done", "failed", "waiting")] == [3, 1, 1, 1]
    assert "not looked at the fleet" in body["sentence"]
    assert body["settled"] is False


def test_an_image_page_has_all_scores_and_the_timeline(
    client: FlaskClient, store: JobStore, job: Job, config: Config, provisioned: Clients
) -> None:
    [image] = add_images(store, job, "a.jpg")
    timings = Timings(queued=1200, fetched=40, decoded=9, inferred=0.2, stored=30)
    clocks = {"queued_at": NOW, "recorded_at": NOW + timedelta(seconds=2)}
    response = done(image, "stop", 0.9).model_copy(update={"timings": timings, "attempts": 2, **clocks})
    put_results(store, job, response)
    labels = json.loads((config.worker.bundle / "bundle.json").read_text(encoding="utf-8"))["labels"]
    chances = tuple(0.9 if label == "stop" else 0.001 for label in labels)
    prediction = Prediction(**response.model_dump(), probabilities=chances)
    Bucket.named(provisioned, config.names.output_bucket).put(
        output_key(image.ref), prediction.to_json().encode(), "application/json"
    )
    page = client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}").text
    for words in ("90.0%", f"All {len(labels)} classes", "90.0000%", "roundabout", "received 2 times", "i-0f3a"):
        assert words in page
    taken = re.findall(
        r'<strong>([^<]*)</strong>.*?class="took">([^<]*)<', page.partition('class="way"')[2], re.DOTALL
    )
    assert [(name, unescape(length)) for name, length in taken if length] == [
        ("received \N{MULTIPLICATION SIGN}2", "1.2 s"), ("fetched", "40 ms"), ("decoded", "9 ms"),
        ("classified", "<1 ms"), ("result stored", "30 ms"),
    ]  # fmt: skip
    for clock in ("12:00:00.000", "12:00:01.200", "12:00:02.000"):
        assert clock in page


def test_row_47_scores_of_another_delivery_are_not_shown(
    client: FlaskClient, store: JobStore, job: Job, config: Config, provisioned: Clients
) -> None:
    """Row 47: another model, or another label, may be stored after a redelivery."""
    [image] = add_images(store, job, "a.jpg")
    response, outputs = done(image, "stop", 0.9), Bucket.named(provisioned, config.names.output_bucket)
    put_results(store, job, response)
    shown = list[bool]()
    for change in ({"model": Model(name="demo", digest="other")}, {"label": "yield"}, {}):
        stored = Prediction(**response.model_copy(update=change).model_dump(), probabilities=(0.9, 0.1))
        outputs.put(output_key(image.ref), stored.to_json().encode(), "application/json")
        shown.append("All 2 classes" in client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}").text)
    assert shown == [False, False, True]


def test_the_page_of_a_failed_or_waiting_image_shows_its_state(
    client: FlaskClient, images: list[ImageRecord], job: Job
) -> None:
    failure, waiting = (client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}") for image in images[1:])
    assert "its workers crashed" in failure.text
    assert "Accepted" in waiting.text


def stored(bucket: Bucket, store: JobStore, job: Job, body: bytes) -> str:
    [image] = add_images(store, job, "a.jpg")
    bucket.put(image.key, body, "image/jpeg")
    return f"/jobs/{job.job_id}/images/{image.ref.image_id}"


def test_a_thumbnail_is_small_and_cached_by_the_browser(
    client: FlaskClient, store: JobStore, job: Job, input_bucket: Bucket
) -> None:
    hidden = b"<script>alert(1)</script>"
    page = stored(input_bucket, store, job, picture("PNG", (800, 600)) + hidden)
    answer = client.get(f"{page}/thumbnail")
    assert (answer.status_code, answer.mimetype) == (200, "image/webp")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"].startswith("private, max-age=3600")
    assert hidden not in answer.data
    assert min(Image.open(BytesIO(answer.data)).size) == 160
    assert min(Image.open(BytesIO(client.get(f"{page}/preview").data)).size) == 600


@pytest.mark.parametrize(
    "kind", ["gif with a page behind it", "jpeg with a zip behind it", "png with a script in a chunk"]
)
def test_row_35_a_polyglot_is_served_as_a_drawn_thumbnail_only(
    kind: str, client: FlaskClient, store: JobStore, job: Job, input_bucket: Bucket
) -> None:
    page = stored(input_bucket, store, job, POLYGLOTS[kind][1]())
    for path, mimetype in (
        (f"{page}/thumbnail", "image/webp"),
        (f"{page}/preview", "image/webp"),
        (page, "text/html"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (200, mimetype)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert SCRIPT not in answer.data


def test_a_deleted_broken_or_too_large_image_has_a_placeholder(
    client: FlaskClient, store: JobStore, job: Job, input_bucket: Bucket, images: list[ImageRecord], config: Config
) -> None:
    large = stored(input_bucket, store, job, picture() + bytes(config.web.max_image_bytes))
    broken = stored(input_bucket, store, job, b"\xff\xd8\xff no jpeg")
    gone = f"/jobs/{job.job_id}/images/{images[0].ref.image_id}"
    for page in (broken, gone, large):
        answer = client.get(f"{page}/thumbnail")
        assert answer.status_code == 302
        assert client.get(answer.headers["Location"], buffered=True).mimetype == "image/svg+xml"


@pytest.mark.parametrize("path", ["", "/thumbnail", "/preview"])
def test_an_image_of_another_job_or_an_unknown_one_gets_404(
    client: FlaskClient, store: JobStore, images: list[ImageRecord], path: str
) -> None:
    other = Job(new_id(), "other", NOW)
    store.create(other)
    for image_id in (images[0].ref.image_id, new_id(), "x"):
        assert client.get(f"/jobs/{other.job_id}/images/{image_id}{path}").status_code == 404


def test_failed_images_are_retried_by_a_form(
    client: FlaskClient, images: list[ImageRecord], job: Job, input_bucket: Bucket
) -> None:
    page = client.get(f"/jobs/{job.job_id}").text
    assert f'action="/jobs/{job.job_id}/retry"' in page
    input_bucket.put(images[1].key, picture(), "image/jpeg")
    answer = client.post(f"/jobs/{job.job_id}/retry")
    assert answer.status_code == 303
    assert "1 failed image requested again." in client.get(answer.headers["Location"]).text


@pytest.mark.parametrize("query", ["", "?view=table", "?sort=name", "?state=waiting"])
def test_a_resend_is_shown_in_the_list_and_on_the_image_page(
    client: FlaskClient, store: JobStore, images: list[ImageRecord], job: Job, query: str
) -> None:
    def of_job() -> str:
        return client.get(f"/jobs/{job.job_id}{query}").text.partition("<template")[0]

    assert "Requested again" not in of_job()
    send_again(store, images[2], times=2)
    page = of_job()
    assert page.count("Requested again \N{MULTIPLICATION SIGN}2: presumed lost") == 1
    assert "The system retried 1 image: a worker failed, or a message was presumed lost." in page
    image = client.get(f"/jobs/{job.job_id}/images/{images[2].ref.image_id}").text
    assert "requested again by the system \N{MULTIPLICATION SIGN}2" in image
    assert "no result for 10 min: its request or its response was presumed lost" in image


def test_one_failed_image_is_retried_from_its_own_page(
    client: FlaskClient, images: list[ImageRecord], job: Job, input_bucket: Bucket
) -> None:
    address = f"/jobs/{job.job_id}/images/{images[1].ref.image_id}"
    assert f'action="{address}/retry"' in client.get(address).text
    input_bucket.put(images[1].key, picture(), "image/jpeg")
    page = client.post(f"{address}/retry", follow_redirects=True).text
    for words in (
        "Requested again",
        "Trying again, since it failed",
        "requested again",
        "waits for a worker once more",
    ):
        assert words in page


def test_one_failed_image_is_retried_from_the_list(
    client: FlaskClient, images: list[ImageRecord], job: Job, input_bucket: Bucket
) -> None:
    address = f"/jobs/{job.job_id}/images/{images[1].ref.image_id}/retry"
    assert client.get(f"/jobs/{job.job_id}").text.count(f'action="{address}"') == 1
    input_bucket.put(images[1].key, picture(), "image/jpeg")
    page = client.post(address, data={"from": "job"}, follow_redirects=True).text.partition("<template")[0]
    assert "1 failed image requested again." in page
    assert "Trying again" in page
    assert f'action="{address}"' not in page


@pytest.mark.parametrize(("number", "words"), [(0, ""), (1, "no longer stored"), (2, "")])
def test_an_image_that_cannot_be_retried_is_unchanged(
    client: FlaskClient, images: list[ImageRecord], job: Job, number: int, words: str
) -> None:
    address = f"/jobs/{job.job_id}/images/{images[number].ref.image_id}"
    page = client.post(f"{address}/retry", follow_redirects=True).text
    assert words in page
    assert "Requested again" not in page


def test_the_page_requests_no_thumbnail_of_an_image_that_is_not_kept(
    client: FlaskClient, store: JobStore, images: list[ImageRecord], job: Job
) -> None:
    def thumbnails() -> list[str]:
        return re.findall(r"images/(\w+)/thumbnail", client.get(f"/jobs/{job.job_id}").text)

    def preview(image: ImageRecord) -> bool:
        return "/preview" in client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}").text

    assert thumbnails() == [image.ref.image_id for image in images[1:]]
    assert [preview(image) for image in images] == [False, True, True]
    assert "deleted as soon as its label is stored" in client.get(f"/jobs/{job.job_id}").text
    store.create(replace(job, keep=True))
    assert len(thumbnails()) == 3
    assert preview(images[0])
    assert "deleted as soon as" not in client.get(f"/jobs/{job.job_id}").text


def test_an_image_answered_from_the_cache_is_marked(client: FlaskClient, store: JobStore, job: Job) -> None:
    first, again = (record(job) for _ in range(2))
    again = replace(again, cached=True)
    store.record_images([first, again], NOW)
    put_results(store, job, done(first), done(again).model_copy(update={"cached": True, "recorded_at": NOW}))
    page = client.get(f"/jobs/{job.job_id}").text.partition("<template")[0]
    assert page.count('class="at-once"') == 1
    [plain, repeated] = (client.get(f"/jobs/{job.job_id}/images/{each.ref.image_id}").text for each in (first, again))
    assert ("classified before" in plain, "classified before" in repeated) == (False, True)


def test_failed_images_that_are_no_longer_stored_are_counted(
    client: FlaskClient, images: list[ImageRecord], job: Job
) -> None:
    answer = client.post(f"/jobs/{job.job_id}/retry", follow_redirects=True)
    assert "1 no longer stored" in answer.text


def test_a_job_is_deleted_after_a_confirmation(client: FlaskClient, store: JobStore, job: Job) -> None:
    question = client.get(f"/jobs/{job.job_id}/delete").text
    assert "do not come back" in question
    assert store.job(job.job_id) == job
    assert client.post(f"/jobs/{job.job_id}/delete").headers["Location"] == "/jobs"
    assert client.get(f"/jobs/{job.job_id}").status_code == 404


@pytest.mark.parametrize("change", ["retry", "delete"])
def test_another_site_cannot_change_a_job(client: FlaskClient, job: Job, change: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert client.post(f"/jobs/{job.job_id}/{change}", headers=headers).status_code == 403


def test_jobs_are_searched_by_name(client: FlaskClient, store: JobStore) -> None:
    for name in ("holiday", "Work", "more holidays"):
        store.create(Job(new_id(), name, NOW))
    page = client.get("/jobs?q=HOLI").text
    assert ("more holidays" in page, "Work" in page) == (True, False)
    assert "No job has" in client.get("/jobs?q=<b>x").text


def test_a_stream_beyond_the_limit_gets_503(config: Config, store: JobStore, job: Job) -> None:
    web = config.web.model_copy(update={"threads": 2})
    client = create_app(config.model_copy(update={"web": web}), store=store).test_client()
    first = client.get(f"/api/v1/jobs/{job.job_id}/events")
    assert first.mimetype == "text/event-stream"
    assert client.get(f"/api/v1/jobs/{job.job_id}/events").status_code == 503
    first.close()
    again = client.get(f"/api/v1/jobs/{job.job_id}/events")
    assert again.status_code == 200
    again.close()


def test_a_stream_of_an_unknown_job_gets_404(client: FlaskClient) -> None:
    assert client.get(f"/api/v1/jobs/{new_id()}/events").status_code == 404


def test_the_fleet_page_polls_figures(client: FlaskClient) -> None:
    body = client.get("/fleet/now").get_json()
    assert (body["known"], body["cost"]) == (False, "$0.00")
