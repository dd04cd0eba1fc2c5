"""The operators' page of dead letters: of use with and without JavaScript."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from core.ids import ImageRef
from core.jobs.lifecycle import DeletedJobs
from core.jobs.store import JobStore
from core.messages import crashed_worker
from fleetsight_client.api import ApiClient
from scripts.run.system import System
from services.table import Table
from tests.browser.conftest import FaultsOf, Options
from tests.support.jobs import failed
from tests.support.systems import crashed_images
from tests.support.waiting import wait_until
from web_tier.features.dead_letters.store import DeadLetterStore

pytestmark = pytest.mark.processes

NO_SCRIPT = {"java_script_enabled": False}


@pytest.fixture
def given_up(system: System) -> Iterator[tuple[str, list[str]]]:
    """A job of two images that were given up, and are stored; their job is deleted in the end."""
    store = JobStore(Table(system.clients.dynamodb, system.config.names.job_table))
    job_id, image_ids = crashed_images(system, 2)
    records = store.images_of([ImageRef(job_id, image_id) for image_id in image_ids])
    DeadLetterStore(store).put_each([failed(record, crashed_worker(5).message) for record in records.values()])
    yield job_id, sorted(image_ids)
    DeletedJobs(store.table).delete(store.job(job_id))


@pytest.mark.parametrize("page_options", [{}, NO_SCRIPT], ids=["script", "no script"])
def test_an_operator_redrives_one_image_and_discards_another(
    page: Page, api: ApiClient, given_up: tuple[str, list[str]], page_options: Options
) -> None:
    job_id, (discarded, redriven) = given_up
    page.goto("/fleet")
    page.get_by_role("link", name="Dead letters (2)").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    # The newest image stands first.
    rows.nth(0).get_by_role("button", name="Redrive").click()
    expect(page.get_by_role("status")).to_have_text("The image is requested again. A worker will try it once more.")
    expect(rows).to_have_count(1)
    rows.nth(0).get_by_role("button", name="Discard").click()
    expect(page.get_by_text("There are no dead letters.")).to_be_visible()

    def statuses() -> dict[str, str]:
        return {each["image_id"]: each["status"] for each in api.results(job_id)}

    wait_until(lambda: statuses()[redriven] == "done", "the redriven image has its label")
    assert statuses()[discarded] == "failed"


def test_all_dead_letters_are_redriven_to_their_labels(
    page: Page, api: ApiClient, given_up: tuple[str, list[str]]
) -> None:
    page.goto("/dead-letters")
    page.get_by_role("button", name="Redrive all").click()
    expect(page.get_by_role("status")).to_have_text("2 images requested again.")
    wait_until(lambda: api.status(given_up[0])["done"] == 2, "both images have their labels")
    page.goto("/dead-letters")
    expect(page.get_by_text("There are no dead letters.")).to_be_visible()


def test_dead_letters_are_accessible_and_fit(
    page: Page, given_up: tuple[str, list[str]], faults_of: FaultsOf
) -> None:
    page.goto("/dead-letters")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.locator(".filename bdi").evaluate_all("all => all.forEach((each) => (each.textContent = 'a-'.repeat(60)))")
    job = page.get_by_role("link", name="crashed").first.bounding_box()
    assert job is not None
    assert job["height"] < 30, "a short name of a job is on one line"
    assert faults_of(page) == []
    for _ in range(2):
        page.get_by_role("button", name="Discard").first.click()
        expect(page.get_by_role("status")).to_contain_text("discarded")
    expect(page.locator("tbody tr")).to_have_count(0)
    assert faults_of(page) == []
