"""`./scripts/screenshots`: pictures of every page for the documentation, from a system of its own and drawn signs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from scripts.chromium import open_chromium
from scripts.client import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import ROOT, System, free_port
from scripts.studio import PATIENCE_SECONDS, Studio
from services.errors import FleetsightError

FOLDER = ROOT / "docs" / "screenshots"
SEED = 2030
SIGNS = 240
CUT = 3
"""Images that end early: the server takes them, and the workers find out."""

OTHER_JOBS = (("harbour-camera", 60), ("test-set-a", 36), ("depot-gate", 12))
"""What else the list of jobs shows: name and images."""

WORKERS = {"FLEETSIGHT__FLEET__MAX_WORKERS": "3", "FLEETSIGHT__WORKER__IDLE_SECONDS": "60"}
NOWHERE = "/jobs/01M7VZC4WFV7NFCGGR65PAXY7J"

LIGHT = {"viewport": {"width": 1280, "height": 900}}
DARK = {**LIGHT, "color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
NO_SCRIPT = {**LIGHT, "java_script_enabled": False}


def main_job(studio: Studio, files: Sequence[Path]) -> str:
    """Show the upload page with a batch, send it, and return its job's id once all have their results."""
    with studio.page(LIGHT) as page:
        page.goto("/")
        page.get_by_label("Name").fill("road-signs")
        page.get_by_label("Keep my images").check()
        page.locator("#images").set_input_files(files)
        page.locator("#facts", has_not_text="being checked").wait_for()
        studio.shoot(page, "upload")
        page.locator("#send").click()
        page.locator("#said", has_text="not taken").wait_for(timeout=1_000 * PATIENCE_SECONDS)
        job_id = str(page.locator("#follow").get_attribute("href")).rpartition("/")[2]
    whole = files[0].read_bytes()
    studio.api.add_images(job_id, [(f"IMG_9{number:03}.jpg", whole[: len(whole) // 2]) for number in range(CUT)])
    studio.await_results(job_id)
    return job_id


def other_jobs(studio: Studio) -> None:
    """Give the list of jobs something to list."""
    for number, (name, count) in enumerate(OTHER_JOBS):
        job_id = studio.api.create_job(name)
        studio.api.add_images(job_id, [(s.filename, s.data) for s in samples(count, SEED + 1 + number)])
        studio.await_results(job_id)


def shoot_pages(studio: Studio, job_id: str) -> None:
    """Take every page but that of the upload, some in the dark and on a phone."""
    job = f"/jobs/{job_id}"
    done = [result for result in studio.api.results(job_id) if result["status"] == "done"]
    image = min(done, key=lambda result: str(result["filename"]))["image_id"]
    shots = (
        (LIGHT, job, "job"),
        (LIGHT, f"{job}?view=table", "job-table"),
        (LIGHT, f"{job}/images/{image}", "image"),
        (LIGHT, f"{job}/delete", "delete"),
        (LIGHT, "/jobs", "jobs"),
        (LIGHT, "/fleet", "fleet"),
        (LIGHT, "/api", "api"),
        (LIGHT, NOWHERE, "error"),
        (NO_SCRIPT, "/", "upload-plain"),
        (DARK, job, "job-dark"),
        (DARK, "/fleet", "fleet-dark"),
        (PHONE, "/", "upload-phone"),
        (PHONE, job, "job-phone"),
    )
    for options, path, name in shots:
        with studio.page(options) as page:
            page.goto(path)
            studio.shoot(page, name)


def shoot_refusals(studio: Studio, files: Sequence[Path]) -> None:
    """Take the page that tells what of a form was not accepted."""
    with studio.page(NO_SCRIPT) as page:
        page.goto("/")
        page.locator("#images").set_input_files(files)
        page.locator("#send").click()
        page.get_by_text("1 file not accepted").first.wait_for()
        studio.shoot(page, "not-accepted")


def draw_batch(folder: Path, signs: int) -> list[Path]:
    """Draw `signs`, and one file that is no image, into `folder`."""
    files = []
    for number, sample in enumerate(samples(signs, SEED)):
        path = folder / f"IMG_{SEED + number}{Path(sample.filename).suffix}"
        path.write_bytes(sample.data)
        files.append(path)
    notes = folder / "notes.txt"
    notes.write_text("not an image")
    return [*files, notes]


@click.command(help=__doc__)
@click.option(
    "--out", type=click.Path(path_type=Path), default=FOLDER, help="where the pictures go", show_default=True
)
def main(out: Path) -> None:
    """Draw a batch, start a system, and take every page."""
    try:
        take_all(out)
    except FleetsightError as error:
        raise click.ClickException(str(error)) from error


def take_all(out: Path) -> None:
    """Write a picture of each page to the folder `out`.

    Raises:
        FleetsightError: when there is no browser, the system does not start, or a page does not come to be whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, open_chromium() as browser:
        files = draw_batch(Path(scratch), SIGNS)
        system = System(Path(scratch, "system"), {"FLEETSIGHT__WEB__PORT": str(free_port()), **WORKERS})
        api = ApiClient(system.url)
        try:
            system.start()
            studio = Studio(system.url, api, browser, out)
            other_jobs(studio)
            job_id = main_job(studio, files)
            shoot_pages(studio, job_id)
            shoot_refusals(studio, [files[0], files[-1]])
        finally:
            api.close()
            system.stop()


if __name__ == "__main__":
    main()
