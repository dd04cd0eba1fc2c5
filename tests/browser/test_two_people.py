"""Two people, each in a browser of their own, at the same system (rows 31 and 40)."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from scripts.run.system import System
from tests.browser.conftest import PageFaults, person, signed_in
from tests.support.jobs import picture

FILENAME = "my-holiday.png"
"""Both send a file of this name, with the very same bytes."""


@dataclass
class Person:
    """A user at their browser, and the address of the job that they have made."""

    email: str
    page: Page
    job: str = ""

    def upload(self, name: str) -> None:
        """Send the picture as a job of this name, and wait for its result."""
        self.page.goto("/")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Keep my images").check()
        file = {"name": FILENAME, "mimeType": "image/png", "buffer": picture("PNG", (64, 64))}
        self.page.locator("#images").set_input_files(file)  # type: ignore[arg-type]
        self.page.get_by_role("button", name="Classify").click()
        self.page.wait_for_url("**/jobs/*")
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
            faults.watch(page)
            contexts.callback(_nothing_went_wrong, faults)
            email, password = person(sign_in_system, name)
            someone = Person(email, signed_in(page, email, password))
            someone.upload(f"the album of {name}")
            both.append(someone)
        ada, ben = both
        yield ada, ben


def _nothing_went_wrong(faults: PageFaults) -> None:
    faults.expect("404")  # where a test asks for what is another's
    assert faults.unexpected() == []


def test_each_sees_their_own_job_and_never_the_others(people: tuple[Person, Person]) -> None:
    ada, ben = people
    for someone, own, others in ((ada, "ada", "ben"), (ben, "ben", "ada")):
        someone.page.goto("/jobs")
        expect(someone.page.get_by_role("link", name=f"the album of {own}", exact=True)).to_be_visible()
        expect(someone.page.get_by_text(f"the album of {others}")).to_have_count(0)
        someone.page.goto("/jobs?q=album")
        expect(someone.page.get_by_text(f"the album of {others}")).to_have_count(0)
        expect(someone.page.get_by_role("banner")).to_contain_text(someone.email)


def test_who_signs_out_is_out_in_every_tab_and_with_every_copy_of_the_cookie(
    people: tuple[Person, Person],
) -> None:
    ada, ben = people
    copied = ada.page.context.cookies()
    ada.page.goto("/")
    ada.page.get_by_role("button", name="Sign out").click()
    expect(ada.page.get_by_role("heading", name="Sign in")).to_be_visible()
    ada.page.context.add_cookies(copied)  # type: ignore[arg-type]  # what is read can be set
    assert ada.status_of(ada.job) == 303
    assert ben.status_of(ben.job) == 200
