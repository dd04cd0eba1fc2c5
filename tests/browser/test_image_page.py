"""The page of one image: its way from step to step, and how it is tried again."""

import pytest
from playwright.sync_api import Page, expect

from core.ids import new_id
from scripts.client import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from tests.browser.conftest import FaultsOf, crashed_images
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}
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
    page: Page, api: ApiClient, faults_of: FaultsOf, page_options: dict[str, object]
) -> None:
    page.goto(answered(api))
    assert page.locator(".way strong").all_inner_texts() == WAY
    times = page.locator(".way time").evaluate_all("all => all.map((time) => time.dateTime)")
    assert len(times) == 5
    assert times[0] <= times[-1]
    expect(page.locator(".way .took")).to_have_count(len(WAY))
    expect(page.locator(".shown")).to_contain_text("deleted once its label was stored")
    if page_options != NO_SCRIPT:
        assert faults_of(page) == []


def test_a_repeated_image_has_a_short_way(page: Page, api: ApiClient, faults_of: FaultsOf) -> None:
    page.goto(answered(api, repeats=2))
    assert page.locator(".way strong").all_inner_texts() == ["accepted", "answered at once"]
    expect(page.locator(".told")).to_contain_text("classified before")
    assert faults_of(page) == []


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
def test_a_failed_image_is_tried_again_from_its_page(
    page: Page, system: System, faults_of: FaultsOf, page_options: dict[str, object]
) -> None:
    job_id, [image_id] = crashed_images(system)
    address = f"/jobs/{job_id}/images/{image_id}"
    page.goto(address)
    expect(page.locator(".told .warning")).to_contain_text("Failed")
    if page_options != NO_SCRIPT:
        assert faults_of(page) == []
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status")).to_contain_text("Requested again")
    expect(page.locator(".way")).to_contain_text("requested again")
    expect(settled(page, address).locator(".way strong").last).to_have_text("delivered")
    assert "requested again" in page.locator(".way strong").all_inner_texts()


def settled(page: Page, address: str) -> Page:
    """Return the page once the image is not being tried again any more."""

    def has_settled() -> bool:
        page.goto(address)
        return not page.locator(".way li.open").count()

    wait_until(has_settled, "the image is not being tried again")
    return page
