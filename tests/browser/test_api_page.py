"""The API's page: every operation is shown, found and linked."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import FaultsOf

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}


def operation(page: Page, name: str) -> Locator:
    return page.locator(f"details.operation:has(#{name})")


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
def test_an_address_or_a_link_with_a_name_opens_what_it_names(page: Page) -> None:
    page.goto("/api#JobStatusBody")
    expect(page.locator("#JobStatusBody")).to_be_in_viewport()
    expect(page.locator("#JobStatus")).to_be_hidden()
    operation(page, "list_jobs").locator("summary").click()
    link = operation(page, "list_jobs").locator("td a").first
    link.click()
    expect(page.locator(str(link.get_attribute("href")))).to_be_in_viewport()
    page.goto("/api#create_job")
    expect(page.locator("#create_job")).to_be_in_viewport()


def test_operations_are_found_by_search(page: Page) -> None:
    page.goto("/api")
    page.get_by_label("Search operations").fill("limits")
    expect(page.locator("details.operation:visible")).to_have_count(3)
    page.get_by_label("Search operations").fill("no such operation")
    expect(page.get_by_text("No operation matches.")).to_be_visible()


def test_the_page_is_accessible_and_fits(page: Page, faults_of: FaultsOf) -> None:
    page.goto("/api#create_job")
    operation(page, "job_results").locator("summary").click()
    ids = page.locator("[id]").evaluate_all("all => all.map(({ id }) => id)")
    assert len(ids) == len(set(ids))
    # Its thousands of hidden elements, which axe passes over, would cost most of its time.
    page.locator("details:not([open]) > :not(summary)").evaluate_all("all => all.forEach((each) => each.remove())")
    assert faults_of(page) == []


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_without_javascript_each_operation_can_be_read(page: Page) -> None:
    page.goto("/api")
    expect(page.get_by_label("Search operations")).to_be_hidden()
    operation(page, "add_images").locator("summary").click()
    expect(operation(page, "add_images").get_by_text("Body: ")).to_be_visible()
    expect(operation(page, "add_images").get_by_role("cell", name="Idempotency-Key")).to_be_visible()
