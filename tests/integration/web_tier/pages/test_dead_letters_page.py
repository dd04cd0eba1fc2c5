"""The page of dead letters, as a browser without JavaScript gets it."""

import re
from datetime import timedelta
from html import unescape

import pytest

from core.config import Config
from core.fleet.models import FleetSnapshot
from core.fleet.store import FleetStore
from core.jobs.store import JobStore
from services.table import Table
from tests.support.dead_letters import DeadLetterDesk, address
from tests.support.jobs import NOBODY, NOW
from tests.support.people import Clock, House, PlayedPool, access_of
from web_tier.app import create_app
from web_tier.pages import dead_letters

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def desk(config: Config, store: JobStore) -> DeadLetterDesk:
    return DeadLetterDesk(config, store)


def page_after(desk: DeadLetterDesk, path: str) -> str:
    """Send a form of the page; return the page that it leads to, as text."""
    answer = desk.client.post(path, headers=SAME_SITE)
    assert answer.status_code == 303
    return unescape(desk.client.get(answer.headers["Location"]).text)


def test_an_empty_page_says_what_would_be_listed(desk: DeadLetterDesk) -> None:
    page = desk.client.get("/dead-letters").text
    assert "There are no dead letters." in page
    assert "if workers received it 5 times and stopped or failed each time" in page
    assert "Redrive all" not in page


def test_dead_letters_are_listed_with_file_job_reason_and_tries_and_never_as_markup(desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("<img src=x onerror=alert(1)>.jpg", name="<b>holiday</b>")
    page = desk.client.get("/dead-letters").text
    assert "<img src=x" not in page
    assert "<b>holiday" not in page
    link = f'<a href="/jobs/{image.ref.job_id}/images/{image.ref.image_id}"><bdi>&lt;img src=x'
    assert link in page
    assert "its workers crashed" in page
    assert re.findall(r'<td class="number">(\d+)</td>', page) == ["5", "0"]


def test_row_53_the_age_of_a_dead_letter_is_by_the_controllers_clock(desk: DeadLetterDesk) -> None:
    desk.given_up("a.jpg")
    report = FleetSnapshot(
        at=NOW + timedelta(minutes=5), running=0, pending=0, visible=0, in_flight=0, min_workers=0, max_workers=5,
        peak_workers=0, billed_seconds=0, reason="no work, no workers",
    )  # fmt: skip
    FleetStore(desk.store.table).put_snapshot(report)
    assert ">5 min ago</time>" in desk.client.get("/dead-letters").text


def test_a_dead_letter_is_redriven_from_the_page_once(desk: DeadLetterDesk) -> None:
    image, _ = desk.given_up("a.jpg", "b.jpg")
    order = f"{address(image, '')}/redrive"
    assert order in desk.client.get("/dead-letters").text
    page = page_after(desk, order)
    assert "The image is requested again." in page
    assert ("b.jpg" in page, "a.jpg" in page) == (True, False)
    assert "The image is being tried again already." in page_after(desk, order)
    assert len(desk.queue.bodies) == 1


def test_a_dead_letter_is_discarded_from_the_page(desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a.jpg")
    for _ in range(2):
        page = page_after(desk, f"{address(image, '')}/discard")
        assert "The dead letter is discarded. The image keeps its failed result." in page
        assert "There are no dead letters." in page


def test_all_are_redriven_from_the_page_and_it_says_what_became_of_them(desk: DeadLetterDesk) -> None:
    gone, *_ = desk.given_up("a.jpg", "b.jpg", "c.jpg")
    del desk.bucket.objects[gone.key]
    page = page_after(desk, "/dead-letters/redrive")
    assert "2 images requested again; 1 no longer stored: only a new upload helps." in page
    assert ("a.jpg" in page, "b.jpg" in page) == (True, False)


def test_forms_of_an_older_page_lead_back_to_it(desk: DeadLetterDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "LETTERS_A_PAGE", 2)
    desk.given_up(*"abc")
    first = desk.client.get("/dead-letters").text
    [older] = re.findall(r'href="(/dead-letters\?before=[^"]+)">Older', first)
    page = desk.client.get(older).text
    assert "Redrive all from here on" in page
    [order] = re.findall(r'formaction="([^"]+/discard\?[^"]+)"', page)
    assert desk.client.post(order, headers=SAME_SITE).headers["Location"].startswith(older)
    assert desk.client.get("/dead-letters?before=<b>").status_code == 400


def test_the_fleet_page_links_to_the_dead_letters_and_counts_them(desk: DeadLetterDesk) -> None:
    assert re.search(r'href="/dead-letters">Dead letters</a>', desk.client.get("/fleet").text)
    desk.given_up("a.jpg", "b.jpg")
    assert re.search(r'href="/dead-letters">Dead letters \(2\)</a>', desk.client.get("/fleet").text)


def test_operators_see_what_others_own_and_get_links_only_to_their_own(
    desk: DeadLetterDesk, config: Config, table: Table
) -> None:
    pool, clock = PlayedPool(), Clock()
    access = access_of(table, pool, clock)
    house = House(create_app(config, auth=access), access, pool, clock)
    [own], [others] = desk.given_up("mine.jpg", owner="ops"), desk.given_up("theirs.jpg", owner="ann")
    page = house.operator().get("/dead-letters", base_url="https://localhost").text
    assert f'href="/jobs/{own.ref.job_id}/images/{own.ref.image_id}"' in page
    assert "<bdi>theirs.jpg</bdi>" in page
    assert f"/jobs/{others.ref.job_id}" not in page
    assert house.signed_in("ann").get("/dead-letters", base_url="https://localhost").status_code == 403


@pytest.mark.parametrize("path", ["/dead-letters/redrive", f"/dead-letters/{NOBODY}/{NOBODY}/redrive"])
def test_a_form_on_another_site_redrives_nothing(desk: DeadLetterDesk, path: str) -> None:
    desk.given_up("a.jpg")
    assert desk.client.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert desk.queue.bodies == []
