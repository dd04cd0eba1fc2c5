"""The whole sign-in and sign-out in Chromium, at providers that we did not write and at our own for development."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import requests
from playwright.sync_api import Page, expect

from scripts.run.sign_in import provider_settings
from scripts.run.system import System, free_port
from tests.browser.conftest import FaultsOf, PageFaults, sign_in_at_provider
from tests.support.providers import CLIENT, EACH_JUDGE, JUDGES, OPERATOR, SECRET, USER
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.auth.session_keys import SECRET_VARIABLE

pytestmark = pytest.mark.processes

OURS = "development"
SHARED = "oidc-provider-mock"
"""The provider of `sign_in_system`."""
COPYING = {"permissions": ["clipboard-write"]}


@dataclass
class Place:
    """A system, and the provider of its users."""

    provider: str
    system: System

    @property
    def issuer(self) -> str:
        return str(self.system.config.auth.issuer)

    @property
    def asks_at_sign_out(self) -> bool:
        return self.provider != OURS

    def sign_in(self, page: Page, sub: str) -> None:
        """Do what a user does at the pages of the provider."""
        if self.provider == OURS:
            page.get_by_role("button", name=f"Continue as {sub}@example.org").click()
        elif self.provider == "oidc-provider":
            page.locator("[name=login]").fill(sub)
            page.locator("[name=password]").fill("any")
            page.get_by_role("button", name="Sign-in").click()
            page.get_by_role("button", name="Continue").click()
        else:
            sign_in_at_provider(page, sub)

    def sign_out(self, page: Page) -> None:
        """Sign out on the page, and confirm it where the provider asks."""
        page.get_by_role("button", name="Sign out").click()
        if self.asks_at_sign_out:
            page.get_by_role("button", name="End session").or_(page.get_by_text("Yes, sign me out")).click()


@pytest.fixture(scope="module", params=[*EACH_JUDGE, pytest.param(OURS, marks=pytest.mark.thorough)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == SHARED:
        yield Place(SHARED, request.getfixturevalue("sign_in_system"))
        return
    port, home = str(free_port()), tmp_path_factory.mktemp("place")
    settings = {"FLEETSIGHT__WEB__PORT": port, "FLEETSIGHT__FLEET__MAX_WORKERS": "1"}
    with ExitStack() as stack:
        if request.param != OURS:
            provider = stack.enter_context(JUDGES[request.param](f"http://127.0.0.1:{port}"))
            settings |= provider_settings(provider.issuer, CLIENT)
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(SECRET_VARIABLE, SECRET)
        started = running_system(home, settings, has_provider=request.param == OURS)
        yield Place(request.param, stack.enter_context(started))


@pytest.fixture
def page_address(place: Place) -> str:
    """The address of `page`."""
    return place.system.url


@pytest.fixture
def page_faults(place: Place) -> PageFaults:
    """What goes wrong in `page`, which may lead to the provider."""
    faults = PageFaults(place.system.url)
    faults.expect_provider(place.issuer)
    return faults


@pytest.mark.parametrize("page_options", [COPYING])
def test_users_sign_in_at_the_provider_make_a_token_and_sign_out_there_too(
    page: Page, place: Place, faults_of: FaultsOf
) -> None:
    page.goto("/jobs?q=a%20b")
    if place.provider == OURS:
        assert faults_of(page) == []
    place.sign_in(page, USER)
    page.wait_for_url(f"{place.system.url}/jobs?q=a%20b")
    expect(page.get_by_role("link", name="Fleet", exact=True)).to_have_count(0)

    page.get_by_role("link", name=f"{USER}@example.org").click()
    page.get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Make the token").click()
    made = page.get_by_label("Token", exact=True).input_value()
    header = {"Authorization": f"Bearer {made}"}
    assert requests.get(f"{place.system.url}/api/v1/jobs", headers=header, timeout=DEADLINE_SECONDS).ok
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.get_by_label("Name").press("ControlOrMeta+v")
    expect(page.get_by_label("Name")).to_have_value(made)
    page.goto("/account")
    expect(page.get_by_role("cell", name="nightly", exact=True)).to_be_visible()
    assert made not in page.content()

    place.sign_out(page)
    page.wait_for_url(f"{place.system.url}/signed-out")
    for _ in range(2 if place.asks_at_sign_out else 1):
        page.go_back()  # to the account page
    page.reload()
    assert page.url.startswith(place.issuer)
    page.goto("/account")
    place.sign_in(page, OPERATOR)  # the provider has forgotten the first user, and asks
    page.wait_for_url(f"{place.system.url}/account")
    page.get_by_role("link", name="Fleet", exact=True).click()
    expect(page.get_by_role("heading", name="Fleet", exact=True)).to_be_visible()
