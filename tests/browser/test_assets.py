"""What a browser loads for a page: little, and every file of one release."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from fleetsight_client.api import ApiClient
from web_tier.http.assets import STATIC, assets_hash

pytestmark = pytest.mark.processes

MAX_FIRST_PAGE_BYTES = 120_000
"""Of the bodies as they are sent, from an empty cache: page, styles, scripts, font and icon."""

LOADED = """async () => {
    await document.fonts.ready;
    return performance.getEntries().filter((each) => "encodedBodySize" in each)
        .map((each) => [each.name, each.encodedBodySize, each.transferSize]);
}"""


def loaded(page: Page, path: str) -> dict[str, tuple[int, int]]:
    """Open a page with an empty cache; return the size of each body as sent, and with its headers, by address."""
    page.goto(path)
    return {urlsplit(name).path: (body, sent) for name, body, sent in page.evaluate(LOADED)}


def test_the_first_page_is_small(page: Page) -> None:
    files = loaded(page, "/")
    assert {"/", f"{STATIC}{assets_hash()}/fonts/inter-latin-wght-normal.woff2"} <= files.keys()
    assert all(sent for _, sent in files.values()), "nothing came from a cache"
    assert sum(body for body, _ in files.values()) <= MAX_FIRST_PAGE_BYTES, files


@pytest.mark.parametrize("path", ["/", "/fleet", "/jobs/{job}"])
def test_every_file_of_a_page_has_the_hash_in_its_address_and_is_kept(page: Page, api: ApiClient, path: str) -> None:
    address = path.format(job=api.create_job("small"))
    files = [each for each in loaded(page, address) if each.startswith(STATIC)]
    assert len(files) > 4
    assert [each for each in files if not each.startswith(f"{STATIC}{assets_hash()}/")] == []
    text = page.request.get(address).text()
    assert [each for each in files if each.endswith(".js") and each not in text] == [], "the page names its modules"
    page.goto("/api")
    page.goto(address)
    again = page.evaluate(LOADED)
    assert [name for name, _, sent in again if STATIC in name and sent] == [], "they came from the cache"
