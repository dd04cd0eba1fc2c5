"""The API's page: every operation is shown, and may be tried from the page itself."""

import json
import shlex

import pytest
from playwright.sync_api import Locator, Page, expect

from fleetsight_client.api import ApiClient
from tests.browser.conftest import FaultsOf, PageFaults, try_it
from tests.support.jobs import picture

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}


def operation(page: Page, name: str) -> Locator:
    return page.locator(f"details.operation:has(#{name})")


def test_a_job_is_made_filled_and_read_from_the_page(page: Page, api: ApiClient) -> None:
    page.goto("/api")
    operation(page, "create_job").locator("summary").click()
    page.locator("#create_job textarea").fill('{"name": "<b>from the page</b>"}')
    answer = try_it(page, "create_job")
    assert answer.startswith("201")
    job_id = json.loads(answer.partition("\n")[2])["job_id"]

    operation(page, "add_images").locator("summary").click()
    page.locator('#add_images [name="job_id"]').fill(job_id)
    files = [
        {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": picture(shade=number)} for number in (1, 2)
    ]
    page.locator("#add_images [type=file]").set_input_files(files)  # type: ignore[arg-type]
    assert len(json.loads(try_it(page, "add_images").partition("\n")[2])["accepted"]) == 2

    operation(page, "list_jobs").locator("summary").click()
    page.locator('#list_jobs [name="name"]').fill("FROM THE PAGE")
    assert json.loads(try_it(page, "list_jobs").partition("\n")[2])["jobs"][0]["job_id"] == job_id


def test_a_problem_is_shown_as_it_is_answered(page: Page, page_faults: PageFaults) -> None:
    page_faults.expect("400")
    page.goto("/api")
    operation(page, "list_jobs").locator("summary").click()
    page.locator('#list_jobs [name="limit"]').fill("0")
    assert "urn:fleetsight:problem:bad-request" in try_it(page, "list_jobs")


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


def test_operations_are_found_by_search_and_copied_as_curl(page: Page) -> None:
    page.goto("/api")
    page.get_by_label("Search operations").fill("limits")
    expect(page.locator("details.operation:visible")).to_have_count(3)
    page.get_by_label("Search operations").fill("no such operation")
    expect(page.get_by_text("No operation matches.")).to_be_visible()
    page.get_by_label("Search operations").fill("")
    operation(page, "create_job").locator("summary").click()
    form = page.locator("form#create_job")
    form.locator("textarea").fill("""{"name": "it's"}""")
    form.get_by_role("button", name="Copy as curl").click()
    command = form.locator("output code").filter(has_text="curl").inner_text()
    body = shlex.split(command)
    assert body[:4] == ["curl", "-sS", "-X", "POST"]
    assert body[-3:-1] == ["--data-raw", """{"name": "it's"}"""]
    assert body[-1].endswith("/api/v1/jobs")


def test_the_page_is_accessible_and_fits(page: Page, faults_of: FaultsOf) -> None:
    page.goto("/api#create_job")
    operation(page, "job_results").locator("summary").click()
    ids = page.locator("[id]").evaluate_all("all => all.map(({ id }) => id)")
    assert len(ids) == len(set(ids))
    # Its thousands of hidden elements, which axe passes over, would cost most of its time.
    page.locator("details:not([open]) > :not(summary)").evaluate_all("all => all.forEach((each) => each.remove())")
    assert faults_of(page) == []


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_without_javascript_the_page_is_to_be_read_and_says_so(page: Page) -> None:
    page.goto("/api")
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.get_by_label("Search operations")).to_be_hidden()
    operation(page, "create_job").locator("summary").click()
    expect(operation(page, "create_job").locator("table")).to_be_visible()
    expect(page.locator("#create_job").get_by_role("button", name="Send")).to_be_hidden()
