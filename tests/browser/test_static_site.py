"""The front end as static files before a real web tier, as CloudFront serves the two under one name."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from scripts.aws.site import SiteFile, export_site
from scripts.client import FleetClient
from scripts.run.system import System
from tests.browser.conftest import (
    FaultsOf,
    Options,
    PageFaults,
    _watched_page,
    arrived,
    classify,
    person,
    sign_in_at_provider,
    signs,
)
from tests.support.bundles import relabelled_bundle
from tests.support.servers import QuietHandler, serving
from tests.support.stack_template import RESOURCES, value_of
from web_tier.http.assets import STATIC, assets_hash

pytestmark = pytest.mark.processes

ASSETS = f"{STATIC}{assets_hash()}"

NOT_HANDED_ON = frozenset({"connection", "keep-alive", "transfer-encoding"})
ANSWER_SECONDS = 60.0
"""As the distribution's origin has it."""


def headers_of_the_policy() -> dict[str, str]:
    """Return the headers that CloudFront sends with each file by the stack, but for what only TLS makes sense of."""
    config = RESOURCES["SiteHeaders"]["Properties"]["ResponseHeadersPolicyConfig"]
    policy = value_of(config["SecurityHeadersConfig"]["ContentSecurityPolicy"]["ContentSecurityPolicy"])
    policy = re.sub("<[A-Za-z.]+>", "bucket.s3.example.org", policy)
    own = {each["Header"]: each["Value"] for each in config["CustomHeadersConfig"]["Items"]}
    return own | {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}


class Front(QuietHandler):
    """Serves files where GET or HEAD asks for one, and hands on everything else, with the site's name as Host.

    So do CloudFront and nginx together: the one sends X-Forwarded-Host, and the other makes it the Host.
    """

    protocol_version = "HTTP/1.1"
    folder: Path
    files: dict[str, SiteFile]
    origin: str
    served: list[str]

    def _file(self) -> None:
        file = self.files[urlsplit(self.path).path]
        self.served.append(file.address)
        body = (self.folder / file.name).read_bytes()
        headers = {"Content-Type": file.content_type, "Cache-Control": file.cache_control} | headers_of_the_policy()
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = {name: value for name, value in self.headers.items() if name.lower() not in NOT_HANDED_ON}
        connection = HTTPConnection(self.origin, timeout=ANSWER_SECONDS)
        try:
            connection.request(self.command, self.path, body or None, asked)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {*NOT_HANDED_ON, "server", "date"}:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := answer.read1(65_536):  # a stream's part as it comes
                self.wfile.write(part)
                self.wfile.flush()
        finally:
            connection.close()
            self.close_connection = True

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        """Serve a file, or hand on."""
        (self._file if urlsplit(self.path).path in self.files else self._hand_on)()

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        """Hand on, at the address of a file too."""
        self._hand_on()

    def handle(self) -> None:
        """Serve a connection; a browser that goes away in the middle is no fault."""
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@dataclass
class Site:
    """A front on a free port of loopback, and the addresses of the files that it has served."""

    url: str
    served: list[str]


@contextmanager
def site_before(system: System, folder: Path) -> Iterator[Site]:
    """Serve the front end of a system as files of a folder, before its web tier."""
    served, files = list[str](), dict[str, SiteFile]()
    facts = {"origin": urlsplit(system.url).netloc, "folder": folder, "served": served, "files": files}
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), type("OwnFront", (Front,), facts))) as url:
        files |= {file.address: file for file in export_site(folder, system.config, url)}
        yield Site(url, served)


@pytest.fixture(scope="module")
def started_site(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The front end of `system` as files, before it."""
    with site_before(system, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def static_site(started_site: Site) -> Site:
    """The same, which has served nothing yet."""
    started_site.served.clear()
    return started_site


@pytest.fixture
def page_address(static_site: Site) -> str:
    """The address of `page`; another name than the site's counts as another machine, the web tier's own too."""
    return static_site.url


def choose(page: Page, files: list[tuple[str, bytes]]) -> None:
    """Choose images by the form's field."""
    chosen = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    page.locator("#images").set_input_files(chosen)  # type: ignore[arg-type]


def test_choosing_files_on_the_static_page_leads_to_the_jobs_page_with_every_answer(
    page: Page, static_site: Site
) -> None:
    files, truth = signs(3, seed=77)
    page.goto("/")
    choose(page, files)
    classify(page)
    arrived(page)
    for label in set(truth.values()):
        expect(page.locator("#main")).to_contain_text(label)
    expect(page.locator("#main")).to_contain_text("3 images")
    assert {"/", f"{ASSETS}/upload/main.js", f"{ASSETS}/job/main.js"} <= set(static_site.served)


@pytest.fixture
def other_model(system: System, tmp_path: Path) -> Iterator[Callable[[], object]]:
    """Add a model to the system, which loses it again when the test ends."""
    relabelled_bundle(tmp_path / "other", "other", " (2)")
    client = FleetClient(system.url)
    yield lambda: client.add_model(str(tmp_path / "other"), None)
    client.remove_model("other")
    client.close()


def test_the_static_page_offers_the_models_when_there_are_several(
    page: Page, other_model: Callable[[], object], faults_of: FaultsOf
) -> None:
    files, truth = signs(1, seed=81)
    [label] = truth.values()
    with page.expect_response("**/api/v1/models"):
        page.goto("/")
    choice = page.get_by_label("Model", exact=True)
    expect(choice).to_be_hidden()
    other_model()
    page.goto("/")
    expect(choice.locator("option")).to_have_text(["Default: demo", "other"])
    assert faults_of(page) == []
    choice.select_option("other")
    choose(page, files)
    classify(page)
    arrived(page)
    expect(page.locator("#main")).to_contain_text(f"{label} (2)")
    page.goto("about:blank")  # it may still ask for the model


@pytest.mark.parametrize("page_options", [{"java_script_enabled": False}])
def test_the_static_pages_form_uploads_to_the_web_tier_without_scripts(page: Page) -> None:
    files, _ = signs(1, seed=78)
    page.goto("/")
    choose(page, files)
    page.get_by_role("button", name="Classify").click()
    arrived(page)


@pytest.fixture(scope="module")
def site_with_sign_in(sign_in_system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The front end of a system where people sign in, as files, before it."""
    with site_before(sign_in_system, tmp_path_factory.mktemp("site-with-sign-in")) as site:
        yield site


@contextmanager
def opened(browser: Browser, site: Site, options: Options, issuer: str = "") -> Iterator[Page]:
    """A page at the address of a site, where nothing may go wrong; its users may also go to the provider."""
    faults = PageFaults(site.url)
    if issuer:
        faults.expect_provider(issuer)
    yield from _watched_page(browser, site.url, faults, options)


def test_a_person_signs_in_at_the_static_page_sends_images_and_signs_out(
    browser: Browser, site_with_sign_in: Site, sign_in_system: System, page_options: Options
) -> None:
    site, sub, issuer = site_with_sign_in, person(sign_in_system, "static"), str(sign_in_system.config.auth.issuer)
    files, truth = signs(2, seed=79)
    with opened(browser, site, page_options, issuer) as page:
        page.goto("/")
        expect(page.locator("#account")).to_be_hidden()
        page.locator("#headerSignIn").click()
        with page.expect_response("**/api/v1/models") as models:
            sign_in_at_provider(page, sub)
        assert models.value.json()["default"] == "demo"
        assert page.url == f"{site.url}/"  # not the web tier's own address
        expect(page.locator("#account")).to_have_text(f"{sub}@example.org")
        expect(page.locator("#headerSignIn, #fleetLink").locator("visible=true")).to_have_count(0)
        assert page.evaluate("document.cookie + localStorage.length + sessionStorage.length") == "00"
        choose(page, files)
        classify(page)
        arrived(page)
        for label in set(truth.values()):
            expect(page.locator("#main")).to_contain_text(label)
        page.goto("/")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("button", name="End session").click()
        page.wait_for_url(f"{site.url}/signed-out")
        page.goto("/")
        expect(page.locator("#headerSignIn")).to_be_visible()
        expect(page.locator("#account")).to_be_hidden()
    assert {"/", f"{ASSETS}/visitor.js"} <= set(site.served)


@pytest.mark.parametrize("page_options", [{"java_script_enabled": False}])
def test_without_scripts_the_static_page_leads_to_a_form_of_the_persons_session(
    browser: Browser, site_with_sign_in: Site, sign_in_system: System, page_options: Options
) -> None:
    files, _ = signs(1, seed=80)
    with opened(browser, site_with_sign_in, page_options, str(sign_in_system.config.auth.issuer)) as page:
        page.goto("/sign-in")
        sign_in_at_provider(page, person(sign_in_system, "plain"))
        page.get_by_role("link", name="This form").click()
        choose(page, files)
        page.get_by_role("button", name="Classify").click()
        arrived(page)
