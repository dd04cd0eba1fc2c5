"""Uploads straight into the bucket: what page and command send there, and that failures lose and double nothing."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from core.jobs.figures import JobFigures
from core.jobs.store import JobStore
from fleetsight_client.api import ApiClient, UnreachableError
from scripts.run.system import System
from services.s3 import Bucket, Forms
from services.table import Table
from tests.browser.conftest import FEW_WORKERS, LARGER, PageFaults, classify, drop, sent, signs
from tests.browser.test_upload import SENDS_IMAGES, finished
from tests.support.systems import running_system

pytestmark = pytest.mark.processes

COMMITS = re.compile(r"/api/v1/jobs/[0-9A-Z]{26}/uploads/[0-9A-Z]{26}/commit$")


@pytest.fixture(scope="module")
def direct_system(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A whole system with direct uploads."""
    home = tmp_path_factory.mktemp("direct")
    with running_system(home, {**FEW_WORKERS, "FLEETSIGHT__WEB__DIRECT_UPLOADS": "true"}) as started:
        yield started


@pytest.fixture
def page_address(direct_system: System) -> str:
    """The address of `page`."""
    return direct_system.url


@pytest.fixture
def bucket_origin(direct_system: System, page_faults: PageFaults) -> str:
    """The origin of the input bucket, which the page may ask."""
    origin = Forms.for_bucket(direct_system.clients, direct_system.config.names.input_bucket).origin
    page_faults.expect(f"foreign request: {origin}/")
    return origin


@pytest.fixture
def direct_api(direct_system: System) -> Iterator[ApiClient]:
    """A client of the system's API."""
    client = ApiClient(direct_system.url)
    yield client
    client.close()


@dataclass
class LosingClient(ApiClient):
    """A client that loses the answers to some calls.

    Attributes:
        losses: parts of the addresses of calls, each of which is executed, and its answer lost, once.
    """

    losses: list[str] = field(default_factory=list)

    def _send(self, method: str, url: str, **options: Any) -> Any:
        reply = super()._send(method, url, **options)
        for loss in self.losses:
            if loss in url:
                self.losses.remove(loss)
                raise UnreachableError("the answer is lost")
        return reply


def members_by_tar(content: bytes) -> dict[str, bytes]:
    """Return the members of a tar by GNU tar."""

    def tar(*options: str) -> bytes:
        return subprocess.run(["tar", *options], input=content, stdout=subprocess.PIPE, check=True, timeout=60).stdout

    return {name: tar("-xOf", "-", name) for name in tar("-tf", "-").decode().split()}


@pytest.mark.usefixtures("bucket_origin")
def test_images_go_into_the_bucket_in_packs_and_get_their_labels(
    page: Page, direct_system: System, direct_api: ApiClient
) -> None:
    files, truth = signs(60, seed=41, sizes=LARGER)
    renamed = {name: f"{name.rpartition('.')[0]} \u00e9\U0001f600.{name.rpartition('.')[2]}" for name, _ in files}
    by_web_tier: list[str] = []
    page.on("request", lambda request: by_web_tier.append(request.url) if SENDS_IMAGES.search(request.url) else None)
    page.goto("/")
    page.get_by_role("checkbox", name="Keep my images").check()
    drop(page, "#drop", [(renamed[name], content) for name, content in files])
    expect(page.locator("#count")).to_have_text("60 images")
    classify(page)
    job_id = sent(page)
    results = finished(direct_api, job_id, 60)
    labels = {renamed[name]: label for name, label in truth.items()}
    assert sorted(str(result["filename"]) for result in results) == sorted(labels)
    assert sum(result["label"] == labels[str(result["filename"])] for result in results) >= 59
    assert by_web_tier == []

    store = JobStore(Table(direct_system.clients.dynamodb, direct_system.config.names.job_table))
    bucket = Bucket.named(direct_system.clients, direct_system.config.names.input_bucket)
    images = list(store.images(job_id))
    found = {image.key: bucket.get(image.key) for image in images}
    packs = {key: members_by_tar(content) for key, content in found.items() if key.endswith(".tar")}
    assert packs
    contents = {content for pack in packs.values() for content in pack.values()}
    contents |= {content for key, content in found.items() if not key.endswith(".tar")}
    assert contents == {content for _, content in files}
    assert sum(len(pack) for pack in packs.values()) + len(found) - len(packs) == 60


def test_calls_that_fail_are_made_again_and_each_image_is_there_once(
    page: Page, direct_api: ApiClient, page_faults: PageFaults, bucket_origin: str
) -> None:
    files, truth = signs(12, seed=42, sizes=LARGER)
    for expected in ("net::ERR", "503", "403"):
        page_faults.expect(expected)
    commits: list[str] = []
    puts: list[str] = []

    def interfere_with_commit(route: Route) -> None:
        commits.append(route.request.url)
        if len(commits) == 1:
            route.fetch()
            route.abort("connectionreset")  # the server has accepted the images, and its answer is lost
        else:
            route.continue_()

    def interfere_with_put(route: Route) -> None:
        puts.append(route.request.url)
        cors = {"Access-Control-Allow-Origin": "*"}
        if len(puts) == 1:
            route.abort("connectionreset")
        elif len(puts) == 2:
            route.fulfill(status=503, headers=cors, body="<Error><Code>SlowDown</Code></Error>")
        elif len(puts) == 3:
            route.fulfill(status=403, headers=cors, body="<Error><Code>AccessDenied</Code></Error>")
        else:
            route.continue_()

    page.route(COMMITS, interfere_with_commit)
    page.route(f"{bucket_origin}/**", interfere_with_put)
    page.goto("/")
    drop(page, "#drop", files)
    classify(page)
    results = finished(direct_api, sent(page), 12)
    assert len(puts) > 3
    assert len(commits) > 1
    assert sorted(str(result["filename"]) for result in results) == sorted(truth)


@pytest.mark.usefixtures("bucket_origin")
def test_files_that_are_gone_or_changed_cost_no_other_file(
    page: Page, direct_api: ApiClient, page_faults: PageFaults, tmp_path: Path
) -> None:
    files, _ = signs(40, seed=43)
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    gone, changed = (tmp_path / files[number][0] for number in (2, 35))
    page_faults.expect("net::ERR")
    page.goto("/")
    page.locator("#folder-input").set_input_files(tmp_path)
    expect(page.locator("#count")).to_have_text("40 images")
    expect(page.locator("#facts")).not_to_contain_text("being checked")
    gone.unlink()
    changed.write_bytes(files[6][1] + b"more")
    later = changed.stat().st_mtime + 10  # Chromium compares whole seconds, and the page may have been as quick
    os.utime(changed, (later, later))
    classify(page)
    job_id = sent(page)
    page.locator("#rejectedCount").click()
    reason = "it was deleted or changed since it was chosen"
    expected = {f"{tmp_path.name}/{file.name}: {reason}" for file in (gone, changed)}
    assert set(page.locator("#reasons li").all_inner_texts()) == expected
    assert len({result["filename"] for result in finished(direct_api, job_id, 38)}) == 38


def test_the_command_puts_packs_into_the_bucket_too(
    direct_system: System, direct_api: ApiClient, tmp_path: Path
) -> None:
    folder = tmp_path / "signs"
    folder.mkdir()
    files, truth = signs(130, seed=44)
    for name, content in files:
        (folder / name).write_bytes(content)
    (folder / "words.jpg").write_bytes(b"no image")
    command = [sys.executable, "-m", "fleetsight_client", "classify", str(folder), "--url", direct_system.url]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert "130 with a label" in done.stderr, done.stderr
    assert "1 rejected" in done.stderr
    job_id = str(next(direct_api.jobs(page=1))["job_id"])
    results = list(direct_api.results(job_id))
    assert sorted(str(result["filename"]) for result in results) == sorted(truth)
    assert sum(result["label"] == truth[str(result["filename"])] for result in results) >= 128
    counts = JobFigures(Table(direct_system.clients.dynamodb, direct_system.config.names.job_table)).counts(job_id)
    assert 0 < counts.packs == counts.presigned < 130


def test_a_repeat_after_each_lost_answer_has_the_same_images(direct_system: System, direct_api: ApiClient) -> None:
    files, _ = signs(40, seed=45)
    job_id = direct_api.create_job("repeated")
    client = LosingClient(direct_system.url, losses=["/uploads", "-input", "/commit"])
    found = list[dict[int, Any]]()
    for _ in range(5):
        with suppress(UnreachableError):
            sent = client.send_images_directly(
                job_id, files, "direct-key", positions=range(40), remaining=0, trace_id="1" * 32
            )
            found.append(sent)
    client.close()
    assert client.losses == []
    assert len(found) == 2
    assert found[0] == found[1]
    results = finished(direct_api, job_id, 40)
    assert [str(result["filename"]) for result in results] == [name for name, _ in files]
    assert [result["image_id"] for result in results] == list(found[0].values())
