"""Dead letters for operators, by the API and on their page: listed, redriven, discarded."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest

from core.config import Config
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.store import JobStore
from core.messages import RequestMessage
from services.sqs import OutgoingMessage
from services.table import Table
from tests.support.api import AppMaker, problem
from tests.support.autoscaler import fleet_snapshot
from tests.support.features.dead_letters.desk import DeadLetterDesk, address, give_up
from tests.support.jobs import NOW, client_error, done, failed, put_results, statuses_of
from tests.support.people import PlayedProvider, SignInSite, access_of
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.features.dead_letters import pages as dead_letter_pages
from web_tier.features.dead_letters import redrive


@pytest.fixture
def desk(config: Config, store: JobStore) -> DeadLetterDesk:
    return DeadLetterDesk(config, store)


def test_a_dead_letter_is_shown_with_its_attempts_and_its_reason(desk: DeadLetterDesk, store: JobStore) -> None:
    [image] = desk.given_up("<b>stop</b>.jpg", name="signs")
    shown = desk.call("GET", image).get_json()
    assert shown == {
        "job_id": image.ref.job_id,
        "job_name": "signs",
        "image_id": image.ref.image_id,
        "filename": "<b>stop</b>.jpg",
        "bytes": 1234,
        "accepted_at": "2026-03-01T12:00:00Z",
        "retried_at": None,
        "attempt": 0,
        "tries": 5,
        "error": {"code": "crashed_worker", "message": "its workers crashed"},
        "recorded_at": "2026-03-01T12:00:00Z",
    }
    desk.call("POST", image, "/redrive")
    assert "there is no dead letter of image" in problem(desk.call("GET", image), 404)
    give_up(store, image, attempt=1)
    shown = desk.call("GET", image).get_json()
    assert (shown["attempt"], shown["retried_at"] is None) == (1, False)


def test_row_32_a_dead_letter_that_is_redriven_twice_is_requested_once(desk: DeadLetterDesk, store: JobStore) -> None:
    image, other = desk.given_up("a", "b")
    outcomes = [desk.call("POST", image, "/redrive").get_json()["outcome"] for _ in range(3)]
    assert outcomes == ["sent", "running", "running"]
    assert [RequestMessage.from_json(body).attempt for body in desk.queue.bodies] == [1]
    assert desk.listed() == [other.ref.image_id]
    put_results(store, done(image))
    assert desk.call("POST", image, "/redrive").get_json()["outcome"] == "no_dead_letter"
    assert len(desk.queue.bodies) == 1


def test_row_32_of_many_redrives_at_once_one_is_sent(desk: DeadLetterDesk) -> None:
    [image], together = desk.given_up("a"), Barrier(8)

    def redrive_once(_: int) -> str:
        client = desk.client.application.test_client()
        together.wait(DEADLINE_SECONDS)
        return str(client.post(f"{address(image)}/redrive").get_json()["outcome"])

    with ThreadPoolExecutor(8) as threads:
        outcomes = sorted(threads.map(redrive_once, range(8)))
    assert outcomes == ["running"] * 7 + ["sent"]
    assert len(desk.queue.bodies) == 1


def test_the_dead_letter_of_a_deleted_image_stays_until_it_is_discarded(desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a")
    del desk.bucket.objects[image.key]
    for _ in range(2):
        assert desk.call("POST", image, "/redrive").get_json()["outcome"] == "gone"
        assert desk.listed() == [image.ref.image_id]
    assert desk.call("DELETE", image).status_code == 204
    assert desk.listed() == []
    assert desk.queue.bodies == []


def test_the_dead_letter_of_an_image_that_the_queue_rejects_stays(desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a")
    desk.queue.fails = list
    assert desk.call("POST", image, "/redrive").get_json()["outcome"] == "refused"
    assert desk.listed() == [image.ref.image_id]

    def fail(_: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        raise client_error(500)

    desk.queue.fails = fail
    problem(desk.call("POST", image, "/redrive"), 503)


def test_all_dead_letters_are_redriven_and_counted_by_outcome(desk: DeadLetterDesk) -> None:
    running, gone, *_ = desk.given_up("a", "b", "c")
    desk.given_up("d")
    desk.call("POST", running, "/redrive")
    del desk.bucket.objects[gone.key]
    body = desk.client.post("/api/v1/dead-letters/redrive").get_json()
    assert body == {"sent": 2, "refused": 0, "gone": 1, "running": 0, "next": None}
    body = desk.client.post("/api/v1/dead-letters/redrive").get_json()
    assert (body["sent"], body["gone"], desk.listed()) == (0, 1, [gone.ref.image_id])
    assert len(desk.queue.bodies) == len(desk.queue.image_ids) == 3


def test_more_dead_letters_than_one_call_redrives_are_redriven_by_the_next(
    desk: DeadLetterDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "MAX_REDRIVEN", 2)
    desk.given_up("a", "b", "c")
    first = desk.client.post("/api/v1/dead-letters/redrive").get_json()
    second = desk.client.post(f"/api/v1/dead-letters/redrive?before={first['next']}").get_json()
    assert (first["sent"], second["sent"], second["next"]) == (2, 1, None)
    assert len(desk.queue.image_ids) == 3


def test_a_job_that_is_being_deleted_delays_no_other_and_is_not_redriven(
    desk: DeadLetterDesk, store: JobStore
) -> None:
    [deleted], [kept] = desk.given_up("a"), desk.given_up("b")
    store.table.put_all([{"pk": "DELETED", "sk": deleted.ref.job_id}])
    assert desk.client.post("/api/v1/dead-letters/redrive").get_json()["sent"] == 1
    assert desk.queue.image_ids == {kept.ref.image_id}
    problem(desk.call("POST", deleted, "/redrive"), 404)


def test_a_dead_letter_is_discarded_and_its_result_stays(desk: DeadLetterDesk, store: JobStore) -> None:
    image, other = desk.given_up("a", "b")
    for _ in range(2):
        answer = desk.call("DELETE", image)
        assert (answer.status_code, answer.data) == (204, b"")
    assert desk.listed() == [other.ref.image_id]
    assert statuses_of(store, image.ref.job_id)[image.ref.image_id] == "failed"
    assert desk.call("POST", image, "/redrive").get_json()["outcome"] == "no_dead_letter"
    assert desk.queue.bodies == []


def test_a_dead_letter_of_no_image_is_not_found_and_discarding_it_is_harmless(desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a")
    for path in (f"{image.ref.job_id}/{new_id()}", f"{new_id()}/{image.ref.image_id}"):
        problem(desk.client.get(f"/api/v1/dead-letters/{path}"), 404)
        assert desk.client.delete(f"/api/v1/dead-letters/{path}").status_code == 204
    problem(desk.client.delete("/api/v1/dead-letters/x/y"), 404)
    assert desk.listed() == [image.ref.image_id]


def test_an_image_that_cannot_be_classified_is_no_dead_letter(desk: DeadLetterDesk, store: JobStore) -> None:
    [image] = desk.given_up("a")
    desk.call("POST", image, "/redrive")
    put_results(store, failed(image, code="truncated", attempt=1))
    assert desk.listed() == []
    assert desk.call("POST", image, "/redrive").get_json()["outcome"] == "no_dead_letter"


SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


def test_an_empty_page_has_an_explanation_and_is_in_the_area_of_the_fleet(desk: DeadLetterDesk) -> None:
    page = desk.client.get("/dead-letters").text
    assert 'aria-current="page">Fleet<' in page
    assert "There are no dead letters." in page
    assert "if it ended each process that classified it" in page
    assert "Redrive all" not in page


def test_dead_letters_are_listed_with_file_job_reason_and_tries_and_never_as_markup(desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("<img src=x onerror=alert(1)>.jpg", name="<b>holiday</b>")
    page = desk.client.get("/dead-letters").text
    assert "<img src=x" not in page
    assert "<b>holiday" not in page
    link = f'<a href="/jobs/{image.ref.job_id}/images/{image.ref.image_id}"><bdi>&lt;img src=x'
    assert link in page
    assert "its workers crashed" in page
    assert re.findall(r'<td class="number wide-only">(\d+)</td>', page) == ["5", "0"]


def test_row_53_the_age_of_a_dead_letter_is_by_the_controllers_clock(desk: DeadLetterDesk) -> None:
    desk.given_up("a.jpg")
    report = fleet_snapshot(NOW + timedelta(minutes=5), max_workers=5, reason="no work, no workers")
    FleetStore(desk.store.table).put_snapshot(report)
    assert ">5 min ago</time>" in desk.client.get("/dead-letters").text


def test_forms_of_a_later_page_redirect_back_to_it(desk: DeadLetterDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_pages, "LETTERS_PER_PAGE", 2)
    desk.given_up(*"abc")
    first = desk.client.get("/dead-letters").text
    [older] = re.findall(r'href="(/dead-letters\?before=[^"]+)">Older', first)
    page = desk.client.get(older).text
    assert "Redrive all from here on" in page
    [order] = re.findall(r'formaction="([^"]+/discard\?[^"]+)"', page)
    assert desk.client.post(order, headers=SAME_SITE).headers["Location"].startswith(older)
    assert desk.client.get("/dead-letters?before=<b>").text.count("/discard") == first.count("/discard")
    assert desk.client.post("/dead-letters/redrive?before=<b>", headers=SAME_SITE).status_code == 400


def test_operators_see_all_dead_letters_and_links_only_to_their_own_jobs(
    desk: DeadLetterDesk, make_app: AppMaker, table: Table
) -> None:
    provider = PlayedProvider()
    access = access_of(table, provider)
    site = SignInSite(make_app(auth=access), access, provider)
    [own], [others] = desk.given_up("mine.jpg", owner="ops"), desk.given_up("theirs.jpg", owner="ann")
    page = site.operator().get("/dead-letters", base_url="https://localhost").text
    assert f'href="/jobs/{own.ref.job_id}/images/{own.ref.image_id}"' in page
    assert "<bdi>theirs.jpg</bdi>" in page
    assert f"/jobs/{others.ref.job_id}" not in page
    assert site.signed_in("ann").get("/dead-letters", base_url="https://localhost").status_code == 403
