"""The operators' page of the fleet: live, and of use without JavaScript."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count as counting

import pytest
from playwright.sync_api import Page, expect

from core.fleet.store import FleetStore
from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from services.table import Table
from tests.browser.conftest import FaultsOf, PageFaults
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}
SEEDS = counting(9_100)
GRACE_MS = 5_000
"""So long after its first failure a page shows that the connection is lost."""


@pytest.fixture
def fleet(system: System) -> Iterator[FleetStore]:
    """The fleet's items; when the test ends the fleet is not paused and its limits are those of config.yaml."""
    store = FleetStore(Table(system.clients.dynamodb, system.config.names.job_table))
    store.resume()
    yield store
    store.resume()
    store.reset_limits()


def submit(api: ApiClient, count: int) -> str:
    """Make a job of `count` signs that no user has sent before; return its id."""
    job_id = api.create_job("a batch")
    drawn = samples(count, seed=next(SEEDS), sizes=(((64, 64), 1.0),))
    api.add_images(job_id, [(f"{number}.jpg", sign.data) for number, sign in enumerate(drawn)])
    return job_id


def pause(page: Page, reason: str = "") -> None:
    """Pause the fleet in the step that asks for the reason, which is a dialog or a page."""
    page.get_by_role("link", name="Pause").click()
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Pause new workers").click()


def is_empty_or_drains(fleet: FleetStore) -> bool:
    """Return True if the fleet has no instance; otherwise drain those that it has."""
    instances = fleet.instances().instances
    for each in instances:
        fleet.request_drain(each.instance_id, datetime.now(UTC))
    return not instances


def test_a_batch_is_followed_live_from_its_launch_to_its_results(
    page: Page, api: ApiClient, fleet: FleetStore
) -> None:
    page.goto("/fleet")
    chart = page.locator("#chart")
    before = chart.locator(".workers-line").get_attribute("d")
    limits = page.get_by_role("link", name=re.compile("^Limits"))
    limits.focus()
    submit(api, 60)
    # One worker may have answered them all before the other was there.
    answered = page.locator("td:nth-of-type(5)", has_text=re.compile("[1-9]"))
    row = page.locator("#instances tbody tr").filter(has=answered).first
    expect(row).to_be_visible()
    expect(row.locator("code")).to_have_text(re.compile("^i-[0-9a-f]+$"))
    expect(row.locator(".pill")).to_have_text(re.compile("busy|ready"))
    expect(row.locator(".heard")).to_have_text(re.compile("just now|s ago"))
    expect(page.locator("#decisions")).to_contain_text(re.compile(r"Starting \d workers? \(\d → \d, limit 2\): "))
    expect(chart).to_have_attribute(
        "aria-label", re.compile(r"Last [\w ]+: at most [12] workers? and \d+ images? in")
    )
    # The pointer shows the values of a moment.
    chart.hover()
    expect(page.locator("#chart-value")).to_have_text(re.compile(r"\d\d:\d\d:\d\d: \d workers?, \d+ images?"))
    # The header never says another number than the page.
    pill, figure = page.evaluate(
        "[...document.querySelectorAll('#workersPill, .tiles dd')].slice(0, 2).map(each => parseInt(each.innerText))"
    )
    assert pill == figure
    expect(limits).to_be_focused()  # the page was rendered again meanwhile
    # It moves on with time, also where workers of an earlier test were there already.
    expect(chart.locator(".workers-line")).not_to_have_attribute("d", str(before))
    # Drawn by the server from the history, for pages that are opened later.
    page.goto("/fleet?span=hour")
    expect(chart).to_have_attribute("aria-label", re.compile("Last hour: at most [12] workers? and"))


def test_ops_pause_the_fleet_with_a_reason_and_resume_it(
    page: Page, api: ApiClient, fleet: FleetStore, system: System
) -> None:
    page.goto("/fleet")
    pause(page, "<b>new</b> model")
    expect(page.locator("#paused")).to_contain_text("<b>new</b> model. No new workers start; uploads still queue.")
    expect(page.locator(".now")).to_contain_text("Paused by ops since")
    wait_until(lambda: is_empty_or_drains(fleet), "the workers of earlier tests have ended")
    expect(page.locator(".tiles .figure").first).to_have_text("0")
    job_id = submit(api, 30)
    expect(page.locator(".now")).to_contain_text(re.compile(r"\(<b>new</b> model\): 30 images in \d+ packs waiting"))
    page.goto(f"/jobs/{job_id}")
    expect(page.locator('[data-slot="sentence"]')).to_contain_text("Paused by ops since")
    expect(page.locator('[data-slot="problem"]')).to_be_hidden()
    expect(page.get_by_role("link", name="0 workers · paused")).to_be_visible()

    expect(page.locator("#state")).to_have_text("blocked: paused by ops")
    expect(page.get_by_role("link", name="See the fleet")).to_be_hidden()
    page.get_by_role("button", name="Resume the fleet").click()
    expect(page.get_by_role("link", name="Pause new workers")).to_be_visible()
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_role("button", name="Resume the fleet")).to_be_hidden()
    expect(page.locator("#state")).to_have_text("finished")
    assert api.status(job_id)["done"] == 30


def test_ops_set_limits_drain_an_instance_and_take_the_limits_back(
    page: Page, fleet: FleetStore, faults_of: FaultsOf, page_faults: PageFaults
) -> None:
    page_faults.expect("422")
    page.goto("/fleet")
    page.get_by_role("link", name=re.compile("^Limits: 0 to 2 workers$")).click()
    dialog = page.get_by_role("dialog", name="Limits of the fleet")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text(re.compile(r"\d workers? now: those above the limits end when idle"))
    page.get_by_label("At least").fill("3")
    page.get_by_role("button", name="Set the limits").click()
    expect(page.get_by_role("alert")).to_contain_text("the minimum at most as high as the maximum")
    assert faults_of(page) == []
    page.get_by_label("At least").fill("1")
    page.get_by_label("At most").fill("1")
    page.get_by_label("Reason").fill("<b>budget</b>")
    page.get_by_role("button", name="Set the limits").click()
    expect(page.locator("#limits-set p")).to_have_text(
        re.compile(r"Limits 1\.\.1, set by ops at \d\d:\d\d UTC \(<b>budget</b>\); config\.yaml says 0\.\.2\.")
    )
    assert faults_of(page) == []
    # Others may be there of an earlier test; from all that are, one is kept or launched.
    drains = page.get_by_role("link", name=re.compile("^Drain i-"))
    expect(drains).to_have_count(1)
    asked = str(drains.get_attribute("aria-label")).removeprefix("Drain ")
    drains.click()
    expect(page.get_by_role("dialog", name=f"Drain {asked}?")).to_be_visible()
    page.get_by_role("button", name="Drain the instance").click()
    expect(page.locator("#decisions")).to_contain_text(f"Ops have asked {asked} to drain")
    row = page.locator("#instances tbody tr").filter(has_text=asked)
    expect(row.get_by_role("link")).to_have_count(0)
    # It is still needed, so another takes its place once there is room for it.
    expect(row).to_have_count(0)
    expect(drains).to_have_count(1)
    page.get_by_role("button", name="Reset to config.yaml").click()
    expect(page.locator("#limits-set")).to_be_hidden()
    expect(page.get_by_role("link", name=re.compile("^Limits: 0 to 2 workers$"))).to_be_visible()
    assert fleet.commands().limits is None


def test_the_page_is_accessible_and_fits(page: Page, api: ApiClient, fleet: FleetStore, faults_of: FaultsOf) -> None:
    submit(api, 30)
    page.goto("/fleet")
    expect(page.locator("#instances tbody tr").first).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 900})
    table = page.locator("#instances")
    assert table.evaluate("table => table.scrollWidth <= table.clientWidth"), "no column is cut at 1280 px"
    tops = {round(page.locator(".tiles .card").nth(index).bounding_box()["y"]) for index in range(6)}  # type: ignore[index]
    assert len(tops) == 1, "the tiles are in one row"
    widths = page.locator(".facts dd").evaluate_all("all => all.map(each => each.clientWidth)")
    assert min(widths) > 100, "no figure is a column of characters"
    pause(page)
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert faults_of(page) == []


def test_a_lost_connection_is_visible_with_the_time_of_the_figures(page: Page, page_faults: PageFaults) -> None:
    page_faults.expect("ERR_INTERNET_DISCONNECTED")
    page.clock.install()
    page.goto("/fleet")
    page.context.set_offline(True)
    page.clock.fast_forward(GRACE_MS)
    expect(page.get_by_role("alert")).to_contain_text("Connection lost. Retrying… Figures are from")
    page.context.set_offline(False)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(("path", "poll"), [("/fleet", "**/fleet/live"), ("/jobs", "**/jobs")])
def test_a_server_that_hangs_is_visible(page: Page, path: str, poll: str) -> None:
    page.clock.install()
    page.goto(path)
    page.route(poll, lambda _route: None)  # never answered
    with page.expect_request(poll):
        page.clock.fast_forward(5_000)
    with page.expect_event("requestfailed"):
        page.clock.fast_forward(10_000)
    page.clock.fast_forward(GRACE_MS)
    expect(page.get_by_role("alert")).to_contain_text("Connection lost. Retrying… Figures are from")
    page.unroute(poll)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_titles_are_at_the_same_height_on_each_page_and_in_inter(page: Page) -> None:
    centres = set()
    for path in ("/", "/jobs", "/fleet", "/api", "/model"):
        page.goto(path)
        box = page.locator("h1").bounding_box()
        assert box is not None
        centres.add(round(box["y"] + box["height"] / 2))
    assert len(centres) == 1
    assert page.evaluate("document.fonts.check('16px Inter')")
    page.get_by_label("Search classes").fill("park")
    expect(page.locator("#classes li:visible")).to_have_text(["no parking", "parking"])


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_without_javascript_everything_is_there(page: Page, fleet: FleetStore) -> None:
    page.goto("/fleet?span=day")
    expect(page.locator("#chart .workers-line")).to_have_attribute("d", re.compile(r"^M36\.0 "))
    expect(page.locator("#chart .axis text")).to_have_count(12)
    page.get_by_role("link", name=re.compile("^Limits")).click()
    expect(page.get_by_role("heading", name="Limits of the fleet")).to_be_visible()
    page.get_by_role("link", name="Cancel").click()
    pause(page, "by hand")
    expect(page.locator("#paused")).to_contain_text("by hand")
    assert fleet.paused() is not None
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("link", name="Pause new workers")).to_be_visible()
    assert fleet.paused() is None


def test_the_console_of_an_instance_is_opened_from_the_fleet_page(page: Page, api: ApiClient) -> None:
    submit(api, 10)
    page.goto("/fleet")
    page.locator("#instances tbody tr th a").first.click()
    expect(page.get_by_role("heading", name=re.compile("^Console of i-[0-9a-f]+$"))).to_be_visible()
    expect(page.get_by_role("region", name="Console output")).to_contain_text("started")
