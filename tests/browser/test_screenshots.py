"""The pictures of pages in the documents: each is of a page as it is today, in a small file.

To make them anew, in three minutes, from a system of their own:

    SCREENSHOTS=docs/screenshots PHOTOS=FOLDER FLEETSIGHT__WORKER__BUNDLE=$PWD/.fleetsight/models/photos \
        .venv/bin/python -m pytest tests/browser/test_screenshots.py

The recording of the terminal, terminal.svg, is a file that no program here makes.
"""

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import ROOT, System
from tests.browser.conftest import ACTION_MS, JOB_PAGE, expect_live, person, signed_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

FOLDER = ROOT / "docs" / "screenshots"
PICTURES = {"job", "fleet", "review", "sharing"}
RECORDING = FOLDER / "terminal.svg"
MAX_BYTES = 300_000
COLORS = 256
SIZE = (1280, 900)
SEED = 2030

WRITTEN_TO = os.environ.get("SCREENSHOTS")
"""The folder that gets the pictures; without it, a test takes them of a small batch and keeps none."""

PHOTOS = os.environ.get("PHOTOS")
"""A folder of photos to show; without it, some road signs are drawn."""

SIGNS = 240 if WRITTEN_TO else 8

IMAGES_LOADED = """
() => [...document.querySelectorAll("main img")].every((image) => {
    const { top, bottom, width } = image.getBoundingClientRect();
    const isSeen = width > 0 && bottom > 0 && top < innerHeight;
    const isMeant = image.src || image.dataset.src; // a file that is no image has a tile, but no picture
    return !isSeen || !isMeant || (image.complete && image.naturalWidth > 0);
})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(WRITTEN_TO) if WRITTEN_TO else tmp_path


@contextmanager
def opened(browser: Browser, system: System) -> Iterator[Page]:
    """A page in the size of the pictures, which does not move."""
    width, height = SIZE
    viewport = {"width": width, "height": height}
    with browser.new_context(base_url=system.url, viewport=viewport, reduced_motion="reduce") as context:  # type: ignore[arg-type]
        context.set_default_timeout(ACTION_MS)
        yield context.new_page()


@pytest.fixture
def visitor(browser: Browser, system: System) -> Iterator[Page]:
    """A page of a system without sign-in."""
    with opened(browser, system) as page:
        yield page


def upload(page: Page, name: str, files: list[Path]) -> str:
    """Send files from the page; return the id of their job."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Keep my images").check()
    page.locator("#images").set_input_files(files)
    page.locator("#facts", has_not_text="being checked").wait_for()
    page.locator("#send").click()
    page.wait_for_url(JOB_PAGE)
    return page.url.rpartition("/")[2]


def take(page: Page, file: Path) -> None:
    """Write a picture of `page` with few colours, once its images are loaded."""
    page.wait_for_timeout(500)  # the page requests the images that are visible
    wait_until(lambda: page.evaluate(IMAGES_LOADED), f"all images of {page.url} are loaded")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
    assert picture.size == SIZE
    assert file.stat().st_size <= MAX_BYTES


def draw(folder: Path, count: int) -> list[Path]:
    """Draw road signs with the names of a camera's files."""
    for number, sample in enumerate(samples(count, SEED)):
        (folder / f"IMG_{SEED + number}{Path(sample.filename).suffix}").write_bytes(sample.data)
    return sorted(folder.iterdir())


@pytest.mark.thorough
def test_the_pictures_of_the_documents_can_be_taken(
    visitor: Page, api: ApiClient, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    batch = tmp_path_factory.mktemp("batch")
    if PHOTOS:
        shutil.copytree(PHOTOS, batch, dirs_exist_ok=True)
    else:
        draw(batch, SIGNS)
    files = sorted(batch.iterdir())
    (batch / "notes.txt").write_text("not an image")

    visitor.goto("/")
    job_id = upload(visitor, "photos" if PHOTOS else "road-signs", [*files, batch / "notes.txt"])
    whole = files[0].read_bytes()
    # The web tier accepts truncated images, and workers reject them.
    api.add_images(job_id, [("IMG_9000.jpg", whole[: len(whole) // 2])])
    wait_until(lambda: not api.status(job_id)["waiting"], "every image has its result")
    done = [result for result in api.results(job_id) if result["status"] == "done"]
    visitor.goto("/fleet")
    take(visitor, folder / "fleet.png")

    image = min(done, key=lambda result: str(result["filename"]))["image_id"]
    visitor.goto(f"/jobs/{job_id}?image={image}")
    expect(visitor.get_by_text(str(min(str(result["filename"]) for result in done))).first).to_be_visible()
    take(visitor, folder / "job.png")

    visitor.goto(f"/jobs/{job_id}")
    expect_live(visitor)
    visitor.locator("#start-review").click()
    expect(visitor.locator("#viewed h1")).to_be_visible()
    for number in range(1, 4):
        visitor.keyboard.press("a")
        expect(visitor.locator("#accuracy")).to_contain_text(f"{number} reviewed")
    take(visitor, folder / "review.png")


@pytest.mark.thorough
def test_the_picture_of_sharing_can_be_taken(
    browser: Browser, sign_in_system: System, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with opened(browser, sign_in_system) as page:
        signed_in(page, person(sign_in_system, "ada"))
        upload(page, "road-signs", draw(tmp_path_factory.mktemp("signs"), 12))
        page.get_by_role("link", name="Share", exact=True).click()
        dialog = page.get_by_role("dialog", name="Share road-signs")
        dialog.get_by_role("button", name="Make a link").click()
        expect(dialog.get_by_label("Link")).to_be_visible()
        take(page, folder / "sharing.png")


def test_each_picture_that_a_document_shows_can_be_taken_or_is_the_recording() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {name for path in documents for name in re.findall(r"screenshots/([\w.-]+)\)", path.read_text())}
    pictures = {RECORDING, *(FOLDER / f"{name}.png" for name in PICTURES)}
    assert len(shown) >= 5
    assert shown <= {path.name for path in pictures}
    assert {path for path in FOLDER.iterdir() if path.stat().st_size <= MAX_BYTES} == pictures
