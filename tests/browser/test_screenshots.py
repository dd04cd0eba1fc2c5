"""The script that takes the documentation's pictures, over a small batch."""

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from fleetsight_client.api import ApiClient
from scripts.run.system import ROOT, System
from scripts.screenshots import (
    FOLDER,
    LIGHT,
    MAX_BYTES,
    PageCamera,
    ScreenshotError,
    capture_pages,
    capture_refusals,
    draw_batch,
    main_job,
)

pytestmark = pytest.mark.processes


@pytest.fixture
def studio(system: System, api: ApiClient, browser: Browser, tmp_path: Path) -> PageCamera:
    return PageCamera(system.url, api, browser, tmp_path, pictures_seconds=20.0)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_every_page_is_taken_in_a_small_file(studio: PageCamera, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = draw_batch(tmp_path_factory.mktemp("batch"), 8)
    job_id = main_job(studio, files)
    capture_pages(studio, job_id)
    capture_refusals(studio, [files[0], files[-1]])
    taken = {path.stem: path for path in studio.folder.glob("*.png")}
    assert {"upload", "job", "job-table", "image", "jobs", "fleet", "api", "error", "not-accepted"} <= set(taken)
    assert all(path.stat().st_size <= MAX_BYTES for path in taken.values())
    assert size(taken["job"]) == (1280, 900)
    assert size(taken["job-phone"]) == (780, 1688)


def test_a_page_whose_pictures_do_not_come_is_not_taken(studio: PageCamera) -> None:
    hasty = PageCamera(studio.url, studio.api, studio.browser, studio.folder, pictures_seconds=0.0)
    with hasty.page(LIGHT) as page:
        page.goto("/jobs")
        page.locator("main").evaluate(
            "(main) => main.prepend(Object.assign(new Image(20, 20), { src: '/nowhere.png' }))"
        )
        with pytest.raises(ScreenshotError, match="/jobs"):
            hasty.capture(page, "jobs")
    assert list(studio.folder.iterdir()) == []


def test_what_the_readme_shows_is_there_and_small() -> None:
    shown = re.findall(r"!\[[^\]]+\]\((docs/screenshots/[^)]+)\)", (ROOT / "README.md").read_text())
    assert len(shown) >= 3
    for path in [*(ROOT / name for name in shown), *FOLDER.glob("*.png")]:
        assert path.stat().st_size <= MAX_BYTES, path
