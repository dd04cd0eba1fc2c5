"""The page of a job and of its images, with the timeline of each, as a browser without JavaScript gets them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import get_args

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from ulid import ULID

from core.config import Config
from core.fleet.store import FleetStore
from core.ids import ImageRef, new_id
from core.jobs.keys import output_key
from core.jobs.lifecycle import Cancellations
from core.jobs.models import ImageRecord, Job, JobState, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Model, Prediction, Timings
from scripts.cli import fleetsight
from services.s3 import Bucket
from tests.conftest import ROOT
from tests.support.autoscaler import fleet_snapshot
from tests.support.jobs import NOW, add_images, done, failed, put_results, request_again
from tests.support.servers import served
from web_tier.pages.image import ImageTimeline
from web_tier.results.query import ImageResult


@pytest.fixture
def images(store: JobStore, job: Job) -> list[ImageRecord]:
    """Return three images of the job: done, failed, waiting."""
    found = add_images(store, job, "Beach.jpg", "city.jpg", "dune.jpg")
    put_results(store, done(found[0]), failed(found[1]))
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
        ("from=90&to=95", ["Beach.jpg"]),
        ("from=93", ["Beach.jpg"]),
        ("to=92.9", []),
        ("sort=state", ["city.jpg", "dune.jpg", "Beach.jpg"]),
        ("sort=name&q=Y.", ["city.jpg"]),
    ],
)
def test_images_are_filtered_by_state_label_and_name(
    images: list[ImageRecord], tiles: Callable[[str], list[str]], query: str, names: list[str]
) -> None:
    assert tiles(query) == names


@pytest.mark.parametrize(
    ("query", "valid"),
    [
        ("state=lost&q=a+b", "?q=a+b"),
        ("sort=size&label=a", "?label=a"),
        ("from=x&to=80", "?to=80"),
        ("to=101", ""),
        ("from=nan", ""),
        ("sort=name&page=0", "?sort=name"),
        ("after=1", ""),
    ],
)
def test_an_address_with_an_invalid_filter_leads_to_the_page_without_it(
    client: FlaskClient, job: Job, query: str, valid: str
) -> None:
    answer = client.get(f"/jobs/{job.job_id}?{query}")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/jobs/{job.job_id}{valid}")
    assert client.get(answer.headers["Location"]).status_code == 200


def downloads(page: str) -> dict[str, str]:
    """Return the addresses of the downloads on a page, by their titles."""
    menu = page.partition('id="downloads"')[2].partition("</ul>")[0]
    return {title: unescape(link) for link, title in re.findall(r'<a href="([^"]*)" download>([^<]*)</a>', menu)}


def test_the_images_of_a_job_that_keeps_them_are_among_its_downloads(client: FlaskClient, store: JobStore) -> None:
    job = Job(new_id(), "kept", NOW, keep=True)
    store.create(job)
    link = downloads(client.get(f"/jobs/{job.job_id}?state=done").text)["Images in folders by label (zip)"]
    assert link == f"/api/v1/jobs/{job.job_id}/images.zip?state=done"


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
    last = client.get(links[0]).text
    assert ("a b c.jpg" in last, "First page" in last, "Next page" in last) == (True, True, False)


def test_labels_are_counted_and_link_to_their_images(client: FlaskClient, store: JobStore, job: Job) -> None:
    found = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    put_results(store, done(found[0], "cat & dog"), done(found[1], "cat & dog"), done(found[2], "ship"))
    page = client.get(f"/jobs/{job.job_id}").text
    facets = page.partition('id="histogram"')[2].partition("</ul>")[0]
    assert re.findall(r'class="count">(\d)</span>', facets) == ["2", "1"]
    assert f"/jobs/{job.job_id}?label=cat+%26+dog" in page


@pytest.mark.parametrize(("unsure", "sure", "is_said"), [(1, 2, False), (2, 1, True), (1, 0, False)])
def test_a_page_says_that_most_images_are_none_of_the_classes(
    client: FlaskClient, store: JobStore, job: Job, config: Config, unsure: int, sure: int, is_said: bool
) -> None:
    manifest = json.loads((config.worker.bundle / "bundle.json").read_text(encoding="utf-8"))
    model = Model(name="demo", digest=f"sha256:{manifest['digest']}")
    found = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    scores = [0.2] * unsure + [0.9] * sure
    results = [done(image, "ship", score) for image, score in zip(found, scores, strict=False)]
    put_results(store, *(result.model_copy(update={"model": model}) for result in results))
    page = client.get(f"/jobs/{job.job_id}").text
    [sentence] = re.findall(r'<p id="unlikely"([^>]*)>', page)
    assert ("hidden" not in sentence) is is_said
    assert f">they may be none of its {len(manifest['labels'])} classes</span>." in page
    assert page.partition("<template")[0].count("Unsure: ship") == unsure


def test_labels_are_in_the_order_of_their_counts_and_then_of_the_alphabet(
    client: FlaskClient, store: JobStore, job: Job
) -> None:
    labels = ("tench", "Indian elephant", "breakwater", "tench", "Boston bull", "black widow")
    found = add_images(store, job, *(f"{number}.jpg" for number in range(len(labels))))
    put_results(store, *(done(image, label) for image, label in zip(found, labels, strict=True)))
    page = client.get(f"/jobs/{job.job_id}").text.partition('id="histogram"')[2].partition("</ul>")[0]
    expected = ["tench", "black widow", "Boston bull", "breakwater", "Indian elephant"]
    assert re.findall(r"<bdi>([^<]*)</bdi>", page) == expected


def test_a_page_with_a_part_of_the_images_counts_none_of_them_for_all(
    client: FlaskClient, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    put_results(store, *map(failed, images))
    request_again(store, images[:1], NOW)

    def shown() -> tuple[str, ...]:
        page = client.get(f"/jobs/{job.job_id}").text
        patterns = (
            r'data-slot="retriable">([^<]*)<',
            r'<p id="found"[^>]*>([^<]*)<',
            r'Unsure</span> <span class="count">(.*)<',
        )
        return tuple(re.findall(pattern, page)[0] for pattern in patterns)

    assert shown() == ("2", "Retrying 1 image.", "0</span>")
    monkeypatch.setattr("web_tier.pages.job.IMAGES_PER_PAGE", 2)
    assert shown() == ("all", "Retrying images.", "</span>")


def test_the_state_of_a_job_is_one_word_on_pages_in_the_api_and_in_the_command(
    client: FlaskClient, store: JobStore
) -> None:
    """Also of a job that is stopped, or cancelled with images that have no result yet."""
    FleetStore(store.table).put_snapshot(fleet_snapshot(datetime.now(UTC)))
    jobs = {name: Job(new_id(), name, NOW) for name in ("empty", "running", "finished", "cancelling", "stopped")}
    for job in jobs.values():
        store.create(job)
        images = add_images(store, job, *(["a.jpg"] if job.name != "empty" else []))
        if job.name in {"finished", "stopped"}:
            put_results(store, *map(failed, images))
    Cancellations(store.table).cancel(jobs["cancelling"].job_id, NOW)
    Cancellations(store.table).cancel(jobs["stopped"].job_id, NOW, "1 of 1 images failed, more than 5%")
    with served(client.application) as url:
        command = CliRunner().invoke(fleetsight, ["jobs", "--url", url]).output.splitlines()
    listed, states = client.get("/jobs").text, set[str]()
    for job_id in (job.job_id for job in jobs.values()):
        state = client.get(f"/api/v1/jobs/{job_id}").get_json()["state"]
        states.add(state)
        assert f'<tr id="{job_id}" data-state="{state}">' in listed
        row = listed.partition(f'<tr id="{job_id}"')[2].partition("</tr>")[0]
        assert set(re.findall(r'<span class="pill[^"]*">([^<]*)<', row)) == {state}
        assert re.findall(r'id="state" class="[^"]*">([^<]*)<', client.get(f"/jobs/{job_id}").text) == [state]
        assert client.get(f"/jobs/{job_id}/progress").get_json()["words"] == state
        assert state in next(line for line in command if job_id in line).split()
    assert states == set(get_args(JobState))
    sentence = re.search(r"States of a job: (.*)\.", (ROOT / "docs" / "classify.md").read_text("utf-8"))
    assert sentence is not None
    assert set(re.findall(r"\*\*(\w+)\*\*", sentence[1])) == states


def test_an_address_of_an_open_image_leads_to_its_page_without_javascript(
    client: FlaskClient, images: list[ImageRecord], job: Job
) -> None:
    own = f"/jobs/{job.job_id}/images/{images[0].ref.image_id}"
    page = client.get(f"/jobs/{job.job_id}?image={images[0].ref.image_id}").text
    assert f'<noscript><meta http-equiv="refresh" content="0; url={own}"></noscript>' in page
    assert client.get(f'/jobs/{job.job_id}?image="><b>').headers["Location"] == f"/jobs/{job.job_id}"


def test_row_47_scores_of_another_delivery_are_not_shown(
    client: FlaskClient, store: JobStore, job: Job, output_bucket: Bucket
) -> None:
    """Row 47: another model, or another label, may be stored after a redelivery."""
    [image] = add_images(store, job, "a.jpg")
    response = done(image, "stop", 0.9)
    put_results(store, response)
    shown = list[bool]()
    for change in ({"model": Model(name="demo", digest="other")}, {"label": "yield"}, {}):
        stored = Prediction(**response.model_copy(update=change).model_dump(), probabilities=(0.9, 0.1))
        output_bucket.put(output_key(image.ref), stored.to_json().encode(), "application/json")
        shown.append("All 2 classes" in client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}").text)
    assert shown == [False, False, True]


@pytest.mark.parametrize("path", ["", "/thumbnail", "/preview"])
def test_an_image_of_another_job_or_an_unknown_one_gets_404(
    client: FlaskClient, store: JobStore, images: list[ImageRecord], path: str
) -> None:
    other = Job(new_id(), "other", NOW)
    store.create(other)
    for image_id in (images[0].ref.image_id, new_id(), "x"):
        assert client.get(f"/jobs/{other.job_id}/images/{image_id}{path}").status_code == 404


@pytest.mark.parametrize(("number", "words"), [(0, ""), (1, "no longer stored"), (2, "")])
def test_an_image_that_cannot_be_retried_is_unchanged(
    client: FlaskClient, images: list[ImageRecord], job: Job, number: int, words: str
) -> None:
    address = f"/jobs/{job.job_id}/images/{images[number].ref.image_id}"
    page = client.post(f"{address}/retry", follow_redirects=True).text
    assert words in page
    assert "Requested again" not in page


def test_the_page_says_what_is_deleted_of_a_job_that_is_not_kept(
    client: FlaskClient, store: JobStore, images: list[ImageRecord], job: Job
) -> None:
    def says_deleted() -> list[bool]:
        page = f"/jobs/{job.job_id}"
        paths = [page, *(f"{page}/images/{image.ref.image_id}" for image in images)]
        return ["deleted once classified" in client.get(path).text for path in paths]

    assert says_deleted() == [True, True, False, False]
    store.create(replace(job, keep=True))
    assert says_deleted() == [False] * 4


def test_failed_images_that_are_no_longer_stored_are_counted(
    client: FlaskClient, images: list[ImageRecord], job: Job
) -> None:
    answer = client.post(f"/jobs/{job.job_id}/retry", follow_redirects=True)
    assert "1 no longer stored" in answer.text


TIMINGS = Timings(queued=1_200, fetched=40, decoded=9, inferred=0.2, stored=30)


def after(**length: float) -> datetime:
    return NOW + timedelta(**length)


RECORD = ImageRecord(
    ImageRef(new_id(), str(ULID.from_datetime(NOW))), "a.jpg", "jpg", (1,), accepted_at=after(milliseconds=30)
)
DONE = ClassificationResult(
    job_id=RECORD.ref.job_id, image_id=RECORD.ref.image_id, status="done", label="stop", score=0.9, worker="i-1",
    attempts=1, timings=TIMINGS, queued_at=after(milliseconds=40), recorded_at=after(seconds=2),
)  # fmt: skip


def steps(
    record: ImageRecord, response: ClassificationResult | None
) -> list[tuple[str, datetime | None, float | None]]:
    return [
        (step.name, step.at, step.milliseconds)
        for step in ImageTimeline.from_result(ImageResult(record, response)).steps
    ]


def sent_again(seconds: float, attempt: int = 0) -> Resend:
    return Resend(attempt, after(seconds=seconds), after(seconds=seconds), waited_seconds=600)


def test_the_web_tier_has_not_checked_an_image_from_s3() -> None:
    first = ImageTimeline.from_result(ImageResult(RECORD, DONE), is_from_s3=True).steps[0]
    assert (first.name, first.note) == ("accepted", "listed in S3 by the controller")


def test_an_image_received_more_than_once_shows_how_often_and_why() -> None:
    step = ImageTimeline.from_result(ImageResult(RECORD, DONE.model_copy(update={"attempts": 3}))).steps[3]
    assert step.name == "received \N{MULTIPLICATION SIGN}3"
    assert step.note.endswith("2 receives ended without an answer: a worker stopped or failed")


def test_a_resend_has_its_time_and_reason() -> None:
    timeline = ImageTimeline.from_result(ImageResult(RECORD, None, sent_again(600)))
    [step] = [step for step in timeline.steps if step.name == "requested again by the system"]
    assert step.at == after(minutes=10)
    assert step.note == "no result for 10 min: its request or its response was presumed lost"
    again = replace(sent_again(1_800), first_at=after(minutes=10), times=2)
    step = ImageTimeline.from_result(ImageResult(RECORD, None, again)).steps[2]
    assert step.name == "requested again by the system \N{MULTIPLICATION SIGN}2"
    assert step.note.endswith("; the first time at 12:10:00.000")


def test_a_waiting_image_has_its_steps_until_now() -> None:
    assert [name for name, _, _ in steps(RECORD, None)] == ["accepted", "stored", "queued"]
    timeline = ImageTimeline.from_result(ImageResult(RECORD, None))
    assert (timeline.steps[-1].state, timeline.total) == ("open", None)


@pytest.mark.parametrize("ahead", [-600, 600])
def test_row_53_the_total_does_not_depend_on_clocks_and_a_contradiction_is_named(ahead: int) -> None:
    at = after(seconds=ahead)
    ref = replace(RECORD.ref, image_id=str(ULID.from_datetime(at)))
    timeline = ImageTimeline.from_result(
        ImageResult(replace(RECORD, ref=ref, accepted_at=at + timedelta(milliseconds=30)), DONE)
    )
    assert timeline.total == 1_279.2
    assert (timeline.contradiction is not None) == (ahead > 0), "a clock that is behind contradicts nothing"
