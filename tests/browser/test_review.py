"""The review of labels on a job's page: by keyboard, many at once, and by a file with true labels."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from core.jobs.models import ImageRecord
from core.messages import ClassificationResult, LabelScore
from fleetsight_client.api import ApiClient
from tests.browser.conftest import LONG_FINISHED, FaultsOf, WrittenJob
from tests.support.jobs import done
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

RESULTS = (("cat", 0.95), ("cat", 0.4), ("dog", 0.6), ("dog", 0.8), ("ship", 0.9), ("ship", 0.85))
"""Label and score of each image of a job; the second label of each is `frog`."""


def with_frog(image: ImageRecord, index: int) -> ClassificationResult:
    label, score = RESULTS[index % len(RESULTS)]
    top = (LabelScore(label=label, score=score), LabelScore(label="frog", score=(1 - score) / 2))
    return done(image, label, score).model_copy(update={"top": top, "model": None})


@pytest.fixture
def answered(write_job: Callable[..., WrittenJob]) -> Callable[..., WrittenJob]:
    """Make finished jobs of files with these names."""

    def make(*names: str) -> WrittenJob:
        written = write_job(len(names), "to be checked", names)
        written.finish(0, len(names), seconds_ago=LONG_FINISHED, answer=with_frog)
        return written

    return make


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has=page.get_by_text(name, exact=True))


def marks(page: Page) -> dict[str, str]:
    """Return the marks of the reviewed images in the list, by filename.

    The page finds and reads them in one step: after a locator has found a mark, the page may remove it.
    """
    read = """() => Object.fromEntries([...document.querySelectorAll(".tile:has(.truth-mark)")].map((tile) =>
        [".filename bdi", ".truth-mark"].map((part) => tile.querySelector(part).textContent)))"""
    found: dict[str, str] = page.evaluate(read)
    return found


WRAPPED_TEXTS = """
(selector) => [...document.querySelectorAll(selector)].filter((element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return new Set([...range.getClientRects()].map(({ x, y }) => `${x} ${y}`)).size > 1;
}).map((element) => element.textContent)
"""
"""The texts of the elements that have more than one line."""


def opened(page: Page) -> Locator:
    """Return the name of the open image, once its page is loaded."""
    return page.locator("#viewed:has(form.truth) .name bdi")


def test_labels_are_accepted_and_corrected_by_keyboard_one_by_one_and_many_at_once(
    page: Page, api: ApiClient, answered: Callable[..., WrittenJob], faults_of: FaultsOf
) -> None:
    job = answered("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    page.goto(job.path)
    expect(page.locator(".tile .pick")).to_have_count(6)
    page.keyboard.press("n")
    expect(opened(page)).to_have_text("b.jpg")  # the lowest score
    page.keyboard.press("a")
    expect(opened(page)).to_have_text("c.jpg")
    page.keyboard.press("2")
    expect(opened(page)).to_have_text("d.jpg")
    expect(page.locator("#review-note")).to_contain_text("True label set: “frog”.")
    wait_until(lambda: marks(page) == {"b.jpg": "✓ accepted", "c.jpg": "✎ frog"}, "both images are marked")
    page.keyboard.press("z")
    expect(page.locator("#review-note")).to_contain_text("Undone.")
    wait_until(lambda: marks(page) == {"b.jpg": "✓ accepted"}, "the mark is taken back")
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()

    page.get_by_label("Select c.jpg").click()
    page.get_by_label("Select e.jpg").click(modifiers=["Shift"])
    expect(page.locator("#selection")).to_contain_text("3 images selected")
    assert page.locator("#selection").evaluate(
        "(bar) => bar.offsetHeight < 2 * bar.querySelector('form').offsetHeight"
    )
    page.keyboard.press("a")
    expect(page.locator("#review-note")).to_contain_text("Accepted 3 labels.")
    expect(page.locator("#selection")).to_be_hidden()
    tile(page, "a.jpg").get_by_role("link").focus()
    page.keyboard.press("x")
    page.get_by_label("True label of the selected images").fill("none  of them")
    page.clock.install()
    page.keyboard.press("Enter")
    expect(tile(page, "a.jpg").locator(".truth-mark")).to_have_text("✎ none of them")
    expect(page.locator("#review-summary")).to_contain_text("Reviewed 5 of 6 · 4 correct (80.0%")
    expect(page.locator("#review-note")).to_be_visible()
    page.clock.fast_forward(11_000)
    expect(page.locator("#review-note")).to_be_hidden()

    page.reload()
    expect(page.locator(".tile .pick")).to_have_count(6)  # before that, links lead to pages of their own
    expect(page.locator(".truth-mark")).to_have_count(5)
    expect(page.locator("#review-summary")).to_contain_text("Reviewed 5 of 6")
    tile(page, "f.jpg").get_by_role("link").click()
    expect(opened(page)).to_have_text("f.jpg")
    page.get_by_label("Other true label").fill("boat")
    page.locator("#viewed").get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#viewed .truth-now")).to_have_text("Corrected: boat")
    assert faults_of(page) == []
    page.locator("#viewed").get_by_role("button", name="Remove").click()
    expect(page.locator("#viewed .truth-now")).to_have_text("Not reviewed")
    expect(page.locator("#review-summary")).to_contain_text("Reviewed 5 of 6")
    truths = [item["truth"] for item in api.results(job.path.rpartition("/")[2])]
    assert truths == ["none of them", "cat", "dog", "dog", "ship", None]


def test_a_file_of_true_labels_fills_the_confusion_matrix_which_filters_the_list(
    page: Page, answered: Callable[..., WrittenJob], faults_of: FaultsOf
) -> None:
    job = answered("day1/a.jpg", "day2/a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    page.goto(job.path)
    expect(page.locator(".tile .pick")).to_have_count(6)
    page.locator("#review summary").click()
    text = "\ufefffile;label\nday1/a.jpg;cat\nday2/a.jpg;dog\nb.jpg;dog\nc.jpg;cat\nd.jpg;ship\na.jpg;cat\n"
    text += "e.jpg;end of all limits\n"
    page.get_by_label("True labels as CSV").set_input_files(
        {"name": "truth.csv", "mimeType": "text/csv", "buffer": text.encode()}
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#truth-outcome")).to_contain_text("6 true labels set. 1 line set nothing:")
    expect(page.locator("#truth-outcome")).to_contain_text("Line 7, a.jpg: several images have this name")
    expect(page.locator("#review-summary")).to_contain_text("Reviewed 6 of 6 · 3 correct (50.0%")
    expect(page.locator(".truth-mark")).to_have_count(6)
    assert page.evaluate(WRAPPED_TEXTS, ".confusion :is(thead bdi, td)") == []
    assert faults_of(page) == []
    page.get_by_role("link", name="1 image: true label dog, model's label cat").click()
    expect(page.locator(".tile .filename")).to_have_count(1)
    expect(page.locator(".tile .filename")).to_have_attribute("title", "day2/a.jpg")
    expect(page).to_have_url(re.compile(r"\?label=cat&truth=dog$"))
    expect(page.locator("#review-filter")).to_contain_text("True label: dog")
    page.go_back()
    expect(page.locator(".tile .filename")).to_have_count(6)
    expect(page.locator("#review-filter")).to_be_hidden()
    page.get_by_role("button", name="Use folder names as true labels").click()
    expect(page.locator("#truth-outcome")).to_contain_text("2 true labels set. 4 without a label.")
    expect(page.locator("#truth-outcome")).to_contain_text("Not classes of the model: day1, day2.")


@pytest.mark.parametrize("page_options", [{"java_script_enabled": False}])
def test_labels_are_reviewed_without_javascript(page: Page, answered: Callable[..., WrittenJob]) -> None:
    job = answered("a.jpg", "b.jpg")
    page.goto(job.path)
    page.get_by_role("link", name="a.jpg").click()
    page.get_by_role("button", name="frog").click()
    expect(page.locator(".truth-now")).to_have_text("Corrected: frog")
    page.get_by_label("Other true label").fill("cat")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator(".truth-now")).to_have_text("Accepted: cat")
    page.get_by_role("link", name="Back to").click()
    expect(page.locator(".truth-mark")).to_have_text("✓ accepted")
    page.locator("#review summary").click()
    page.get_by_label("True labels as CSV").set_input_files(
        {"name": "truth.csv", "mimeType": "text/csv", "buffer": b"b.jpg,dog\n"}
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#evaluation")).to_contain_text("Reviewed 2 of 2 · 1 correct (50.0%")
    page.get_by_role("link", name="1 image: true label dog, model's label cat").click()
    expect(page.locator("#list .filename")).to_have_text("b.jpg")
    page.get_by_role("link", name="Clear", exact=True).click()
    expect(page.locator("#list .filename")).to_have_count(2)
