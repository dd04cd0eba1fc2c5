"""The documentation site in Chromium: nothing is requested from other hosts, search works, and pages fit a phone."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.browser.conftest import PageFaults
from tests.support.documentation import build_site
from tests.support.servers import QuietHandler, serving

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

SIZES: tuple[ViewportSize, ...] = ({"width": 1280, "height": 900}, {"width": 390, "height": 844})


class FileHandler(QuietHandler, SimpleHTTPRequestHandler):
    """Serves files without a log."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    assert build_site(folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def site_url(site: Path) -> Iterator[str]:
    """The address of the site."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(FileHandler, directory=str(site)))) as url:
        yield url


@pytest.fixture(scope="module")
def reader(browser: Browser, site_url: str) -> Iterator[Page]:
    """A page for all tests, in dark colours, that asks no other host for anything and has no error."""
    faults = PageFaults(site_url)
    context = browser.new_context(base_url=site_url, color_scheme="dark")
    page = context.new_page()
    faults.watch(page)
    yield page
    context.close()
    assert faults.unexpected() == []


def find_key(page: Page) -> None:
    """Search for a key of the configuration, and expect the page that has it."""
    if not (search := page.get_by_role("textbox", name="Search")).is_visible():
        page.locator("label.md-header__button[for=__search]").click()
    search.fill("max_workers")
    search.dispatch_event("keyup")  # a key that is pressed while the theme moves the focus may write at the start
    expect(page.locator('.md-search-result__link[href*="/reference/configuration.html"]').first).to_be_attached()


@pytest.mark.parametrize("size", SIZES)
def test_a_key_of_the_configuration_is_found_by_search(reader: Page, size: ViewportSize) -> None:
    reader.set_viewport_size(size)
    reader.goto("/index.html")
    find_key(reader)


def test_search_works_where_a_page_is_opened_from_its_file(browser: Browser, site: Path) -> None:
    faults = PageFaults("file://")
    with browser.new_context() as context:
        page = context.new_page()
        faults.watch(page)
        page.goto((site / "index.html").as_uri())
        find_key(page)
    assert faults.unexpected() == []


@pytest.mark.parametrize("name", ["docs/architecture", "docs/reference/configuration", "docs/aws"])
def test_a_page_draws_its_diagrams_and_is_not_wider_than_the_screen(reader: Page, name: str) -> None:
    for size in SIZES:
        reader.set_viewport_size(size)
        reader.goto(f"/{name}.html")  # after the size: the theme moves its columns for a while
        expect(reader.locator("div.mermaid")).to_have_count(1 if name == "docs/architecture" else 0)
        widths = reader.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == size["width"]
