"""The pages of a job and of an image: live to the end, of any size, without JavaScript, on a phone, by keyboard."""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app_tier import central_crop
from core.ids import new_id
from core.jobs.lifecycle import Cancellations
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
    expect_live,
)
from tests.support.jobs import failed, put_results, request_again, send_again
from tests.support.systems import crashed_images
from tests.support.waiting import wait_until
from web_tier.http.assets import STATIC, assets_hash

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}
MARKUP = "<img src=x onerror=alert(1)>.jpg"
AT_THE_END = """
(name) => {
    scrollTo(0, document.documentElement.scrollHeight);
    return [...document.querySelectorAll("#list bdi")].at(-1)?.textContent === name;
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


def test_an_image_keeps_the_focus_when_the_script_takes_over_the_list(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(20)
    written.finish(0, 20)
    page.route("**/rows?*", lambda _: None)  # held, so that the list stays as the server has rendered it
    page.goto(written.path)
    expect(page.locator("#list a.open").first).not_to_have_attribute("data-id", re.compile("."))
    page.locator("#list a.open").nth(3).focus()
    page.unroute("**/rows?*")  # the held requests continue
    expect(page.locator("#list a.open[data-id]").nth(3)).to_be_focused()


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


def test_what_is_clicked_in_the_details_stays_where_it_is_when_the_job_ends(
    page: Page, write_job: Callable[..., WrittenJob]
) -> None:
    written = write_job(6)
    written.finish(0, 3)
    page.goto(written.path)
    page.locator("[popovertarget=details]").click()
    expect(page.locator("#details [data-slot=workers]")).to_be_visible()
    before = page.locator("#below").bounding_box()
    written.finish(3, 6)
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#details [data-slot=workers]")).to_be_hidden()
    assert page.locator("#below").bounding_box() == before
    page.locator("#details [hidden]").evaluate_all("all => all.forEach((each) => { each.hidden = false; })")
    assert page.locator("#below").bounding_box() == before


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
    put_results(written.store, again)
    expect(page.locator(".tile.retrying")).to_have_count(0)
    expect(page.locator(".tile.failed .reason")).to_have_text("it is no image at all")
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#found")).to_contain_text("(1 failed)")


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


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
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
    page.goto(f"{written.path}/delete")
    expect(page.locator("h1")).to_be_visible()
    assert faults_of(page) == []
    open_live(page, written.path)
    expect(page.locator("#histogram li")).not_to_have_count(0)
    page.get_by_role("button", name="List", exact=True).click()
    page.locator('.chip[data-state=""]').hover()
    assert faults_of(page) == []  # the pointer rests on the chosen filter
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
    page: Page, write_job: Callable[..., WrittenJob], faults_of: FaultsOf
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


@pytest.mark.parametrize("images", [2_000, pytest.param(10_000, marks=pytest.mark.thorough)])
def test_a_large_job_scrolls_and_updates_with_few_tiles_in_the_page(
    page: Page, write_job: Callable[..., WrittenJob], images: int
) -> None:
    written = write_job(images)
    written.finish(0, images * 2 // 5)
    page.goto(written.path)
    expect(page.locator('[data-slot="accepted"]')).to_have_text(f"{images:,}")
    rest = threading.Thread(target=finish_in_steps, args=[written, range(images * 2 // 5, images, images // 10)])
    rest.start()
    try:
        for _ in range(10):
            page.mouse.wheel(0, images // 3)
            page.wait_for_timeout(50)
        open_menu(page, "Order and score")
        page.locator("[name=sort]").select_option("unsure")
        page.get_by_role("searchbox").fill("9")
        page.get_by_role("searchbox").fill("")
        page.keyboard.press("End")
        page.locator("[name=sort]").select_option("name")
    finally:
        rest.join()
    expect(page.locator('[data-slot="done"]')).to_have_text(f"{images:,}")
    page.wait_for_function(AT_THE_END, arg=f"IMG_{images - 1:05}.jpg")
    expect(page.locator("#histogram .count").first).to_have_text(f"{images // 5:,}")
    assert page.locator("#list .tile").count() < 200


WAY = [
    "accepted", "stored", "queued", "received", "fetched", "decoded", "classified", "result stored", "delivered",
]  # fmt: skip


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
def test_an_image_shows_every_step_of_its_way_with_its_time(
    page: Page, api: ApiClient, faults_of: FaultsOf, page_options: Options
) -> None:
    [sample] = samples(1, seed=1)
    job_id = api.create_job("one image")
    [(image_id, _)] = api.add_images(job_id, [(sample.filename, sample.data)]).accepted
    wait_until(lambda: next(api.results(job_id))["status"] != "waiting", "the image has its result")
    page.goto(f"/jobs/{job_id}/images/{image_id}")
    page.get_by_text("Where its").click()
    assert page.locator(".timeline strong").all_inner_texts() == WAY
    times = page.locator(".timeline time").evaluate_all("all => all.map((time) => time.dateTime)")
    assert len(times) == 5
    assert times[0] <= times[-1]
    expect(page.locator(".timeline .took")).to_have_count(len(WAY))
    expect(page.locator(".shown")).to_contain_text("Originals are deleted once classified")
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


def test_the_frame_over_a_picture_is_what_the_decoder_crops(page: Page) -> None:
    page.goto("/model")
    module = f"{STATIC}{assets_hash()}/job/frame.js"
    for fit, resize, crop in (
        ("crop", (256, 256), (224, 224)),
        ("crop", (96, 64), (96, 64)),
        ("stretch", (80, 80), (64, 72)),
        ("pad", (64, 96), (64, 96)),
    ):
        for width, height in ((300, 200), (199, 301)):
            sizes = (f"{down} {across}" for down, across in (resize, crop))
            resized = central_crop._resized_size(height, width, resize, fit)
            shown = resized if fit == "pad" else crop
            top, bottom = central_crop._central_span(height, resized[0], shown[0], is_mirrored=False)
            left, right = central_crop._central_span(width, resized[1], shown[1], is_mirrored=False)
            rounding = max(width, height) / min(
                resize
            )  # the decoder's corner is a whole pixel of the resized picture
            frame = page.evaluate(FRAME_OF, [module, fit, *sizes, width, height])
            expected = [left, top, right - left, bottom - top]
            assert frame == pytest.approx(expected, abs=rounding), (fit, width, height)


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_a_failed_image_is_tried_again_from_its_page(page: Page, system: System) -> None:
    job_id, [image_id] = crashed_images(system)
    address = f"/jobs/{job_id}/images/{image_id}"
    page.goto(address)
    expect(page.locator(".details .warning")).to_contain_text("Failed")
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
        put_results(written.store, failed(image, code="undecodable", attempt=1))
    reason = "4 of 4 images failed, more than 5%, most as undecodable"
    Cancellations(written.store.table).cancel(written.job.job_id, datetime.now(UTC), reason)
    open_live(page, written.path)
    expect(page.locator("#state")).to_have_text("cancelled")
    expect(page.locator("#found")).to_contain_text(reason)
    page.get_by_role("button", name="Resume the job").click()
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#retry")).to_be_hidden()
