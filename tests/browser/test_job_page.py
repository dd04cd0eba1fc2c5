"""The pages of a job and of an image: live to the end, of any size, without JavaScript, on a phone, by keyboard."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, ViewportSize, expect

from app_tier import central_crop
from core.ids import ImageRef, input_key, new_id
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import Cancellations
from core.jobs.models import AcceptedCount, Counts, ImageRecord, MinScores
from core.messages import LabelScore
from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from tests.browser.conftest import (
    LONG_FINISHED,
    SMALL,
    FaultsOf,
    Options,
    PageFaults,
    WrittenJob,
    answer_of,
    expect_live,
)
from tests.support.jobs import LATEST_TOKEN, done, failed, move_border, request_again, send_again
from tests.support.systems import crashed_images
from tests.support.waiting import wait_until
from web_tier.http.assets import STATIC, assets_hash

pytestmark = pytest.mark.processes

PHONE_SIZE: ViewportSize = {"width": 390, "height": 844}
PHONE = {"viewport": PHONE_SIZE, "has_touch": True}
NO_SCRIPT = {"java_script_enabled": False}
MARKUP = "<img src=x onerror=alert(1)>.jpg"
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
AT_THE_END = """
() => {
    scrollTo(0, document.documentElement.scrollHeight);
    return [...document.querySelectorAll("#list bdi")].at(-1)?.textContent === "IMG_09999.jpg";
}
"""


def upload(api: ApiClient, count: int, seed: int) -> str:
    """Upload drawn signs; return the path of their job's page."""
    job_id = api.create_job("signs")
    drawn = list(samples(count, seed, SMALL))
    assert len(api.add_images(job_id, [(sample.filename, sample.data) for sample in drawn]).accepted) == count
    return f"/jobs/{job_id}"


def finish_in_steps(written: WrittenJob, starts: range) -> None:
    for first in starts:
        written.finish(first, first + starts.step)


def open_live(page: Page, path: str) -> None:
    """Open a job's page and wait until its list is the script's: before that, links lead to pages of their own."""
    page.goto(path)
    expect_live(page)


@contextmanager
def rows_held(page: Page, path: str, rows: str) -> Iterator[None]:
    """Open the page of a job; within the block it waits for its rows at the given addresses."""
    held, is_over = list[Route](), threading.Event()

    def hold(route: Route) -> None:
        if is_over.is_set():
            route.continue_()
        else:
            held.append(route)

    page.route(rows, hold)
    with page.expect_request(rows):
        page.goto(path)
    yield
    is_over.set()
    for route in held:  # more than one if the page has waited for too long
        route.continue_()


@contextmanager
def list_of_the_server(page: Page, path: str) -> Iterator[None]:
    """Show the page of a job with the list that the server has rendered; afterwards its script takes over."""
    with rows_held(page, path, "**/rows?*"):
        expect(page.locator("#list a.open").first).not_to_have_attribute("data-id", re.compile("."))
        yield
    expect_live(page)


def test_an_image_keeps_the_focus_when_the_script_takes_over_the_list(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(20)
    written.finish(0, 20)
    with list_of_the_server(page, written.path):
        page.locator("#list a.open").nth(3).focus()
    expect(page.locator("#list a.open[data-id]").nth(3)).to_be_focused()


def test_pictures_stay_when_the_script_takes_over_the_list_and_broken_ones_are_loaded_again(
    page: Page, page_faults: PageFaults, api: ApiClient
) -> None:
    page_faults.expect("503")
    path = upload(api, 3, seed=91)
    wait_until(lambda: api.status(path.rpartition("/")[2])["done"] == 3, "all have labels")
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=503)
        else:
            route.fulfill(body=DRAWING, content_type="image/svg+xml")

    page.route("**/thumbnail", answer)
    pictures = page.locator("#list img")

    def loaded() -> list[str | None]:
        titles: list[str | None] = pictures.evaluate_all(
            "all => all.map(({ naturalWidth, title }) => naturalWidth ? title : null)"
        )
        return titles

    with list_of_the_server(page, path):
        wait_until(lambda: loaded().count("") == 2, "one is broken")
        pictures.evaluate_all("all => { for (const picture of all) picture.title = 'server' }")
    wait_until(lambda: loaded() == ["server"] * 3, "two pictures stayed, the broken one was loaded again")
    assert (len(asked), len(set(asked))) == (4, 3)


def open_menu(page: Page, name: str) -> Locator:
    """Open a menu of the page and return its card."""
    page.locator("[popovertarget]:visible").filter(has_text=name).click()
    return page.locator(":popover-open")


def tiles(page: Page) -> list[str]:
    return page.locator("#list .filename bdi").all_inner_texts()


def test_results_arrive_by_themselves_to_the_end(page: Page, api: ApiClient) -> None:
    page.goto(upload(api, 20, seed=1))
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator('[data-slot="done"]')).to_have_text("20")
    expect(page.locator(".tile.done")).not_to_have_count(0)
    expect(page.locator(".tile.waiting")).to_have_count(0)
    expect(page.locator("#histogram li")).not_to_have_count(0)
    expect(page.locator("#announcement")).to_have_text(re.compile(r"^All 20 images done in \d+ s\.$"))
    # Without an address a picture has not been asked for yet.
    expect(page.locator("#list img[src]")).not_to_have_count(0)
    broken = "all => all.filter((image) => image.complete && image.naturalWidth === 0).length"
    assert page.locator("#list img[src]").evaluate_all(broken) == 0


@pytest.mark.parametrize("page_options", [{"reduced_motion": "no-preference"}])
def test_a_live_page_is_drawn_only_when_something_changes(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    """A browser draws each step of an animation, on the cores that classify if they are those of the same machine."""
    written = write_job(30)
    open_live(page, written.path)
    expect(page.locator("#state")).to_have_text("running")
    written.finish(0, 10)
    expect(page.locator(".tile.done")).to_have_count(10)
    wait_until(lambda: page.evaluate("document.getAnimations().length") == 0, "labels have appeared")
    expect(page.locator("#state")).to_have_text("running")


def test_a_reload_in_the_middle_goes_on_where_the_job_is(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(30)
    written.finish(0, 10)
    page.goto(written.path)
    expect(page.locator('[data-slot="done"]')).to_have_text("10")
    page.reload()
    expect(page.locator(".tile.done")).to_have_count(10)
    written.finish(10, 30)
    expect(page.locator(".tile.done")).to_have_count(30)
    expect(page.locator("#state")).to_have_text("finished")


def test_images_that_are_added_while_the_page_is_open_appear(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(3)
    page.goto(written.path)
    expect(page.locator(".tile")).to_have_count(3)
    ref = ImageRef(written.job.job_id, new_id())
    late = ImageRecord(ref, "late.jpg", input_key(ref, "jpg"), 10, datetime.now(UTC))
    written.store.record_images([late], datetime.now(UTC))
    JobFigures(written.store.table).put_accepted_count(written.job.job_id, "test", AcceptedCount(4))
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.locator('[data-slot="accepted"]')).to_have_text("4")


def test_images_are_filtered_sorted_and_searched_at_once(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    folders = tuple(f"trip/{'day 1' if index < 20 else 'day 2'}/IMG_{index:05}.jpg" for index in range(50))
    written = write_job(50, filenames=folders)
    written.finish(0, 40, failures=5)
    open_live(page, written.path)
    shown, facets = page.locator("#shown"), page.locator("#facets")
    for name, count in (("Unsure 1", 1), ("Failed 5", 5), ("Waiting 10", 10), ("Labelled 35", 35)):
        page.get_by_role("link", name=name).click()
        expect(shown).to_have_text(f"{count} of 50 images")
    page.get_by_role("link", name="Unsure 1").click()
    expect(page).to_have_url(re.compile(r"\?state=unsure$"))
    expect(page.locator("#list .unsure .label")).to_have_text("stop")
    page.get_by_role("link", name="All 50").click()
    expect(shown).to_be_empty()
    facets.get_by_role("link", name="parking 7").click()
    expect(page.locator("#list .tile")).to_have_count(7)
    expect(page).to_have_url(re.compile(r"\?label=parking$"))
    page.reload()
    expect_live(page)
    expect(page.locator("#list .tile")).to_have_count(7)
    order = open_menu(page, "Order and score")
    order.get_by_label("Order").select_option("sure")

    def scores() -> list[int]:
        return [int(text.rstrip("%")) for text in page.locator("#list .score").all_inner_texts()]

    wait_until(lambda: scores() == sorted(scores(), reverse=True), "the list is drawn in its order")
    facets.get_by_role("link", name="parking 7").click()
    facets.get_by_role("link", name="day 1 20").click()
    expect(shown).to_have_text("20 of 50 images")
    expect(page.get_by_role("searchbox")).to_have_value("trip/day 1/")
    page.get_by_role("searchbox").fill("img_0004")
    expect(shown).to_have_text("10 of 50 images")
    page.get_by_role("button", name="List", exact=True).click()
    expect(page.locator("#list .tile").nth(9)).to_contain_text("IMG_0004")
    page.get_by_role("searchbox").fill("")
    open_menu(page, "Order and score")
    order.get_by_label("Score from, in percent").fill("60")
    order.get_by_label("Score to, in percent").fill("65")
    expect(shown).to_have_text("6 of 50 images")
    expect(page).to_have_url(re.compile(r"from=60&to=65"))
    page.reload()
    expect_live(page)
    expect(shown).to_have_text("6 of 50 images")
    page.get_by_role("searchbox").fill("nothing like it")
    expect(page.locator("#nothing")).to_contain_text("No images match.")
    page.get_by_role("link", name="Clear the filters").click()
    expect(shown).to_be_empty()


@pytest.mark.parametrize("size", [{"width": 1280, "height": 720}, PHONE_SIZE])
def test_the_first_screen_of_a_finished_job_has_images_and_what_was_found(
    page: Page, write_job: Callable[..., WrittenJob], size: ViewportSize
) -> None:
    page.set_viewport_size(size)
    written = write_job(300, name="camera trap in June, the northern half of the forest and its meadows")
    written.finish(0, 300, failures=2, seconds_ago=LONG_FINISHED)
    open_live(page, written.path)
    expect(page.locator("#found")).to_have_text(
        re.compile(r"^All 300 images done in .* \(2 failed\)\.$"),
    )
    expect(page.get_by_role("link", name="Review 6 unsure")).to_be_in_viewport()
    box = page.locator("#list .tile").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= size["height"]
    open_menu(page, "Details")
    expect(page.locator("#details")).to_be_in_viewport(ratio=1)


def test_no_number_is_shown_that_counts_up_as_if_it_were_final(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(1_200)
    written.finish(0, 1_200, seconds_ago=LONG_FINISHED)
    unsure, count = page.locator('.chip[data-state="unsure"]'), page.locator("#histogram .count").first
    with rows_held(page, written.path, "**/rows?*after=*"):
        expect_live(page)
        expect(unsure).to_have_text(re.compile(r"^Unsure\s*$"))
        expect(page.locator("#histogram a").first).to_be_hidden()  # its order would change under the pointer
        expect(page.locator("#start-review")).to_have_text("Review")
    expect(unsure).to_have_text("Unsure 24")
    expect(count).to_have_text("240")
    expect(page.locator("#start-review")).to_have_text("Review 24 unsure")


def test_rows_that_never_come_are_read_again(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    page.add_init_script(
        "const { timeout } = AbortSignal; AbortSignal.timeout = (ms) => timeout.call(AbortSignal, ms / 10)"
    )
    written = write_job(1_200)
    written.finish(0, 1_200, seconds_ago=LONG_FINISHED)
    page.route("**/rows?*after=*", lambda _route: None, times=1)  # never answered
    open_live(page, written.path)
    expect(page.locator('.chip[data-state="unsure"]')).to_have_text("Unsure 24")


def test_the_size_of_the_pictures_is_kept(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(40)
    open_live(page, written.path)
    tile = page.locator("#list .tile").first

    def width() -> float:
        box = tile.bounding_box()
        assert box is not None
        return box["width"]

    medium = width()
    page.get_by_role("button", name="Large").click()
    large = width()
    assert large > 1.3 * medium
    page.reload()
    expect_live(page)
    expect(page.get_by_role("button", name="Large")).to_have_attribute("aria-pressed", "true")
    assert width() == large
    page.get_by_role("button", name="Small").click()
    expect(page.locator("#list .tile")).to_have_count(40)
    assert width() < medium


def test_an_image_opens_with_its_scores_and_steps_to_the_next_by_keyboard(page: Page, api: ApiClient) -> None:
    open_live(page, upload(api, 3, seed=2))
    expect(page.locator(".tile.done")).to_have_count(3)
    first, second, _ = tiles(page)
    page.locator(".tile .open").first.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("#panel")
    expect(viewer).to_contain_text(first)
    expect(viewer).to_contain_text("queued")
    viewer.get_by_text("All 30 classes").click()
    expect(viewer.locator(".all-scores tr")).to_have_count(30)
    page.locator(".tile .open").first.focus()
    page.keyboard.press("ArrowRight")
    expect(viewer).to_contain_text(second)
    expect(page.locator(".tile:has([aria-current]) .filename")).to_have_text(second)
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".tile .open").nth(1)).to_be_focused()
    page.set_viewport_size({"width": 900, "height": 800})
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(second)
    page.keyboard.press("k")
    expect(dialog).to_contain_text(first)
    for _ in range(2):  # a browser lets a page hold only the first one
        page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9A-Z]{26}$"))


def test_an_open_image_shows_its_thumbnail_until_its_picture_is_loaded(page: Page, api: ApiClient) -> None:
    delayed: list[Route] = []

    def delay(route: Route) -> None:
        delayed.append(route)

    page.route("**/preview", delay)
    open_live(page, upload(api, 1, seed=2))
    with page.expect_request("**/preview"):
        page.locator(".tile.done .open").click()
    picture = page.locator("#viewed #image .shown img")
    expect(picture).to_have_css("background-image", re.compile("/thumbnail"))
    delayed.pop().continue_()
    expect(picture).to_have_css("background-image", "none")


def test_back_closes_the_image_and_then_undoes_the_filters(
    page: Page, page_faults: PageFaults, write_job: Callable[..., WrittenJob]
) -> None:
    page_faults.expect("/preview)")  # a job of records only has no pictures
    written = write_job(20)
    written.finish(0, 20, failures=2)
    page.goto("/jobs")
    open_live(page, written.path)
    shown, search, panel = page.locator("#shown"), page.get_by_role("searchbox"), page.locator("#panel")
    page.get_by_role("link", name="Labelled 18").click()
    search.press_sequentially("IMG_0001")
    expect(shown).to_have_text("8 of 20 images")
    page.locator("#list a.open").first.click()
    expect(panel).to_contain_text("1 of 8")
    page.get_by_role("button", name="Next image").click()
    expect(panel.locator("h1")).to_contain_text("IMG_00011.jpg")
    link = page.url
    page.go_back()
    expect(panel).to_be_hidden()
    expect(shown).to_have_text("8 of 20 images")
    page.go_back()
    expect(search).to_have_value("")
    expect(shown).to_have_text("18 of 20 images")
    page.go_back()
    expect(shown).to_be_empty()
    expect(page).to_have_url(re.compile(f"{written.path}$"))
    page.go_forward()
    expect(shown).to_have_text("18 of 20 images")

    page.goto(link)  # as someone who was sent it
    expect(panel.locator("h1")).to_contain_text("IMG_00011.jpg")
    expect(panel).to_contain_text("2 of 8")
    expect(search).to_have_value("IMG_0001")
    expect(page.locator(".tile:has([aria-current]) .filename")).to_have_text("IMG_00011.jpg")
    page.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()
    expect(page).to_have_url(re.compile(r"\?state=done&q=IMG_0001$"))


def test_keys_move_in_the_list_unless_the_user_types_or_has_turned_them_off(
    page: Page, page_faults: PageFaults, write_job: Callable[..., WrittenJob]
) -> None:
    page_faults.expect("/preview)")
    written = write_job(20)
    written.finish(0, 20)
    open_live(page, written.path)
    links, name = page.locator("#list a.open"), page.locator("#panel h1 bdi")
    columns = page.locator("#list").evaluate("list => getComputedStyle(list).gridTemplateColumns.split(' ').length")
    page.keyboard.press("j")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(links.nth(columns)).to_be_focused()
    page.keyboard.press("k")
    expect(links.nth(columns - 1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(name).to_have_text(f"IMG_{columns - 1:05}.jpg")
    page.keyboard.press("Control+j")
    page.keyboard.press("ArrowLeft")
    expect(name).to_have_text(f"IMG_{columns - 2:05}.jpg")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Previous image")).to_be_focused()
    page.keyboard.press("Escape")
    expect(links.nth(columns - 2)).to_be_focused()
    page.keyboard.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    page.keyboard.type("j/?")
    expect(search).to_have_value("j/?")
    search.fill("")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("Use these shortcuts").uncheck()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    links.nth(3).focus()
    page.keyboard.press("j")
    open_live(page, written.path)
    links.nth(3).focus()
    page.keyboard.press("j")
    expect(links.nth(3)).to_be_focused()


def test_a_lost_connection_is_shown_until_it_is_back(
    page: Page, page_faults: PageFaults, write_job: Callable[..., WrittenJob]
) -> None:
    page_faults.expect("net::ERR")
    written = write_job(4)
    written.finish(0, 1)
    page.route("**/events*", lambda route: route.abort())
    page.route("**/progress", lambda route: route.abort())
    page.goto(written.path)
    banner = page.get_by_role("alert")
    expect(banner).to_have_text(re.compile(r"^Connection lost\. Retrying… Figures are from \d\d:\d\d:\d\d\.$"))
    written.finish(1, 3)
    page.unroute("**/progress")
    page.unroute("**/events*")
    expect(banner).to_have_count(0)
    expect(page.locator(".tile.done")).to_have_count(3)


def test_a_stream_that_is_silent_is_replaced_by_polls(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    """A machine that disappears ends no connection."""
    written = write_job(2)
    page.clock.install()
    page.route("**/events*", lambda _: None)
    page.goto(written.path)
    written.finish(0, 2)
    expect(page.locator("#list .tile.waiting")).to_have_count(2)
    page.clock.fast_forward(26_000)
    expect(page.locator(".tile.done")).to_have_count(2)


def test_labels_beyond_the_most_frequent_are_expanded(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(25)
    results = [answer_of(image, index) for index, image in enumerate(written.images)]
    written.store.put_done(
        [result.model_copy(update={"label": f"label {number}"}) for number, result in enumerate(results)]
    )
    open_live(page, written.path)
    labels = page.locator("#histogram li:visible")
    expect(page.get_by_text("and 5 more")).to_be_visible()
    expect(labels).to_have_count(20)
    page.get_by_text("and 5 more").click()
    expect(labels).to_have_count(25)
    labels.last.get_by_role("link").click()
    expect(page.locator("#shown")).to_have_text("1 of 25 images")
    labels.last.get_by_role("link").click()
    expect(page.locator("#shown")).to_be_empty()


def test_a_job_that_another_tab_deletes_leads_to_the_jobs_and_says_so(
    page: Page, page_faults: PageFaults, api: ApiClient
) -> None:
    page_faults.expect("404")
    path = upload(api, 2, seed=9)
    open_live(page, path)
    with page.context.expect_page() as opened:
        page.evaluate("open(location.pathname + '/delete')")
    opened.value.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile(r"/jobs\?deleted=1$"))
    expect(page.get_by_role("status").first).to_have_text("The job was deleted.")
    page.goto(path)
    expect(page.get_by_role("heading", name="Job not found")).to_be_visible()


def test_the_next_action_on_a_finished_job_deleted_elsewhere_opens_the_list_of_jobs(
    page: Page, page_faults: PageFaults, api: ApiClient, write_job: Callable[..., WrittenJob]
) -> None:
    page_faults.expect("404")
    for act in (
        page.locator("#list a.open").first.click,
        page.locator("#list .failed form.retry-one button").click,
        lambda: page.evaluate("document.dispatchEvent(new Event('visibilitychange'))"),  # the user comes back
    ):
        written = write_job(3)
        written.finish(0, 3, failures=1, seconds_ago=LONG_FINISHED)
        open_live(page, written.path)
        expect(page.locator("#state")).not_to_have_class(re.compile("live"))
        api.delete(written.job.job_id)
        act()
        expect(page).to_have_url(re.compile(r"/jobs\?deleted=1$"))
        expect(page.get_by_role("status").first).to_have_text("The job was deleted.")


def test_a_finished_job_retried_or_decided_elsewhere_is_updated_when_the_page_is_visible_again(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(3)
    written.finish(0, 3, failures=1, seconds_ago=LONG_FINISHED)
    open_live(page, written.path)
    figures = page.locator('[data-slot="done"], .chip[data-state="failed"] .count')
    expect(figures).to_have_text(["2", "1"])
    expect(page.locator("#state")).not_to_have_class(re.compile("live"))
    counts = JobFigures(written.store.table).counts(written.job.job_id)
    written.store.put_done([answer_of(written.images[2], 2)])
    JobFigures(written.store.table).store_counts(
        written.job.job_id, replace(counts, done=3, failed=0), token=LATEST_TOKEN
    )
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(figures).to_have_text(["3", "0"])
    expect(page.locator("#list .tile.done")).to_have_count(3)
    page.locator("[popovertarget=details]").click()
    for border, unsure, words in (
        (MinScores(0.515), 2, "below 51.5%"),
        (MinScores(0.1, {"x": 0.2}), 0, "below 10%; some labels have their own"),
    ):
        move_border(written.store, written.job.job_id, border, datetime.now(UTC))
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#list .tile.unsure")).to_have_count(unsure)
        expect(page.locator("#details dd", has_text="below")).to_contain_text(words)
        expect(page.locator("#below")).to_have_value(f"{100 * border.every:g}")
        expect(page.locator(".chip[data-state='unsure']")).to_have_attribute("title", f"Images with a score {words}")
        doubt = f"their scores are {words}" if border.every > 0.5 else re.compile("they may be none of its")
        expect(page.locator("#doubt")).to_have_text(doubt)


def test_the_filters_of_a_large_running_job_are_on_one_line(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(1_300)
    written.finish(0, 1_200, failures=150)
    for width in (1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        open_live(page, written.path)
        expect(page.get_by_role("link", name="Unsure 21")).to_be_visible()
        middles = page.locator("#filters > :visible").evaluate_all(
            "all => all.map((each) => each.getBoundingClientRect()).map(({ top, bottom }) => (top + bottom) / 2)"
        )
        assert max(middles) - min(middles) <= 2, width
        assert page.locator("#filters .chips").evaluate("(chips) => chips.scrollWidth <= chips.clientWidth"), width
        edges = "(each) => ['left', 'right'].map((side) => Math.round(each.getBoundingClientRect()[side]))"
        assert page.locator("#filters").evaluate(edges) == [0, width], "the whole width is used"


def test_all_is_marked_only_without_a_filter_and_removes_each(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(50)
    written.finish(0, 40)
    open_live(page, written.path)
    chips, every = page.locator("#filters .chip[aria-current]"), page.locator('[data-state=""]')
    expect(chips).to_have_text(["All 50"])
    for name in ("Unsure 1", "Labelled 40"):
        page.get_by_role("link", name=name).click()
        expect(chips).to_have_text([name])
    every.click()
    expect(chips).to_have_text(["All 50"])
    filters: tuple[Callable[[], object], ...] = (
        page.locator("#histogram a").first.click,
        lambda: page.get_by_role("searchbox").fill("img_0004"),
        lambda: open_menu(page, "Order and score").get_by_label("Score from, in percent").fill("60"),
    )
    for add_filter in filters:
        add_filter()
        expect(chips).to_have_count(0)
        every.click()
        expect(page.locator("#shown")).to_be_empty()
        expect(chips).to_have_text(["All 50"])
    page.goto(f"{written.path}?reviewed=false")
    expect_live(page)
    expect(chips).to_have_count(0)


def test_a_long_name_leaves_the_buttons_of_a_job_in_their_place_when_it_finishes(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(200, name="n01440764_tench and 199 more")
    written.finish(0, 100)
    open_live(page, written.path)
    actions, title = page.locator(".actions"), page.locator("h1")
    before = [actions.bounding_box(), title.bounding_box()]
    written.finish(100, 200)
    expect(page.locator("#state")).to_have_text("finished")
    buttons, heading = actions.bounding_box(), title.bounding_box()
    assert buttons is not None
    assert heading is not None
    assert buttons["y"] < heading["y"] < heading["y"] + heading["height"] < buttons["y"] + buttons["height"]
    assert [(box["y"], box["height"]) for box in before if box] == [
        (box["y"], box["height"]) for box in (buttons, heading)
    ]


def test_a_label_of_a_low_score_is_a_guess(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(3)
    results = [
        answer_of(image, index).model_copy(update={"score": 0.2}) for index, image in enumerate(written.images)
    ]
    written.store.put_done(results[:1])
    open_live(page, written.path)
    expect(page.locator(".tile.unsure .open")).to_have_accessible_name(re.compile("Unsure: stop"))
    expect(page.locator("#unlikely")).to_be_hidden()  # one of three is not most
    written.finish(1, 3, answer=lambda image, _: done(image, "stop", 0.2).model_copy(update={"model": None}))
    expect(page.locator(".tile.done")).to_have_count(3)
    expect(page.locator("#unlikely")).to_contain_text("unsure about most of the images: they may be none of its")


def test_scrolling_styles_the_new_images_only(
    page: Page, browser: Browser, write_job: Callable[..., WrittenJob]
) -> None:
    """A rule such as `legend + *` or `body:has(…)` would style all images again for each line that is drawn."""
    written = write_job(1_000)
    written.finish(0, 1_000)
    open_live(page, written.path)
    browser.start_tracing(page=page, categories=["devtools.timeline"])
    first = page.locator("#list .tile").first
    for _ in range(4):
        place = first.get_attribute("aria-posinset") or ""
        page.mouse.wheel(0, 3_000)
        expect(first).not_to_have_attribute("aria-posinset", place)
    wait_until(lambda: page.locator("#list *").count() > 800, "the images around those in sight are drawn")
    events = json.loads(browser.stop_tracing())["traceEvents"]
    styled = [
        event["args"]["elementCount"] for event in events if event["name"] == "UpdateLayoutTree" and event["args"]
    ]
    in_page = page.locator("#list *").count()
    assert len(styled) > 4
    assert max(styled) < in_page / 2


def test_on_a_phone_the_buttons_of_a_large_job_fit(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    page.set_viewport_size(PHONE_SIZE)
    written = write_job(1_200)
    written.finish(0, 1_200, answer=lambda image, _: done(image, "stop", 0.2).model_copy(update={"model": None}))
    open_live(page, written.path)
    review = page.get_by_role("link", name="Review 1,200 unsure")
    expect(review).to_be_visible()
    box = review.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= PHONE_SIZE["width"] - 16
    assert review.evaluate("(button) => button.scrollWidth <= button.clientWidth"), "the words are in the button"


def test_by_the_keyboard_a_link_leads_past_the_labels(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(3)
    written.finish(0, 3)
    open_live(page, written.path)
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the images")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#images :focus")).to_have_count(1)
    expect(page.locator("#state")).to_have_text("finished")


def test_independent_labels_are_all_shown_with_and_without_javascript(
    page: Page, browser: Browser, system: System, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(1)
    top = (LabelScore(label="stop", score=0.9), LabelScore(label="parking", score=0.7))
    found = {"label": "stop", "score": 0.9, "top": top}
    answer = answer_of(written.images[0], 0).model_copy(update=found)
    # Not a running job: without JavaScript its page reloads itself, which would cancel the next visit.
    written.finish(0, 1, seconds_ago=LONG_FINISHED, answer=lambda *_: answer)
    with browser.new_context(base_url=system.url, java_script_enabled=False) as context:
        plain = context.new_page()
        open_live(page, written.path)
        plain.goto(written.path)
        for each in (page, plain):
            expect(each.locator(".tile .label")).to_have_text("stop, parking")


def test_a_retry_is_shown_while_it_is_under_way_and_so_is_that_it_failed_again(
    page: Page, browser: Browser, system: System, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(3)
    written.finish(0, 3, failures=1)
    open_live(page, written.path)
    expect(page.locator(".tile.failed")).to_have_count(1)
    expect(page.locator("#list").get_by_role("button", name="Retry")).to_have_count(1)
    request_again(written.store, [written.images[2]], datetime.now(UTC))
    # The job has ended, and so may its stream have: a click on the page is what begins to follow it again.
    page.reload()
    with browser.new_context(base_url=system.url, java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(written.path)
        for each in (page, plain):
            expect(each.locator(".tile.retrying .label")).to_have_text("Trying again")
            expect(each.locator("#state")).to_have_text("finished")
            expect(each.locator("#found")).to_have_text("Retrying 1 image.")
            expect(each.get_by_role("button", name="Retry")).to_have_count(0)
    again = failed(written.images[2], "it is no image at all").model_copy(update={"attempt": 1})
    written.store.put_failed(again)
    expect(page.locator(".tile.retrying")).to_have_count(0)
    expect(page.locator(".tile.failed .reason")).to_have_text("it is no image at all")
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#found")).to_contain_text("(1 failed)")


def test_what_the_system_retried_is_shown_as_it_happens_and_without_javascript_alike(
    page: Page, browser: Browser, system: System, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(3)
    written.store.put_done([answer_of(written.images[0], 0).model_copy(update={"attempts": 3})])
    JobFigures(written.store.table).store_counts(
        written.job.job_id, Counts(1, 0, 3, system_retried=1), token=LATEST_TOKEN
    )
    open_live(page, written.path)
    expect(page.locator("#list .retries").first).to_have_text("Tried 3 times: a worker failed")
    expect(page.locator('[data-slot="system_retries"]')).to_contain_text("The system retried 1 image:")
    twice = "Requested again \N{MULTIPLICATION SIGN}2: presumed lost"
    for times, words in ((1, "Requested again: presumed lost"), (2, twice)):
        send_again(written.store, written.images[1], times)
        expect(page.locator("#list .retries").nth(1)).to_have_text(words)
    expect(page.locator('[data-slot="system_retries"]')).to_contain_text("The system retried 2 images:")
    written.finish(1, 2)
    expect(page.locator(".tile.done .retries").nth(1)).to_have_text(twice)
    shown = page.locator("#list .retries").all_inner_texts()
    page.locator("#list a.open").nth(1).click()
    expect(page.locator("#panel .timeline")).to_contain_text("requested again by the system")
    with browser.new_context(base_url=system.url, java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(written.path)
        assert plain.locator("#list .retries").all_inner_texts() == shown


def test_rows_have_one_height_for_any_text(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    """The list draws what can be seen, and computes its place from the height of one row."""
    written = write_job(4)
    written.finish(0, 3, failures=2)
    written.store.put_failed(failed(written.images[2]).model_copy(update={"attempts": 3}))
    for retried in (0, 2):
        send_again(written.store, written.images[retried], times=2)
    open_live(page, written.path)
    for size in ("List", "Small", "Medium", "Large"):
        page.get_by_role("button", name=size, exact=True).click()
        expect(page.locator("#list .retries").nth(2)).to_contain_text("Tried 3 times: a worker failed")
        heights = page.locator("#list .tile").evaluate_all("all => all.map((tile) => tile.offsetHeight)")
        assert max(heights) - min(heights) <= 1


def test_an_image_is_tried_again_from_the_list_and_from_the_viewer(
    page: Page, api: ApiClient, system: System
) -> None:
    job_id, images = crashed_images(system, 2)
    open_live(page, f"/jobs/{job_id}")
    retry = page.locator("#list").get_by_role("button", name="Retry")
    expect(retry).to_have_count(2)
    retry.first.click()
    expect(page.locator("#retried")).to_contain_text("Requested again")
    expect(page.locator(".tile.done")).to_have_count(1)
    page.locator(".tile.failed .open").click()
    viewer = page.locator("#panel")
    viewer.get_by_role("button", name="Retry").click()
    expect(viewer.locator(".timeline")).to_contain_text("requested again")
    expect(page.locator(".tile.done")).to_have_count(2)
    assert [result["status"] for result in api.results(job_id)] == ["done"] * len(images)


def test_s2_an_image_that_would_fail_again_has_no_retry(
    page: Page, browser: Browser, system: System, api: ApiClient
) -> None:
    job_id = api.create_job("broken")
    sample = next(drawn for drawn in samples(50, seed=5) if drawn.filename.endswith(".jpg"))
    assert len(api.add_images(job_id, [("broken.jpg", sample.data[: len(sample.data) * 3 // 4])]).accepted) == 1
    open_live(page, f"/jobs/{job_id}")
    expect(page.locator(".tile.failed")).to_have_count(1)
    expect(page.locator("#list").get_by_role("button", name="Retry")).to_have_count(0)
    expect(page.locator(".tile.failed .label")).to_have_text("Not readable")
    with browser.new_context(base_url=system.url, java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(f"/jobs/{job_id}")
        for each in (page, plain):
            expect(each.locator("#retry")).to_be_hidden()
    page.locator(".tile.failed .open").click()
    expect(page.locator("#panel .warning")).to_be_visible()
    expect(page.locator("#panel .truth-choices")).to_have_count(0)
    page.evaluate("document.getElementById('retry').submit()")
    expect(page.locator("#retried")).to_contain_text("1 cannot be classified, so a retry would fail")


def test_a_sentence_says_how_many_images_came_from_the_cache(page: Page, api: ApiClient) -> None:
    open_live(page, upload(api, 3, seed=6))
    expect(page.locator("#state")).to_have_text("finished")
    open_live(page, upload(api, 3, seed=6))
    expect(page.get_by_text("3 of 3 images came from the cache")).to_be_visible()
    expect(page.locator('[data-slot="cost"]')).to_have_text("$0.00")
    expect(page.locator("#list img[src]")).to_have_count(3)
    sizes = page.locator("#list img").evaluate_all
    wait_until(
        lambda: all(width for width in sizes("images => images.map((image) => image.naturalWidth)")), "pictures"
    )


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT, PHONE], ids=["script", "no script", "phone"])
def test_downloads_follow_the_filters(
    page: Page, write_job: Callable[..., WrittenJob], page_options: Options
) -> None:
    written = write_job(20, name="Été 2026")
    written.finish(0, 20, failures=3, seconds_ago=LONG_FINISHED)
    page.goto(f"{written.path}?state=done&to=60")
    menu = open_menu(page, "Download")
    expect(menu).to_contain_text("11 images that match the filters")
    with page.expect_download() as started:
        menu.get_by_role("link", name="CSV", exact=True).click()
    assert started.value.suggested_filename == "Été-2026.csv"
    lines = started.value.path().read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("\ufeffimage_id,"), "Excel reads it as UTF-8"
    assert [line.split(",")[1] for line in lines[1:]] == [image.filename for image in written.images[:11]]
    if page_options == NO_SCRIPT:
        return
    page.keyboard.press("Escape")
    open_menu(page, "Order and score").get_by_label("Score to, in percent").fill("")
    page.get_by_role("searchbox").fill("IMG_0001")
    open_menu(page, "Download")
    expect(menu).to_contain_text("7 images that match the filters")
    with page.expect_download() as started:
        menu.get_by_role("link", name="JSON Lines").click()
    assert len(started.value.path().read_text(encoding="utf-8").splitlines()) == 7
    page.locator("#shown").click()
    expect(page.locator("#downloads")).to_be_hidden()


def test_names_with_markup_are_text(
    page: Page, page_faults: PageFaults, write_job: Callable[..., WrittenJob]
) -> None:
    page_faults.expect("/preview)")
    written = write_job(2, name="<b>bold</b>", filenames=(MARKUP,))
    open_live(page, written.path)
    expect(page.locator("#list .filename bdi").first).to_have_text(MARKUP)
    expect(page.locator("h1 bdi")).to_have_text("<b>bold</b>")
    page.locator(".tile .open").first.click()
    expect(page.locator("#panel h1 bdi")).to_have_text(MARKUP)


def test_where_there_is_no_stream_the_page_asks_now_and_then(
    page: Page, page_faults: PageFaults, write_job: Callable[..., WrittenJob]
) -> None:
    page_faults.expect("503")
    page.route("**/events*", lambda route: route.fulfill(status=503))
    written = write_job(4)
    page.goto(written.path)
    expect(page.locator(".tile.waiting")).to_have_count(4)
    send_again(written.store, written.images[3])
    expect(page.locator("#list .retries").nth(3)).to_have_text("Requested again: presumed lost")
    written.finish(0, 4)
    expect(page.locator(".tile.done")).to_have_count(4)
    expect(page.locator("#state")).to_have_text("finished")


def test_a_hidden_page_closes_its_stream(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(2)
    page.goto(written.path)
    expect(page.locator(".tile")).to_have_count(2)
    hide = "Object.defineProperty(document, 'hidden', { value: true, configurable: true })"
    with page.expect_event("requestfailed", lambda request: "/events" in request.url):
        page.evaluate(f"{hide}; document.dispatchEvent(new Event('visibilitychange'))")
    written.finish(0, 2)
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator(".tile.done")).to_have_count(2)


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_without_javascript_there_are_pages_filters_and_single_images(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(58)
    written.finish(0, 58, failures=2, seconds_ago=LONG_FINISHED)
    page.goto(written.path)
    for _ in range(2):
        expect(page.locator("#list .filename bdi")).to_have_count(24)
        page.get_by_role("link", name="Next page").click()
    expect(page.locator("#list .filename bdi")).to_have_count(10)
    page.get_by_role("link", name="Failed 2").click()
    expect(page.locator("#list .filename bdi")).to_have_count(2)
    page.locator("#list a.open").first.click()
    expect(page.locator("#image")).to_contain_text("its workers crashed")
    page.get_by_role("link", name="Back to").click()
    page.get_by_role("searchbox").fill("IMG_0000")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#list .filename bdi")).to_have_count(10)


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_without_javascript_images_are_sorted_and_chosen_by_their_score(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(20)
    written.finish(0, 20, seconds_ago=LONG_FINISHED)
    page.goto(written.path)
    order = open_menu(page, "Order and score")
    order.get_by_label("Score from, in percent").fill("60")
    order.get_by_label("Score to, in percent").fill("65")
    order.get_by_label("Order").select_option("sure")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#list .score")).to_have_text(["65%", "64%", "63%", "62%", "61%", "60%"])
    expect(page.locator("#list .filename").first).to_have_text("IMG_00015.jpg")


@pytest.mark.parametrize("page_options", [{"viewport": {"width": 320, "height": 640}, "has_touch": True}])
def test_a_phone_shows_everything_in_its_width(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(20, name="a-name-without-any-space-to-break-it-" * 2)
    written.finish(0, 15, failures=3)
    for path in (
        "/",
        "/api",
        written.path,
        f"{written.path}/evaluation",
        "/jobs",
        "/fleet",
        f"{written.path}/images/{written.images[0].ref.image_id}",
    ):
        page.goto(path)
        page.wait_for_load_state("networkidle" if path == "/jobs" else "load")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    open_live(page, written.path)
    page.get_by_role("button", name="List", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for menu in ("Download", "More", "Order and score", "Details"):
        box = open_menu(page, menu).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
        page.keyboard.press("Escape")


def test_nothing_is_out_of_reach_for_anyone(
    page: Page, write_job: Callable[..., WrittenJob], faults_of: FaultsOf
) -> None:
    written = write_job(12)
    written.finish(0, 10, failures=2)
    for retried in (0, 9, 11):
        send_again(written.store, written.images[retried])
    # Other tests look at the list of jobs, with some selected, and at the page of an image.
    for path in (written.path, f"{written.path}/delete"):
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        if path.count("/") == 2:
            expect(page.locator("#histogram li")).not_to_have_count(0)
        assert faults_of(page) == [], path
    open_live(page, written.path)
    page.locator('.chip[data-state="failed"]').click()
    assert faults_of(page, "#filters") == []  # the pointer rests on the chosen filter
    page.locator('.chip[data-state=""]').click()
    page.get_by_role("button", name="List", exact=True).click()
    assert faults_of(page, "#list") == []
    page.get_by_role("button", name="Medium").click()
    for menu in ("More", "Order and score", "Details"):
        open_menu(page, menu)
        assert faults_of(page, ":popover-open") == [], menu
        page.keyboard.press("Escape")
    page.locator(".tile.done .open").nth(1).click()
    expect(page.locator("#panel")).to_contain_text("give way 51%")
    assert faults_of(page) == []  # on a phone the panel is a dialog
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Next and previous image")
    assert faults_of(page, "dialog[open]") == []


def test_a_running_job_is_cancelled_on_its_page(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    written = write_job(3)
    page.goto(written.path)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#found")).to_have_text("Cancelled: 0 classified, 3 not.")
    expect(page.locator("[data-slot=sentence]")).to_have_text("Cancelled: 0 classified, 3 not.")
    expect(page.locator("#state")).to_have_text("cancelled")
    expect(page.locator(".tile.failed .reason").first).to_contain_text("the job was cancelled")
    expect(page.locator("#retry button")).to_contain_text("Retry 3 cancelled")
    expect(page.locator(".chip[data-state=failed]")).to_have_text("Cancelled 3")
    expect(page.locator("#bar .failed")).to_have_attribute("width", "0%")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()


def test_the_list_of_jobs_is_live_and_several_are_cancelled_and_deleted_at_once(
    page: Page, write_job: Callable[..., WrittenJob], page_faults: PageFaults, faults_of: FaultsOf
) -> None:
    first, stays = write_job(2, name=f"first {new_id()}"), write_job(1, name=f"stays {new_id()}")
    page.goto("/jobs")
    boxes = {name: page.get_by_role("checkbox", name=f"Select {name}") for name in (first.job.name, stays.job.name)}
    boxes[first.job.name].check()
    second = write_job(1, name=f"second {new_id()}")
    expect(page.get_by_role("link", name=second.job.name, exact=True)).to_be_visible()
    expect(boxes[first.job.name]).to_be_checked()
    page.get_by_role("checkbox", name=f"Select {second.job.name}").check()
    assert faults_of(page) == []
    page.get_by_role("button", name="Cancel 2 jobs").click()
    expect(page.get_by_role("status")).to_contain_text("2 jobs cancelled.")
    row = page.locator(f"tr[id='{first.job.job_id}']")
    expect(row).to_contain_text("0 of 2 images · 2 cancelled")
    for written in (first, second):
        page.get_by_role("checkbox", name=f"Select {written.job.name}").check()
    page.get_by_role("button", name="Delete 2 jobs").click()
    expect(page.get_by_role("listitem")).to_contain_text([second.job.name, first.job.name])
    assert faults_of(page) == []
    page.get_by_role("button", name="Delete 2 jobs").click()
    expect(page.get_by_role("link", name=stays.job.name, exact=True)).to_be_visible()
    expect(row).to_have_count(0)
    page.route(
        "**/jobs", lambda route: route.fulfill(body=re.sub(r"\d+ workers?", "7 workers", route.fetch().text()))
    )
    expect(page.locator("#workersPill")).to_have_text("7 workers")
    page.unroute("**/jobs")
    page_faults.expect("net::ERR_FAILED")
    page.route("**/jobs", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("Connection lost. Retrying")
    page.unroute("**/jobs")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_on_a_phone_the_header_and_the_actions_of_a_job_take_one_line_each(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(1)
    written.finish(0, 1)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(written.path)

    def middles(*locators: Locator) -> set[float]:
        boxes = [box for locator in locators if (box := locator.bounding_box())]
        assert len(boxes) == len(locators)
        return {round((box["y"] + box["height"] / 2) / 4) for box in boxes}  # within a few pixels

    assert len(middles(page.locator(".brand"), page.locator(".pills"))) == 1
    actions = [
        page.locator(each)
        for each in ("#share", "[popovertarget=downloads]", "[popovertarget=actions]", "#start-review")
    ]
    assert len(middles(*actions)) == 1
    open_menu(page, "More").get_by_role("link", name="Delete").click()
    expect(page.get_by_role("heading", name="Delete")).to_be_visible()


def test_in_a_low_window_as_at_200_percent_pictures_are_in_sight(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(40)
    written.finish(0, 30)
    page.set_viewport_size({"width": 640, "height": 400})
    open_live(page, written.path)
    tile = page.locator(".tile").first.bounding_box()
    assert tile is not None
    assert tile["y"] < 340
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_images_are_drawn_when_what_is_above_the_list_shrinks(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(200)
    open_live(page, written.path)
    tiles = page.locator("#list .tile")
    page.evaluate("document.querySelector('main').style.paddingTop = '5000px'")
    expect(tiles.nth(20)).not_to_be_attached()
    page.evaluate("document.querySelector('main').style.paddingTop = ''")
    expect(tiles.nth(20)).to_be_attached()


@pytest.mark.parametrize(("preferred", "chosen"), [("light", "dark"), ("dark", "light")])
def test_the_choice_of_light_or_dark_is_kept(page: Page, preferred: Literal["light", "dark"], chosen: str) -> None:
    page.emulate_media(color_scheme=preferred)
    page.goto("/jobs")
    expect(page.locator("html")).to_have_css("color-scheme", "light dark")
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("html")).to_have_css("color-scheme", chosen)
    page.goto("/fleet")
    expect(page.locator("html")).to_have_css("color-scheme", chosen)


def test_nothing_moves_for_users_who_want_less_motion(page: Page, write_job: Callable[..., WrittenJob]) -> None:
    open_live(page, write_job(3).path)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p class=skeleton>loading</p>')")
    moving = "document.getAnimations().map((each) => each.animationName)"
    assert page.evaluate(moving) == []
    page.emulate_media(reduced_motion="no-preference")
    assert "skeleton" in page.evaluate(moving)


def test_a_job_of_10000_images_scrolls_and_updates_with_few_tiles_in_the_page(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(10_000)
    written.finish(0, 4_000)
    page.goto(written.path)
    expect(page.locator('[data-slot="accepted"]')).to_have_text("10,000")
    rest = threading.Thread(target=finish_in_steps, args=[written, range(4_000, 10_000, 1_000)])
    rest.start()
    try:
        for _ in range(20):
            page.mouse.wheel(0, 4_000)
            page.wait_for_timeout(50)
        open_menu(page, "Order and score")
        page.locator("[name=sort]").select_option("unsure")
        page.get_by_role("searchbox").fill("9")
        page.get_by_role("searchbox").fill("")
        page.keyboard.press("End")
        page.locator("[name=sort]").select_option("name")
    finally:
        rest.join()
    expect(page.locator('[data-slot="done"]')).to_have_text("10,000")
    page.wait_for_function(AT_THE_END)
    expect(page.locator("#histogram .count").first).to_have_text("2,000")
    assert page.locator("#list .tile").count() < 200


WAY = [
    "accepted", "stored", "queued", "received", "fetched", "decoded", "classified", "result stored", "delivered",
]  # fmt: skip


def answered(api: ApiClient, *, repeats: int = 1) -> str:
    """Upload an image no other test has, `repeats` times in jobs of their own; return the page of the last one."""
    [sample] = samples(1, seed=int(new_id()[-6:], 36))
    for _ in range(repeats):
        job_id = api.create_job("one image")
        [image] = api.add_images(job_id, [(sample.filename, sample.data)]).accepted
        wait_until(lambda job=job_id: next(api.results(job))["status"] != "waiting", "the image has its result")  # type: ignore[misc]
    return f"/jobs/{job_id}/images/{image[0]}"


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
def test_an_image_shows_every_step_of_its_way_with_its_time(
    page: Page, api: ApiClient, faults_of: FaultsOf, page_options: Options
) -> None:
    page.goto(answered(api))
    page.get_by_text("Where its").click()
    assert page.locator(".timeline strong").all_inner_texts() == WAY
    times = page.locator(".timeline time").evaluate_all("all => all.map((time) => time.dateTime)")
    assert len(times) == 5
    assert times[0] <= times[-1]
    expect(page.locator(".timeline .took")).to_have_count(len(WAY))
    expect(page.locator(".shown")).to_contain_text("The original was deleted once classified")
    if page_options != NO_SCRIPT:
        expect(page.get_by_text("The frame is what the model sees.")).to_be_visible()
        assert faults_of(page) == []


FRAME_OF = """
async ([module, fit, resize, crop, width, height]) => {
    const { showFrame } = await import(module);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const picture = Object.assign(new Image(), { src: canvas.toDataURL() });
    const shown = document.createElement("div");
    Object.assign(shown.dataset, { fit, resize, crop });
    shown.append(picture, Object.assign(document.createElement("p"), { className: "seen" }));
    await picture.decode();
    showFrame(shown);
    const frame = shown.querySelector("rect");
    return ["x", "y", "width", "height"].map((name) => Number(frame.getAttribute(name)));
}
"""


@pytest.mark.parametrize(
    ("fit", "resize", "crop"),
    [
        ("crop", (256, 256), (224, 224)),
        ("crop", (96, 64), (96, 64)),
        ("stretch", (80, 80), (64, 72)),
        ("pad", (64, 96), (64, 96)),
    ],
)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (199, 301)])
def test_the_frame_over_a_picture_is_what_the_decoder_crops(
    module_page: Page, fit: str, resize: tuple[int, int], crop: tuple[int, int], width: int, height: int
) -> None:
    sizes = (f"{down} {across}" for down, across in (resize, crop))
    resized = central_crop._resized_size(height, width, resize, fit)
    shown = resized if fit == "pad" else crop
    top, bottom = central_crop._central_span(height, resized[0], shown[0], is_mirrored=False)
    left, right = central_crop._central_span(width, resized[1], shown[1], is_mirrored=False)
    rounding = max(width, height) / min(resize)  # the decoder's corner is a whole pixel of the resized picture
    frame = module_page.evaluate(FRAME_OF, [f"{STATIC}{assets_hash()}/job/frame.js", fit, *sizes, width, height])
    assert frame == pytest.approx([left, top, right - left, bottom - top], abs=rounding)


def test_a_repeated_image_has_a_short_way(page: Page, api: ApiClient) -> None:
    page.goto(answered(api, repeats=2))
    assert page.locator(".timeline strong").all_inner_texts() == ["accepted", "from cache"]
    expect(page.locator(".details")).to_contain_text("classified before")


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
def test_a_failed_image_is_tried_again_from_its_page(
    page: Page, system: System, faults_of: FaultsOf, page_options: Options
) -> None:
    job_id, [image_id] = crashed_images(system)
    address = f"/jobs/{job_id}/images/{image_id}"
    page.goto(address)
    expect(page.locator(".details .warning")).to_contain_text("Failed")
    if page_options != NO_SCRIPT:
        assert faults_of(page) == []
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_contain_text("Requested again")
    expect(page.locator(".timeline")).to_contain_text("requested again")
    expect(settled(page, address).locator(".timeline strong").last).to_have_text("delivered")
    assert "requested again" in page.locator(".timeline strong").all_text_contents()


def settled(page: Page, address: str) -> Page:
    """Return the page once the image is not being tried again any more."""

    def has_settled() -> bool:
        page.goto(address)
        return not page.locator(".timeline li.open").count()

    wait_until(has_settled, "the image is not being tried again")
    return page


def test_a_stopped_job_without_an_image_to_retry_can_be_resumed(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(4)
    written.finish(0, 4, failures=4)
    for image in written.images:
        written.store.put_failed(failed(image, code="undecodable", attempt=1))
    reason = "4 of 4 images failed, more than 5%, most as undecodable"
    Cancellations(written.store.table).cancel(written.job.job_id, datetime.now(UTC), reason)
    open_live(page, written.path)
    expect(page.locator("#state")).to_have_text("cancelled")
    expect(page.locator("#found")).to_contain_text(reason)
    page.get_by_role("button", name="Resume the job").click()
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#retry")).to_be_hidden()
