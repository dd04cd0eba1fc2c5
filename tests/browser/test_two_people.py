"""Two people, each in a browser of their own, at the same system (rows 31 and 40)."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from scripts.run.system import System
from tests.browser.conftest import FaultsOf, PageFaults, expect_live, person, signed_in
from tests.support.jobs import picture

FILENAME = "my-holiday.png"
"""Both send a file of this name, with the very same bytes."""


@dataclass
class Person:
    """A user at their browser, and the address of the job that they have made."""

    sub: str
    page: Page
    job: str = ""

    def send(self, name: str) -> None:
        """Send the picture as a job of this name, and wait for the job's page."""
        self.page.goto("/")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Keep my images").check()
        file = {"name": FILENAME, "mimeType": "image/png", "buffer": picture("PNG", (64, 64))}
        self.page.locator("#images").set_input_files(file)  # type: ignore[arg-type]
        self.page.get_by_role("button", name="Classify").click()
        self.page.wait_for_url("**/jobs/*")

    def upload(self, name: str) -> None:
        """Send the picture, and wait for its result."""
        self.send(name)
        self.job = urlsplit(self.page.url).path
        expect(self.page.get_by_text("finished")).to_be_visible()

    def status_of(self, path: str) -> int:
        """Return how the server answers this browser, cookie and all."""
        return self.page.request.get(path, max_redirects=0).status


@pytest.fixture(scope="module")
def people(browser: Browser, sign_in_system: System) -> Iterator[tuple[Person, Person]]:
    """Two signed-in users with a finished job each."""
    with ExitStack() as contexts:
        both = []
        for name in ("ada", "ben"):
            context = contexts.enter_context(browser.new_context(base_url=sign_in_system.url))
            faults, page = PageFaults(sign_in_system.url), context.new_page()
            faults.expect_provider(str(sign_in_system.config.auth.issuer))  # after the sign-out
            faults.watch(page)
            contexts.callback(_nothing_went_wrong, faults)
            sub = person(sign_in_system, name)
            someone = Person(sub, signed_in(page, sub))
            someone.upload(f"the album of {name}")
            both.append(someone)
        ada, ben = both
        yield ada, ben


def _nothing_went_wrong(faults: PageFaults) -> None:
    faults.expect("404")  # where a test asks for what is another's
    assert faults.unexpected() == []


def test_each_sees_their_own_job_and_never_the_others(people: tuple[Person, Person]) -> None:
    ada, ben = people
    assert (ada.status_of(ben.job), ben.status_of(ada.job)) == (404, 404)
    for someone, own, others in ((ada, "ada", "ben"), (ben, "ben", "ada")):
        someone.page.goto("/jobs")
        expect(someone.page.get_by_role("link", name=f"the album of {own}", exact=True)).to_be_visible()
        expect(someone.page.get_by_text(f"the album of {others}")).to_have_count(0)
        someone.page.goto("/jobs?q=album")
        expect(someone.page.get_by_text(f"the album of {others}")).to_have_count(0)
        expect(someone.page.get_by_role("banner")).to_contain_text(someone.sub)


def test_a_link_shows_a_job_to_anybody_until_its_owner_ends_it(
    people: tuple[Person, Person], browser: Browser, sign_in_system: System, faults_of: FaultsOf
) -> None:
    ada, _ = people
    ada.page.goto(ada.job)
    ada.page.get_by_role("link", name="Share", exact=True).click()
    dialog = ada.page.get_by_role("dialog", name="Share the album of ada")
    dialog.get_by_role("button", name="Make a link").click()
    link = dialog.get_by_label("Link").input_value()
    assert faults_of(ada.page) == []
    with browser.new_context(base_url=sign_in_system.url) as context:
        faults, page = PageFaults(sign_in_system.url), context.new_page()
        faults.watch(page)
        page.goto(link)
        expect(page.get_by_text("Shared with you, read-only")).to_be_visible()
        assert urlsplit(page.url)[2:] == (ada.job, "", "")
        expect_live(page)
        page.locator("#list a.open").click()
        expect(page.locator("#viewed h1")).to_contain_text(FILENAME)
        page.keyboard.press("a")
        expect(page.locator("#review-note")).to_be_hidden()
        writing = page.get_by_role("button", name=re.compile("Retry|Cancel|Set|Accept|Sign out"))
        expect(writing.or_(page.get_by_role("link", name=re.compile("Review|Share|Delete|Accuracy")))).to_have_count(
            0
        )
        assert page.request.delete(f"/api/v1{ada.job}").status == 401
        assert faults_of(page) == []
        dialog.get_by_role("button", name="End the share with a link").click()
        expect(dialog.get_by_role("button", name="End the share")).to_have_count(0)
        expect(page.get_by_role("heading", name="Job not found")).to_be_visible()
        page.goto(link)
        expect(page.get_by_role("heading", name="This link opens nothing")).to_be_visible()
        assert faults_of(page) == []
        _nothing_went_wrong(faults)


def test_share_opens_over_the_page_before_the_modules_of_the_job_are_loaded(people: tuple[Person, Person]) -> None:
    _, ben = people
    ben.page.route("**/job/main.js", lambda _: None)  # it never arrives
    ben.send("a second album")
    ben.page.get_by_role("link", name="Share", exact=True).click()
    expect(ben.page.get_by_role("dialog", name="Share a second album")).to_be_visible()
    ben.page.unroute("**/job/main.js")


def test_who_signs_out_is_out_in_every_tab_and_with_every_copy_of_the_cookie(
    people: tuple[Person, Person],
) -> None:
    ada, ben = people
    copied = ada.page.context.cookies()
    ada.page.goto("/")
    ada.page.get_by_role("button", name="Sign out").click()
    expect(ada.page.get_by_role("button", name="End session")).to_be_visible()  # the provider's
    ada.page.context.add_cookies(copied)  # type: ignore[arg-type]  # what is read can be set
    assert ada.status_of(ada.job) == 303
    assert ben.status_of(ben.job) == 200
