"""`./scripts/screenshots`: pictures of every page and of the terminal, from systems of their own and drawn signs."""

import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from PIL import Image

from fleetsight_client import FleetsightClientError
from fleetsight_client.api import ApiClient
from scripts.chromium import open_chromium
from scripts.demo_model.signs import samples
from scripts.home import HOME_VARIABLE
from scripts.recording import animated_svg, record, shortened
from scripts.run.system import ROOT, System, free_port
from services.errors import FleetsightError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MAX_BYTES = 300_000
COLORS = 256
RESULT_SECONDS = 120.0

SETTLE_MS = 500
"""The time until a page has come to rest, and visible images are requested."""

_IMAGES_LOADED = """
() => [...document.querySelectorAll("main img")].every((image) => {
    const { top, bottom, width } = image.getBoundingClientRect();
    const isSeen = width > 0 && bottom > 0 && top < innerHeight;
    const isMeant = image.src || image.dataset.src; // a file that is no image has a tile, but no picture
    return !isSeen || !isMeant || (image.complete && image.naturalWidth > 0);
})
"""

FOLDER = ROOT / "docs" / "screenshots"
SEED = 2030
SIGNS = 240

TRUNCATED = 3
"""The number of truncated images: the web tier accepts them, and workers reject them."""

OTHER_JOBS = (("harbour-camera", 60), ("test-set-a", 36), ("depot-gate", 12))
"""Further jobs in the list: names and numbers of images."""

WORKERS = {"FLEETSIGHT__FLEET__MAX_WORKERS": "3", "FLEETSIGHT__WORKER__IDLE_SECONDS": "60"}
MISSING_PAGE = "/jobs/01M7VZC4WFV7NFCGGR65PAXY7J"
LIGHT = {"viewport": {"width": 1280, "height": 900}}
DARK = {**LIGHT, "color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
NO_SCRIPT = {**LIGHT, "java_script_enabled": False}


TERMINAL = "terminal.svg"
MAX_RECORDING_BYTES = 150_000
RECORDED = "./scripts/run.sh --once"


class ScreenshotError(FleetsightError):
    """Raised when a page is not complete in time, or its screenshot is too large."""


@dataclass(frozen=True)
class PageCamera:
    """Takes screenshots of a running system with a browser.

    Attributes:
        folder: of the screenshots.
        pictures_seconds: the longest wait for the images on a page.
    """

    url: str
    api: ApiClient
    browser: "Browser"
    folder: Path
    pictures_seconds: float = 20.0

    @contextmanager
    def page(self, options: dict[str, Any]) -> Iterator["Page"]:
        """Open a page with the `options` of its browser context."""
        with self.browser.new_context(base_url=self.url, reduced_motion="reduce", **options) as context:
            yield context.new_page()

    def capture(self, page: "Page", name: str) -> None:
        """Write a screenshot of `page` to `name`.png, with few colours, once its images are loaded.

        Raises:
            ScreenshotError: the images do not load, or the file is larger than `MAX_BYTES`.
        """
        page.wait_for_timeout(SETTLE_MS)
        deadline = time.monotonic() + self.pictures_seconds
        while not page.evaluate(_IMAGES_LOADED):
            if time.monotonic() > deadline:
                raise ScreenshotError(f"not all pictures of {page.url} are there after {self.pictures_seconds:.0f} s")
            page.wait_for_timeout(SETTLE_MS)
        target = self.folder / f"{name}.png"
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(COLORS, dither=Image.Dither.NONE).save(target, optimize=True)
        size = target.stat().st_size
        if size > MAX_BYTES:
            raise ScreenshotError(f"{target} has {size:,} bytes, more than {MAX_BYTES:,}: show less on it")
        click.echo(f"{target} ({size / 1000:.0f} KB)")

    def await_results(self, job_id: str) -> None:
        """Wait until every image of a job has its result.

        Raises:
            ScreenshotError: an image has no result after `RESULT_SECONDS`.
        """
        deadline = time.monotonic() + RESULT_SECONDS
        while (status := self.api.status(job_id))["waiting"]:
            if time.monotonic() > deadline:
                raise ScreenshotError(f"{status['waiting']} images of {job_id} wait after {RESULT_SECONDS:.0f} s")
            time.sleep(0.2)


def main_job(camera: PageCamera, files: Sequence[Path]) -> str:
    """Capture the upload page, upload a batch, and return its job's id once all images have results."""
    with camera.page(LIGHT) as page:
        page.goto("/")
        page.get_by_label("Name").fill("road-signs")
        page.get_by_label("Keep my images").check()
        page.locator("#images").set_input_files(files)
        page.locator("#facts", has_not_text="being checked").wait_for()
        camera.capture(page, "upload")
        page.locator("#send").click()
        page.wait_for_url("**/jobs/*", timeout=1_000 * RESULT_SECONDS)
        job_id = page.url.rpartition("/")[2]
    whole = files[0].read_bytes()
    camera.api.add_images(
        job_id, [(f"IMG_9{number:03}.jpg", whole[: len(whole) // 2]) for number in range(TRUNCATED)]
    )
    camera.await_results(job_id)
    return job_id


def other_jobs(camera: PageCamera) -> None:
    """Create further jobs for the list of jobs."""
    for number, (name, count) in enumerate(OTHER_JOBS):
        job_id = camera.api.create_job(name)
        camera.api.add_images(job_id, [(s.filename, s.data) for s in samples(count, SEED + 1 + number)])
        camera.await_results(job_id)


def capture_pages(camera: PageCamera, job_id: str) -> None:
    """Capture all pages except the upload, some in dark mode and on a phone."""
    job = f"/jobs/{job_id}"
    done = [result for result in camera.api.results(job_id) if result["status"] == "done"]
    image = min(done, key=lambda result: str(result["filename"]))["image_id"]
    shots = (
        (LIGHT, f"{job}?image={image}", "job"),
        (LIGHT, f"{job}?view=table", "job-table"),
        (LIGHT, f"{job}/images/{image}", "image"),
        (LIGHT, f"{job}/delete", "delete"),
        (LIGHT, "/jobs", "jobs"),
        (LIGHT, "/fleet", "fleet"),
        (LIGHT, "/api", "api"),
        (LIGHT, MISSING_PAGE, "error"),
        (NO_SCRIPT, "/", "upload-plain"),
        (DARK, f"{job}?image={image}", "job-dark"),
        (DARK, "/fleet", "fleet-dark"),
        (PHONE, "/", "upload-phone"),
        (PHONE, job, "job-phone"),
        (PHONE, f"{job}?image={image}", "image-phone"),
    )
    for options, path, name in shots:
        with camera.page(options) as page:
            page.goto(path)
            camera.capture(page, name)


def capture_refusals(camera: PageCamera, files: Sequence[Path]) -> None:
    """Capture the page with the rejected files of a form."""
    with camera.page(NO_SCRIPT) as page:
        page.goto("/")
        page.locator("#images").set_input_files(files)
        page.locator("#send").click()
        page.get_by_text("1 file skipped").first.wait_for()
        camera.capture(page, "not-accepted")


def draw_batch(folder: Path, signs: int) -> list[Path]:
    """Draw so many signs, and write one file that is not an image, into `folder`."""
    files = []
    for number, sample in enumerate(samples(signs, SEED)):
        path = folder / f"IMG_{SEED + number}{Path(sample.filename).suffix}"
        path.write_bytes(sample.data)
        files.append(path)
    notes = folder / "notes.txt"
    notes.write_text("not an image")
    return [*files, notes]


def record_terminal(out: Path) -> None:
    """Record a run of the whole system in a terminal; its page has the port of `config.yaml`, which must be free.

    Raises:
        RecordingError: the run fails.
        ScreenshotError: the recording is larger than `MAX_RECORDING_BYTES`.
    """
    with tempfile.TemporaryDirectory() as home:
        own = {name: value for name, value in os.environ.items() if name != "NO_COLOR" and "FLEETSIGHT" not in name}
        environment = {**own, "TERM": "xterm-256color", "COLORTERM": "truecolor", HOME_VARIABLE: home}
        frames = record(RECORDED, RECORDED.split(), folder=ROOT, environment=environment)
    title = f"A terminal with {RECORDED}: a hundred images are uploaded and classified, and the fleet ends"
    picture = animated_svg(shortened(frames), title).encode()
    if len(picture) > MAX_RECORDING_BYTES:
        raise ScreenshotError(f"{TERMINAL} has {len(picture):,} bytes, more than {MAX_RECORDING_BYTES:,}")
    (out / TERMINAL).write_bytes(picture)
    click.echo(f"{out / TERMINAL} ({len(picture) / 1000:.0f} KB)")


@click.command(help=__doc__)
@click.option(
    "--out", type=click.Path(path_type=Path), default=FOLDER, help="where the pictures go", show_default=True
)
@click.option("--only", type=click.Choice(["pages", "terminal"]), help="make only these")
def main(out: Path, only: str | None) -> None:
    """Capture all pages, and record the terminal."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        if only != "pages":
            record_terminal(out)
        if only != "terminal":
            capture_all(out)
    except (FleetsightError, FleetsightClientError) as error:
        raise click.ClickException(str(error)) from error


def capture_all(out: Path) -> None:
    """Write a screenshot of each page to the folder `out`.

    Raises:
        FleetsightError: there is no browser, the system does not start, or a page is not complete in time.
    """
    with tempfile.TemporaryDirectory() as scratch, open_chromium() as browser:
        files = draw_batch(Path(scratch), SIGNS)
        system = System(Path(scratch, "system"), {"FLEETSIGHT__WEB__PORT": str(free_port()), **WORKERS})
        api = ApiClient(system.url)
        try:
            system.start()
            camera = PageCamera(system.url, api, browser, out)
            other_jobs(camera)
            job_id = main_job(camera, files)
            capture_pages(camera, job_id)
            capture_refusals(camera, [files[0], files[-1]])
        finally:
            api.close()
            system.stop()


if __name__ == "__main__":
    main()
