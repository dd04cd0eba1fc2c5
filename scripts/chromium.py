"""The machine's own Chromium under Playwright: for screenshots and browser tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.errors import FleetsightError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of the program; the first is Chromium without a window, with a third of the CPU time of the others."""
NO_BROWSER = "there is no Chromium on PATH: install one (apt install chromium) or name it in CHROMIUM"
NO_PLAYWRIGHT = "playwright, which drives the browser, is not installed: ./scripts/setup.sh run test"


class NoBrowserError(FleetsightError):
    """Raised when there is no browser; the message says what to install."""


def find_chromium() -> str | None:
    """Return the path of the machine's Chromium, or None; `CHROMIUM` in the environment names another one."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


def launch_chromium(playwright: "Playwright") -> "Browser":
    """Return a Chromium without a window, which the caller closes.

    Raises:
        NoBrowserError: the machine has no Chromium.
    """
    path = find_chromium()
    if path is None:
        raise NoBrowserError(NO_BROWSER)
    # As root, which is usual in a container, Chromium has no sandbox.
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])


@contextmanager
def open_chromium() -> Iterator["Browser"]:
    """Start Playwright and a Chromium without a window, and end both.

    Raises:
        NoBrowserError: Playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowserError(NO_PLAYWRIGHT) from error
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        try:
            yield browser
        finally:
            browser.close()
