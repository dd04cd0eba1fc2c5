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


def test_the_address_of_anothers_job_image_picture_events_or_download_leads_nowhere(
    people: tuple[Person, Person],
) -> None:
    ada, ben = people
    ada.page.goto(ada.job)
    image = str(ada.page.locator(f"a[href^='{ada.job}/images/']").first.get_attribute("href"))
    addresses = [
        ada.job,
        f"{ada.job}/rows",
        f"{ada.job}/progress",
        f"/api/v1{ada.job}",
        f"/api/v1{ada.job}/results",
        f"/api/v1{ada.job}/results.csv",
        f"/api/v1{ada.job}/events",
        image,
        f"{image}/thumbnail",
        f"{image}/preview",
        f"/api/v1{image}",
    ]
    # An event stream has no end, so the owner's is not waited for.
    assert {ada.status_of(path) for path in addresses if not path.endswith("/events")} == {200}
    assert {ben.status_of(path) for path in addresses} == {404}
    ben.page.goto(ada.job)
    expect(ben.page.get_by_role("heading", name="Not Found")).to_be_visible()
    expect(ben.page.get_by_text("album")).to_have_count(0)


def test_the_same_bytes_of_another_are_classified_anew_and_revealed_to_no_other_user(
    people: tuple[Person, Person],
) -> None:
    ada, ben = people
    counts = [someone.page.request.get(f"/api/v1{someone.job}").json() for someone in (ada, ben)]
    assert [count["cached"] for count in counts] == [0, 0]
    ben.upload("once more")
    assert ben.page.request.get(f"/api/v1{ben.job}").json()["cached"] == 1


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
