"""Takes pictures of a running system's pages: few colours, small files, and none before the page is whole."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from PIL import Image

from scripts.client import ApiClient
from services.errors import FleetsightError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MAX_BYTES = 300_000
COLOURS = 256
PATIENCE_SECONDS = 120.0
SETTLED_MS = 500
"""What moves on a page has come to rest, and what is in sight has asked for its pictures."""

_PICTURES_ARE_THERE = """
() => [...document.querySelectorAll("main img")].every((image) => {
    const { top, bottom, width } = image.getBoundingClientRect();
    const isSeen = width > 0 && bottom > 0 && top < innerHeight;
    const isMeant = image.src || image.dataset.src; // a file that is no image has a tile, but no picture
    return !isSeen || !isMeant || (image.complete && image.naturalWidth > 0);
})
"""


class ScreenshotError(FleetsightError):
    """Raised when a page did not come to what was to be shown, or its picture is too large to be kept."""


@dataclass(frozen=True)
class Studio:
    """Where pictures are taken: a running system, a browser, and the folder they go to.

    Attributes:
        pictures_seconds: how long the pictures on a page are waited for.
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

    def shoot(self, page: "Page", name: str) -> None:
        """Write what `page` shows to `name`.png, with few colours, once its pictures are there.

        Raises:
            ScreenshotError: when they do not come, or the file would be larger than `MAX_BYTES`.
        """
        self._await_pictures(page)
        target = self.folder / f"{name}.png"
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
        size = target.stat().st_size
        if size > MAX_BYTES:
            raise ScreenshotError(f"{target} has {size:,} bytes, more than {MAX_BYTES:,}: show less on it")
        click.echo(f"{target} ({size / 1000:.0f} KB)")

    def await_results(self, job_id: str) -> None:
        """Wait until every image of a job has its result.

        Raises:
            ScreenshotError: when not all have after `PATIENCE_SECONDS`.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (status := self.api.status(job_id))["waiting"]:
            if time.monotonic() > deadline:
                raise ScreenshotError(f"{status['waiting']} images of {job_id} wait after {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.2)

    def _await_pictures(self, page: "Page") -> None:
        page.wait_for_timeout(SETTLED_MS)
        deadline = time.monotonic() + self.pictures_seconds
        while not page.evaluate(_PICTURES_ARE_THERE):
            if time.monotonic() > deadline:
                raise ScreenshotError(f"not all pictures of {page.url} are there after {self.pictures_seconds:.0f} s")
            page.wait_for_timeout(SETTLED_MS)
