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
    """Return the machine's Chromium without a window, which the caller closes; it reaches loopback only."""
    arguments = ["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"]
    if os.geteuid() == 0:  # as is usual in a container: then Chromium has no sandbox
        arguments.append("--no-sandbox")
    return playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
