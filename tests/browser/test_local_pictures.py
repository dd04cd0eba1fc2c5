"""The small pictures that the browser which uploads keeps for itself, of images that the server will delete."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from scripts.client import ApiClient
from scripts.demo_model.signs import samples
from tests.browser.conftest import Options, drop
from tests.browser.test_upload import arrived, classify, finished

pytestmark = pytest.mark.processes

_MODULE = "/static/job/local_pictures.js"
_FIND = """
async ([module, ids]) => {
    const { localPicture } = await import(module);
    return Promise.all(ids.map(localPicture));
}
"""
_KEEP = """
async ([module, count, ageDays]) => {
    const { keepPictures } = await import(module);
    const now = Date.now;
    Date.now = () => now() - ageDays * 24 * 3600 * 1000;
    const picture = { type: "image/jpeg", bytes: new ArrayBuffer(1) };
    for (let from = 0; from < count; from += 2000) {
        const numbers = Array.from({ length: Math.min(2000, count - from) }, (_, index) => from + index);
        await keepPictures(`job-${ageDays}`, numbers.map((number) => ({ imageId: `${ageDays}-${number}`, picture })));
    }
    Date.now = now;
}
"""
_COUNT = """
() => new Promise((resolve) => {
    indexedDB.open("fleetsight").onsuccess = ({ target }) => {
        target.result.transaction("pictures").objectStore("pictures").count().onsuccess = ({ target: counted }) => {
            target.result.close();
            resolve(counted.result);
        };
    };
})
"""
_DRAWN_SIZE = """
async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
}
"""


def upload(page: Page, api: ApiClient, seed: int, *, keep: bool = False) -> tuple[str, list[str]]:
    """Upload four large signs through the page; return their job and ids once the job's page is there."""
    files = [(sample.filename, sample.data) for sample in samples(4, seed, sizes=(((640, 480), 1.0),))]
    page.goto("/")
    if keep:
        page.get_by_label("Keep my images").check()
    drop(page, "#drop", files)
    classify(page)
    job_id = arrived(page)
    return job_id, [str(result["image_id"]) for result in finished(api, job_id, 4)]


def found(page: Page, ids: list[str]) -> list[Any]:
    """Return what the browser has for images: an address, or None."""
    addresses: list[Any] = page.evaluate(_FIND, [_MODULE, ids])
    return addresses


def test_the_browser_keeps_a_small_picture_of_each_image_that_the_server_deletes(page: Page, api: ApiClient) -> None:
    _, ids = upload(page, api, seed=31)
    addresses = found(page, ids)
    assert all(len(address) < 12_000 for address in addresses)
    assert page.evaluate(_DRAWN_SIZE, addresses[0]) == [112, 84]


def test_the_page_of_a_job_shows_them_where_the_server_has_none(page: Page, api: ApiClient) -> None:
    upload(page, api, seed=36)
    expect(page.locator('#list .tile.done img[src^="data:image/jpeg"]')).to_have_count(4)


def test_of_images_that_the_server_keeps_the_browser_keeps_nothing(page: Page, api: ApiClient) -> None:
    _, ids = upload(page, api, seed=32, keep=True)
    assert found(page, ids) == [None] * 4


def test_deleting_a_job_lets_go_of_its_pictures_and_of_no_others(page: Page, api: ApiClient) -> None:
    _, others = upload(page, api, seed=33)
    job_id, ids = upload(page, api, seed=34)
    page.goto(f"/jobs/{job_id}/delete")
    page.get_by_role("button", name="Delete the job").click()
    page.wait_for_url("**/jobs")
    assert found(page, ids) == [None] * 4
    assert None not in found(page, others)


def test_pictures_older_than_a_week_are_not_shown_and_go_with_the_next_upload(page: Page) -> None:
    page.goto("/jobs")
    page.evaluate(_KEEP, [_MODULE, 2, 8])
    page.evaluate(_KEEP, [_MODULE, 2, 6])
    assert found(page, ["8-0"]) == [None]
    assert None not in found(page, ["6-0", "6-1"])
    page.evaluate(_KEEP, [_MODULE, 1, 0])
    assert page.evaluate(_COUNT) == 3


def test_the_oldest_pictures_go_when_there_are_more_than_20000(page: Page) -> None:
    page.goto("/jobs")
    page.evaluate(_KEEP, [_MODULE, 100, 2])
    page.evaluate(_KEEP, [_MODULE, 20_000, 1])
    assert page.evaluate(_COUNT) == 20_000
    assert found(page, ["2-0"]) == [None]


BROKEN = {
    "switched off": "Object.defineProperty(window, 'indexedDB', { get() { throw new Error('not allowed'); } })",
    "full": "IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError'); }",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_where_the_browser_can_keep_nothing_the_upload_goes_on(page: Page, api: ApiClient, broken: str) -> None:
    page.add_init_script(broken)
    _, ids = upload(page, api, seed=35)
    assert found(page, ids) == [None] * 4


NO_SCRIPT: Options = {"java_script_enabled": False}


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_a_job_is_deleted_without_javascript_too(page: Page, api: ApiClient) -> None:
    job_id = api.create_job("to be deleted")
    page.goto(f"/jobs/{job_id}/delete")
    page.get_by_role("button", name="Delete the job").click()
    expect(page).to_have_url("/jobs")
