"""The review of labels on a job's page: one by one, many at once, and by a file with true labels."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from core.images import CODES
from core.jobs.models import ImageRecord
from core.messages import ClassificationResult, LabelScore
from fleetsight_client.api import ApiClient
from scripts.run.system import System
from tests.browser.conftest import LONG_FINISHED, FaultsOf, WrittenJob
from tests.support.jobs import done, failed, put_results
from tests.support.waiting import wait_until
from web_tier.pages.job import IMAGES_PER_PAGE, sorted_counts

pytestmark = pytest.mark.processes

RESULTS = (("cat", 0.95), ("cat", 0.4), ("dog", 0.6), ("dog", 0.8), ("ship", 0.9), ("ship", 0.85))
"""Label and score of each image of a job; the second label of each is `frog`."""


def with_frog(image: ImageRecord, index: int) -> ClassificationResult:
    label, score = RESULTS[index % len(RESULTS)]
    top = (LabelScore(label=label, score=score), LabelScore(label="frog", score=(1 - score) / 2))
    return done(image, label, score).model_copy(update={"top": top, "model": None})


@pytest.fixture
def answered(write_job: Callable[..., WrittenJob]) -> Callable[..., WrittenJob]:
    """Make finished jobs of files with these names, the last ones without a label."""

    def make(*names: str, failures: int = 0) -> WrittenJob:
        written = write_job(len(names), "to be checked", names)
        written.finish(0, len(names), failures, LONG_FINISHED, with_frog)
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


def test_unsure_labels_are_reviewed_one_by_one(
    page: Page, answered: Callable[..., WrittenJob], faults_of: FaultsOf
) -> None:
    job = answered("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    page.goto(job.path)
    expect(page.locator(".tile .pick")).to_have_count(6)
    dialog, note = page.get_by_role("dialog"), page.locator("#review-note")
    page.get_by_role("link", name="Review 1 unsure").click()
    expect(opened(page)).to_have_text("b.jpg")
    expect(dialog.locator("#position")).to_have_text("1 of 1")
    page.keyboard.press("a")
    expect(dialog).to_be_hidden()
    expect(note).to_contain_text("You have reviewed all 1 image.")
    unsure = page.locator(".chip[data-state=unsure]")
    expect(unsure).to_have_text("Unsure 1")
    page.keyboard.press("z")
    expect(tile(page, "b.jpg").locator(".truth-mark")).to_have_count(0)
    expect(tile(page, "b.jpg").locator(".open")).to_have_accessible_name(re.compile("Unsure: cat"))
    page.get_by_role("link", name="Review 1 unsure").click()
    expect(opened(page)).to_have_text("b.jpg")
    page.keyboard.press("a")
    expect(unsure).to_have_text("Unsure 1")
    page.get_by_role("link", name="Review", exact=True).click()
    expect(opened(page)).to_have_text("c.jpg")  # the lowest score
    expect(dialog.locator("#position")).to_have_text("1 of 5")
    expect(dialog.locator("#accuracy")).to_have_text("1 reviewed, 100.0% right (95% interval 21\N{EN DASH}100%)")
    expect(dialog.get_by_role("button", name="dog 60.0%")).to_be_focused()
    assert faults_of(page) == []
    page.keyboard.press("2")
    expect(opened(page)).to_have_text("d.jpg")
    expect(note).to_contain_text("True label set: “frog”.")
    expect(note).to_be_visible()
    expect(dialog.locator("#accuracy")).to_have_text("2 reviewed, 50.0% right (95% interval 9\N{EN DASH}91%)")
    wait_until(lambda: marks(page) == {"b.jpg": "✓ accepted", "c.jpg": "✎ frog"}, "both images are marked")
    page.keyboard.press("z")
    expect(note).to_contain_text("Undone.")
    expect(opened(page)).to_have_text("c.jpg")
    wait_until(lambda: marks(page) == {"b.jpg": "✓ accepted"}, "the mark is taken back")
    page.keyboard.press("ArrowRight")
    expect(opened(page)).to_have_text("d.jpg")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".truth-mark")).to_have_count(1)


def test_a_key_labels_the_image_that_is_shown_and_never_a_hidden_selection(
    page: Page, api: ApiClient, answered: Callable[..., WrittenJob]
) -> None:
    job = answered(*(f"{name}.jpg" for name in "abcdefgh"))
    page.goto(job.path)
    expect(page.locator(".tile .pick")).to_have_count(8)

    def reviewed() -> str:
        results = api.results(job.path.rpartition("/")[2])
        return "".join(item["filename"][0] for item in results if item["truth"] is not None)

    page.get_by_label("Select a.jpg").click()
    page.get_by_role("link", name="Review 2 unsure").click()
    expect(opened(page)).to_have_text("b.jpg")
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    expect(opened(page)).to_have_text("h.jpg")
    page.keyboard.press("a")
    expect(opened(page)).to_have_text("b.jpg")
    wait_until(lambda: reviewed() == "h", "the image that was shown is labelled")
    page.keyboard.press("a")
    expect(page.get_by_role("dialog")).to_be_hidden()
    selection = page.locator("#selection")
    expect(selection).to_contain_text("1 image selected")
    page.get_by_role("searchbox").fill("c.jpg")
    expect(selection).to_be_hidden()
    tile(page, "c.jpg").get_by_role("link").focus()
    page.keyboard.press("a")
    page.get_by_role("searchbox").fill("")
    expect(selection).to_contain_text("1 image selected")
    tile(page, "d.jpg").get_by_role("link").click()
    for following in ("e.jpg", "f.jpg"):
        expect(opened(page)).not_to_have_text(following)
        page.keyboard.press("a")
        expect(opened(page)).to_have_text(following)
    wait_until(lambda: reviewed() == "bcdeh", "the selected image is not labelled")


def shown_texts(page: Page, selector: str) -> list[str]:
    """Return the texts of the visible elements, each on one line."""
    return [" ".join(text.split()) for text in page.locator(f"{selector} >> visible=true").all_inner_texts()]


def figures_of(results: Iterable[Mapping[str, Any]]) -> dict[str, object]:
    """Return what the page of a finished job must show, by these results of the API."""
    items = list(results)
    labels = Counter(item["label"] for item in items if item["status"] == "done")
    unsure = [item for item in items if item["decision"] == "unsure"]
    failures = [item["error"]["code"] for item in items if item["status"] == "failed"]
    retriable = sum(code not in CODES for code in failures)
    unreviewed = sum(item["truth"] is None for item in unsure)
    counts = {"All": len(items), "Labelled": labels.total(), "Unsure": len(unsure), "Failed": len(failures)}
    return {
        ".chip": [f"{title} {count}" for title, count in counts.items() if count],
        "#histogram li": [f"{label} {count}" for label, count in sorted_counts(labels)],
        "#start-review": [f"Review {unreviewed} unsure" if unreviewed else "Review"],
        "#retry": [f"Retry {retriable} failed"] if retriable else [],
        "marks": {
            item["filename"]: "✓ accepted" if item["correct"] else f"✎ {item['truth']}"
            for item in items
            if item["truth"] is not None
        },
    }


@pytest.mark.parametrize("images", [8, pytest.param(60, marks=pytest.mark.thorough)])
def test_after_each_change_the_figures_of_a_live_page_are_those_of_the_server(
    page: Page, browser: Browser, system: System, api: ApiClient, answered: Callable[..., WrittenJob], images: int
) -> None:
    """The page of 60 images adds up rows; without script it shows a part of them, so the API's results say it all."""
    names = [*"abcdefgh", *map(str, range(images - 8))]
    job = answered(*(f"{name}.jpg" for name in names), failures=images // 10)
    if images > IMAGES_PER_PAGE:
        put_results(job.store, failed(job.images[-1], "it is damaged", "undecodable", attempt=1))
    selectors = ["head title", "#bar title", "#job h1", "#state", "#found", ".job-facts", "#downloaded"]
    if images <= IMAGES_PER_PAGE:
        selectors += ["#start-review", ".chips", "#histogram"]

    def texts(shown: Page) -> list[str]:
        found = [shown.locator(selector).text_content() or "" for selector in selectors]
        found += shown.locator("#list .tile > a").all_text_contents()[:8]
        return [" ".join(text.split()) for text in found]

    def figures() -> dict[str, object]:
        wanted = (".chip", "#histogram li", "#start-review", "#retry")
        return {"marks": marks(page), **{selector: shown_texts(page, selector) for selector in wanted}}

    with browser.new_context(base_url=system.url, java_script_enabled=False) as context:
        plain = context.new_page()

        def is_equal() -> bool:
            if figures() != figures_of(api.results(job.job.job_id)):
                return False
            plain.goto(job.path)
            return texts(page) == texts(plain)

        def compare(what: str) -> None:
            expected = figures_of(api.results(job.job.job_id))
            wait_until(is_equal, f"all have the same figures {what}", details=lambda: f"{expected}\n{figures()}")

        page.goto(job.path)
        compare("at first")
        for name, key in (("b.jpg", "a"), ("c.jpg", "2"), ("h.jpg", "2")):
            tile(page, name).get_by_role("link").click()
            expect(opened(page)).to_have_text(name)
            page.keyboard.press(key)
            compare(f"after {key} on {name}")
        page.keyboard.press("z")
        compare("after undo")
        for score in (0.85, 0.45):
            api.set_min_scores(job.job.job_id, {"min_score": score})
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            compare(f"when scores count from {score}")
        page.reload()
        compare("after a reload")


@pytest.mark.parametrize("page_options", [{"viewport": {"width": 390, "height": 844}, "has_touch": True}])
def test_on_a_phone_labels_are_reviewed_by_thumb(page: Page, answered: Callable[..., WrittenJob]) -> None:
    page.goto(answered("a.jpg", "b.jpg").path)
    expect(page.locator(".tile .pick")).to_have_count(2)
    page.get_by_role("link", name="Review 1 unsure").tap()
    dialog = page.get_by_role("dialog")
    expect(opened(page)).to_have_text("b.jpg")
    for name in ("cat", "frog"):
        box = dialog.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert 844 / 2 <= box["y"] <= box["y"] + box["height"] <= 844
    dialog.get_by_role("button", name="frog").tap()
    expect(dialog).to_be_hidden()
    expect(tile(page, "b.jpg").locator(".truth-mark")).to_have_text("✎ frog")


def test_labels_are_accepted_and_corrected_many_at_once_and_on_the_panel(
    page: Page, api: ApiClient, answered: Callable[..., WrittenJob], faults_of: FaultsOf
) -> None:
    job = answered("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    page.clock.install()
    page.goto(job.path)
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
    page.keyboard.press("Enter")
    expect(tile(page, "a.jpg").locator(".truth-mark")).to_have_text("✎ none of them")
    expect(page.locator("#review-note")).to_be_visible()
    page.clock.fast_forward(11_000)
    expect(page.locator("#review-note")).to_be_hidden()

    page.reload()
    expect(page.locator(".tile .pick")).to_have_count(6)  # before that, links lead to pages of their own
    expect(page.locator(".truth-mark")).to_have_count(4)
    tile(page, "f.jpg").get_by_role("link").click()
    expect(opened(page)).to_have_text("f.jpg")
    page.get_by_label("Other true label").fill("boat")
    page.locator("#viewed").get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#viewed .truth-now")).to_have_text("Corrected: boat")
    assert faults_of(page) == []
    page.locator("#viewed").get_by_role("button", name="Remove the true label").click()
    expect(page.locator("#viewed .truth-now")).to_have_text("Not reviewed: choose the true label.")
    truths = [item["truth"] for item in api.results(job.path.rpartition("/")[2])]
    assert truths == ["none of them", None, "dog", "dog", "ship", None]


def test_a_file_of_true_labels_fills_the_confusion_matrix_which_filters_the_list(
    page: Page, answered: Callable[..., WrittenJob], faults_of: FaultsOf
) -> None:
    job = answered("day1/a.jpg", "day2/a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    page.goto(f"{job.path}/evaluation")
    text = "\ufefffile;label\nday1/a.jpg;cat\nday2/a.jpg;dog\nb.jpg;dog\nc.jpg;cat\nd.jpg;ship\na.jpg;cat\n"
    text += "e.jpg;end of all limits\n"
    page.get_by_label("True labels as CSV").set_input_files(
        {"name": "truth.csv", "mimeType": "text/csv", "buffer": text.encode()}
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#truth-outcome")).to_contain_text("6 true labels set. 1 line set nothing:")
    expect(page.locator("#truth-outcome")).to_contain_text("Line 7, a.jpg: several images have this name")
    expect(page.locator("#evaluation")).to_contain_text("60.0% of the model's labels are right: 3 of 5")
    expect(page.locator("#evaluation")).to_contain_text("no class of the model: 1 image (end of all limits).")
    assert page.evaluate(WRAPPED_TEXTS, ".confusion :is(thead bdi, td a)") == []
    assert faults_of(page) == []
    page.get_by_role("link", name="1 image: true label dog, model's label cat").click()
    expect(page.locator(".tile .filename")).to_have_count(1)
    expect(page.locator(".tile .filename")).to_have_attribute("title", "day2/a.jpg")
    expect(page).to_have_url(re.compile(r"\?truth=dog&label=cat$"))
    expect(page.locator("#review-filter")).to_contain_text("True label: dog")
    page.get_by_role("link", name="All 6").click()
    expect(page.locator(".tile .filename")).to_have_count(6)
    expect(page.locator("#review-filter")).to_be_hidden()
    page.locator("[popovertarget=actions]").click()
    page.get_by_role("link", name="Accuracy and true labels").click()
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
    page.locator("[popovertarget=actions]").click()
    page.get_by_role("link", name="Accuracy and true labels").click()
    page.get_by_label("True labels as CSV").set_input_files(
        {"name": "truth.csv", "mimeType": "text/csv", "buffer": b"b.jpg,dog\n"}
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#evaluation")).to_contain_text("50.0% of the model's labels are right: 1 of 2")
    page.get_by_role("link", name="1 image: true label dog, model's label cat").click()
    expect(page.locator("#list .filename")).to_have_text("b.jpg")
    page.get_by_role("link", name="Clear", exact=True).click()
    expect(page.locator("#list .filename")).to_have_count(2)
