"""The API's page: every operation is shown, and may be tried from the page itself."""

import json
import shlex

import pytest
from playwright.sync_api import Page, expect

from fleetsight_client.api import ApiClient
from tests.browser.conftest import FaultsOf, PageFaults, try_it
from tests.support.jobs import picture

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}


def test_a_job_is_made_filled_and_read_from_the_page(page: Page, api: ApiClient) -> None:
    page.goto("/api")
    page.locator("#create_job summary").click()
    page.locator("#create_job textarea").fill('{"name": "<b>from the page</b>"}')
    answer = try_it(page, "create_job")
    assert answer.startswith("201")
    job_id = json.loads(answer.partition("\n")[2])["job_id"]

    page.locator("#add_images summary").click()
    page.locator('#add_images [name="job_id"]').fill(job_id)
    files = [
        {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": picture(shade=number)} for number in (1, 2)
    ]
    page.locator("#add_images [type=file]").set_input_files(files)  # type: ignore[arg-type]
    assert len(json.loads(try_it(page, "add_images").partition("\n")[2])["accepted"]) == 2

    page.locator("#list_jobs summary").click()
    page.locator('#list_jobs [name="name"]').fill("FROM THE PAGE")
    assert json.loads(try_it(page, "list_jobs").partition("\n")[2])["jobs"][0]["job_id"] == job_id


def test_a_problem_is_shown_as_it_is_answered(page: Page, page_faults: PageFaults) -> None:
    page_faults.expect("400")
    page.goto("/api")
    page.locator("#list_jobs summary").click()
    page.locator('#list_jobs [name="limit"]').fill("0")
    assert "urn:fleetsight:problem:bad-request" in try_it(page, "list_jobs")


def test_an_address_with_a_models_name_opens_it(page: Page) -> None:
    page.goto("/api#JobStatusBody")
    expect(page.locator("#JobStatusBody table")).to_be_visible()


def test_operations_are_found_by_search_and_copied_as_curl(page: Page) -> None:
    page.goto("/api")
    page.get_by_label("Search operations").fill("limits")
    expect(page.locator("details.operation:visible")).to_have_count(3)
    page.get_by_label("Search operations").fill("no such operation")
    expect(page.get_by_text("No operation matches.")).to_be_visible()
    page.get_by_label("Search operations").fill("")
    page.locator("#create_job summary").click()
    form = page.locator("#create_job form")
    form.locator("textarea").fill("""{"name": "it's"}""")
    form.get_by_role("button", name="Copy as curl").click()
    command = form.locator("output code").filter(has_text="curl").inner_text()
    body = shlex.split(command)
    assert body[:4] == ["curl", "-sS", "-X", "POST"]
    assert body[-3:-1] == ["--data-raw", """{"name": "it's"}"""]
    assert body[-1].endswith("/api/v1/jobs")


def test_the_page_is_accessible_and_fits(page: Page, faults_of: FaultsOf) -> None:
    page.goto("/api#create_job")
    page.locator("#job_results summary").click()
    ids = page.locator("[id]").evaluate_all("all => all.map(({ id }) => id)")
    assert len(ids) == len(set(ids))
    # Its thousands of hidden elements, which axe passes over, would cost most of its time.
    page.locator("details:not([open]) > :not(summary)").evaluate_all("all => all.forEach((each) => each.remove())")
    assert faults_of(page) == []


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_without_javascript_the_page_is_to_be_read_and_says_so(page: Page) -> None:
    page.goto("/api")
    expect(page.get_by_text("need JavaScript")).to_be_visible()
    expect(page.get_by_label("Search operations")).to_be_hidden()
    page.locator("#create_job summary").click()
    expect(page.locator("#create_job table")).to_be_visible()
    expect(page.locator("#create_job").get_by_role("button", name="Send")).to_be_hidden()
