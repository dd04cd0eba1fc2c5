"""The machine's own Chromium under Playwright."""

import os
import shutil

from playwright.sync_api import Browser, Playwright

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of the program; the first is Chromium without a window, with a third of the CPU time of the others."""

NO_BROWSER = "there is no Chromium on PATH: install one (apt install chromium) or name it in CHROMIUM"


def find_chromium() -> str | None:
    """Return the path of the machine's Chromium, or None; `CHROMIUM` in the environment names another one."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


def launch_chromium(playwright: Playwright) -> Browser:
    """Return the machine's Chromium without a window, which the caller closes."""
    # As root, which is usual in a container, Chromium has no sandbox.
    return playwright.chromium.launch(
        executable_path=find_chromium(), args=["--no-sandbox"] if os.geteuid() == 0 else []
    )
