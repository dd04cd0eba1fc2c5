"""The pages in a real Chromium, over a whole system of real processes.

What a test asks for:

* `page`: a Playwright page at the system's address (`page.goto("/")`). The test fails when the page logs an error,
  throws one, is denied something by the Content-Security-Policy, or asks another machine for anything. What a test
  provokes on purpose it announces: `page_faults.expect("503")` lets pass what contains that text.
* `system`: the running system behind it: `system.url`, `system.config`, `system.supervisor`, and `api`, a client of
  its API. It is one for all tests of this folder, so each test makes jobs of its own, and leaves no model or limit.
* `sign_in_system`: a system where people sign in, one for all tests that want it: each adds users of its own to the
  provider with `person(sign_in_system, name)`, and has one in a browser with `signed_in(page, user)`. At the page of
  the provider, `sign_in_at_provider(page, user)` signs in; `page_faults.expect_provider` lets its pages pass.
* `faults_of`: `faults_of(page)` returns a line for each thing that is not accessible or does not fit; none is the
  promise. It checks the page in light, and in dark on a phone.
* `drop(page, selector, files)`: drops files, each `(name, content)`, as a person does.

`page.wait_for_function` evaluates a string in the page, which its Content-Security-Policy forbids: wait with
`expect(page.locator(…))` or `page.evaluate` instead.

The browser is the machine's own (chromium, chromium-browser or google-chrome on PATH, or `CHROMIUM=/path`). Where
there is none the tests are skipped and say so; in CI they fail.
"""

import base64
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import urlsplit

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    ViewportSize,
    expect,
    sync_playwright,
)

from core.ids import ImageRef, new_id
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult
from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import SizeShares, samples
from scripts.run.sign_in import operator_token, provider_settings
from scripts.run.system import System
from services.table import Table
from tests.support.chromium import NO_BROWSER, find_chromium, launch_chromium
from tests.support.jobs import done, failed, put_results
from tests.support.providers import CLIENT, SECRET, mock_provider
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.auth.session_keys import SECRET_VARIABLE

FEW_WORKERS = {"FLEETSIGHT__FLEET__MAX_WORKERS": "2", "FLEETSIGHT__WORKER__IDLE_SECONDS": "120"}
"""Workers stay for the tests that follow: the start of one takes more CPU time than most tests."""

SOURCE = "s3://photos/cases/"
ACTION_MS = DEADLINE_SECONDS * 1_000
STYLES: dict[str, tuple[Literal["light", "dark"], ViewportSize | None]] = {
    "light": ("light", None),
    "dark on a phone": ("dark", {"width": 320, "height": 640}),
}
"""Color scheme and viewport of each style; None is the test's own viewport. 320 px is the width of WCAG 1.4.10."""

MORE_RULES = {"target-size": {"enabled": True}}
"""Those of WCAG 2.2 that axe leaves out by default."""

STYLES_OF_PROVIDERS = ("https://cdn.jsdelivr.net/", "https://fonts.googleapis.com/")

LOCAL_SCHEMES = frozenset({"data", "blob", "about"})

JOB_PAGE = re.compile(r"/jobs/([0-9A-Z]{26})$")

Options = dict[str, object]
Files = Sequence[tuple[str, bytes]]
FaultsOf = Callable[..., list[str]]
"""`faults_of(page)`, or `faults_of(page, part)` for what a selector finds in a page without faults."""


@dataclass
class PageFaults:
    """What went wrong in a page, and what of it the test expects."""

    origin: str
    found: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def expect(self, text: str) -> None:
        """Let pass each fault that contains `text`."""
        self.expected.append(text)

    def expect_provider(self, issuer: str) -> None:
        """Let pass the pages of a provider, and the styles that those of `tests.support.providers` load."""
        self.expected += [f"foreign request: {issuer}/", f"({issuer}/", *STYLES_OF_PROVIDERS]

    def watch(self, page: Page) -> None:
        """Note the errors and the foreign requests of `page` from now on."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.found.append(f"page error: {error}"))
        page.on("request", lambda request: self._check_address(request.url))

    def unexpected(self) -> list[str]:
        """Return what the test did not expect."""
        return [fault for fault in self.found if not any(text in fault for text in self.expected)]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.found.append(f"console error: {message.text} ({message.location.get('url', '')})")

    def _check_address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in LOCAL_SCHEMES and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.found.append(f"foreign request: {url}")


@pytest.fixture(scope="package")
def system(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A whole system, with at most two workers, for all tests that do not break it; it may import from `SOURCE`."""
    more = {"FLEETSIGHT__IMPORTS__SOURCES": f'[{{"location": "{SOURCE}"}}]'}
    with running_system(tmp_path_factory.mktemp("browser"), FEW_WORKERS | more) as started:
        yield started


@pytest.fixture(scope="package")
def sign_in_system(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A whole system where users sign in at PyPI's oidc-provider-mock."""
    more = {"FLEETSIGHT__FLEET__POLICY": "deadline"}  # which offers *Finish by*
    home = tmp_path_factory.mktemp("sign-in")
    with mock_provider("") as provider, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET_VARIABLE, SECRET)
        with running_system(home, {**FEW_WORKERS, **more, **provider_settings(provider.issuer, CLIENT)}) as started:
            started.token = operator_token(Table(started.clients.dynamodb, started.config.names.job_table))
            yield started


def person(system: System, name: str) -> str:
    """Add a user to the provider of `sign_in_system`; return their `sub`, which is also in their address."""
    sub = f"{name}-{new_id().lower()}"
    claims = {"email": f"{sub}@example.org", "email_verified": True}
    requests.put(f"{system.config.auth.issuer}/users/{sub}", json=claims, timeout=60).raise_for_status()
    return sub


def signed_in(page: Page, sub: str) -> Page:
    """Sign in a user by requests of the page's browser; return the page, with the first page in it."""
    at_provider = page.request.get("/sign-in").url
    page.request.post(at_provider, form={"sub": sub})
    page.goto("/")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.wait_for_load_state()  # its scripts ignore what is dropped before
    return page


def sign_in_at_provider(page: Page, sub: str) -> None:
    """Do what a user does at the page of oidc-provider-mock."""
    page.get_by_placeholder("sub").fill(sub)
    page.get_by_role("button", name="Authorize").click()


@pytest.fixture(scope="package")
def api(system: System) -> Iterator[ApiClient]:
    """A client of the system's API."""
    client = ApiClient(system.url)
    yield client
    client.close()


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Playwright's driver."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="package")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The machine's Chromium, without a window."""
    if find_chromium() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_BROWSER)
    driver: Playwright = request.getfixturevalue("playwright")
    expect.set_options(timeout=ACTION_MS)
    launched = launch_chromium(driver)
    yield launched
    launched.close()


@pytest.fixture
def page_address(system: System) -> str:
    """The address of `page`, for modules to override."""
    return system.url


@pytest.fixture
def page_faults(page_address: str) -> PageFaults:
    """What goes wrong in `page`."""
    return PageFaults(page_address)


@pytest.fixture
def page_options() -> Options:
    """Options of the browser context, for tests to override: `@pytest.mark.parametrize("page_options", [...])`."""
    return {}


@pytest.fixture
def page(browser: Browser, page_address: str, page_faults: PageFaults, page_options: Options) -> Iterator[Page]:
    """A page at an address, the system's unless a module overrides it, in a context of its own.

    Chromium cannot always close one tab of a context: it waits for ever if the tab is going back in its history.
    """
    yield from _watched_page(browser, page_address, page_faults, page_options)


def _context(browser: Browser, url: str, options: Options) -> BrowserContext:
    # Chromium draws each step of an animation: skeletons cost a sixth of a core or more as long as a page has them.
    context = browser.new_context(**{"base_url": url, "reduced_motion": "reduce"} | options)  # type: ignore[arg-type]
    context.set_default_timeout(ACTION_MS)
    return context


def _watched_page(browser: Browser, url: str, faults: PageFaults, options: Options) -> Iterator[Page]:
    with _context(browser, url, options) as context:
        opened = context.new_page()
        faults.watch(opened)
        yield opened
    assert faults.unexpected() == []


@pytest.fixture(scope="package")
def faults_of() -> FaultsOf:
    """Check a page in light, and in dark on a phone.

    Return a line for each violation of WCAG 2.2 A and AA and of axe's good practice, and for each style that is wider
    than the screen. axe is evaluated by the browser's debugger, so the page's Content-Security-Policy stays on.
    """
    first, again = Axe(), Axe("0")  # a document gets the script once

    def check(page: Page, part: str | None = None) -> list[str]:
        usual = page.viewport_size
        assert usual is not None
        faults: list[str] = []
        for style, (scheme, size) in STYLES.items():
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size(size or usual)
            checker = again if page.evaluate("'axe' in window") else first
            # It would load the stylesheets again for rules that are off, and media, of which there are none.
            options = {"resultTypes": ["violations"], "preload": False, "rules": MORE_RULES}
            violations = checker.run(page, part, options).response["violations"]
            faults += [
                f"{style}: {violation['id']}: {violation['help']}: {node['html']}"
                for violation in violations
                for node in violation["nodes"]
            ]
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                faults.append(f"{style}: the page is wider than the screen: {page.evaluate(_WIDE_ELEMENTS)}")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(usual)
        return faults

    return check


_WIDE_ELEMENTS = """
[...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > innerWidth)
    .map((element) => element.outerHTML.slice(0, 120))
"""

_DROP = """
(target, files) => {
    const transfer = new DataTransfer();
    for (const [name, content, zeros] of files) {
        const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
        transfer.items.add(new File([bytes, new Uint8Array(zeros)], name));
    }
    for (const kind of ["dragenter", "dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }
}
"""


def drop(page: Page, selector: str, files: Files) -> None:
    """Drop `files` on what `selector` names."""
    encoded = []
    for name, content in files:
        start = content.rstrip(b"\0")  # megabytes of zeros are made in the page
        encoded.append([name, base64.b64encode(start).decode(), len(content) - len(start)])
    page.locator(selector).evaluate(_DROP, encoded)


SMALL: SizeShares = (((96, 96), 0.5), ((128, 96), 0.5))
"""Sizes of signs, in pixels: a hundred are under a megabyte. Playwright takes seconds to hand over large ones."""

LARGER: SizeShares = (((640, 480), 1.0),)
"""Five of these signs fill one of the first requests of an upload."""


def signs(count: int, seed: int, sizes: SizeShares = SMALL) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Return drawn signs as files, and their labels by filename."""
    drawn = list(samples(count, seed, sizes))
    return [(sample.filename, sample.data) for sample in drawn], {sample.filename: sample.label for sample in drawn}


def classify(page: Page) -> None:
    """Wait until every file is checked, then send the batch."""
    expect(page.locator("#facts")).not_to_contain_text("being checked")
    page.get_by_role("button", name="Classify").click()


def arrived(page: Page) -> str:
    """Wait for the job's page; return the job's id."""
    page.wait_for_url(JOB_PAGE)
    match = JOB_PAGE.search(page.url)
    assert match is not None
    return match[1]


def sent(page: Page) -> str:
    """Wait for the job's page until every file was sent or rejected; return the job's id."""
    job_id = arrived(page)
    wait_until_sent(page)
    return job_id


def wait_until_sent(page: Page) -> None:
    """Wait until every file was sent or rejected, on the page of the job.

    A test that intercepts requests waits here first: it handles them only while it waits for the page.
    """
    expect(page.locator("#adding:not([aria-busy='true'])")).to_be_visible()


LABELS = ("stop", "give way", "no entry", "parking", "danger")
LONG_FINISHED = 100.0
"""Seconds after which a page without JavaScript no longer reloads itself, while a test fills in its form."""
Answer = Callable[[ImageRecord, int], ClassificationResult]


def expect_live(page: Page) -> None:
    """Wait until the list of a job is the script's, which answers all keys and clicks from then on.

    Before that, links lead to pages of their own.
    """
    expect(page.locator("#list a.open[data-id]").first).to_be_attached()


@dataclass
class WrittenJob:
    """A job; a test writes its records and results straight into the table, so it needs no worker."""

    store: JobStore
    job: Job
    images: list[ImageRecord]

    @property
    def path(self) -> str:
        return f"/jobs/{self.job.job_id}"

    def finish(
        self, first: int, last: int, failures: int = 0, seconds_ago: float = 0.0, answer: Answer | None = None
    ) -> None:
        """Put the results of some images, the last `failures` of them without a label."""
        chosen, answer = self.images[first:last], answer or answer_of
        good = [answer(image, index) for index, image in enumerate(chosen[: len(chosen) - failures])]
        bad = [failed(image) for image in chosen[len(chosen) - failures :]]
        put_results(self.store, *good, *bad, at=datetime.now(UTC) - timedelta(seconds=seconds_ago))


def answer_of(image: ImageRecord, index: int) -> ClassificationResult:
    """Return the result of an image by its place in the job; one in fifty is unsure."""
    result = done(image, LABELS[index % len(LABELS)], 0.5 + (index % 50) / 100 if index % 50 else 0.499)
    return result.model_copy(update={"model": None})


@pytest.fixture
def write_job(system: System, page: Page, page_faults: PageFaults) -> Iterator[Callable[..., WrittenJob]]:
    """Make jobs of records only; they are deleted afterwards, so that no controller searches for their images."""
    # There are no images to draw thumbnails from. Hundreds of requests for them would take seconds of CPU time.
    page_faults.expect("/thumbnail)")
    debugger = page.context.new_cdp_session(page)
    debugger.send("Network.enable")
    debugger.send("Network.setBlockedURLs", {"urls": ["*/thumbnail"]})
    store = JobStore(Table(system.clients.dynamodb, system.config.names.job_table))
    made: list[str] = []

    def write(count: int, name: str = "written", filenames: tuple[str, ...] = ()) -> WrittenJob:
        job = Job(new_id(), name, datetime.now(UTC))
        made.append(job.job_id)
        store.create(job)
        refs = [ImageRef(job.job_id, new_id()) for _ in range(count)]
        names = [*filenames, *(f"IMG_{index:05}.jpg" for index in range(len(filenames), count))]
        images = [
            ImageRecord(ref, name, "jpg", (4_096,), job.created_at) for ref, name in zip(refs, names, strict=True)
        ]
        with ThreadPoolExecutor(4) as writers:
            parts = [images[at : at + 500] for at in range(0, count, 500)]
            list(writers.map(lambda part: store.record_images(part, job.created_at), parts))
        for opened in OpenJobs(store.table).find_all():
            if opened.job_id == job.job_id:
                OpenJobs(store.table).close(opened)
        return WrittenJob(store, job, images)

    yield write
    page.goto("about:blank")  # it may still ask for one of these jobs, and would get a 404
    for job in store.jobs_of(made).values():  # a test may have deleted some
        DeletedJobs(store.table).delete(job)
