"""Signed-in users in a browser: what is theirs alone, and what open pages do once the session has ended."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from playwright.sync_api import Browser, Page, Route, expect

from localcloud.state.folder import SESSION_KEYS_FILE
from scripts.run.system import System
from services.table import Table
from tests.browser.conftest import (
    LARGER,
    FaultsOf,
    PageFaults,
    arrived,
    classify,
    drop,
    expect_live,
    person,
    sign_in_at_provider,
    signed_in,
    signs,
)
from tests.support.providers import CLIENT, OPERATOR, SECRET
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.auth.context import COOKIE
from web_tier.auth.session_keys import SessionKeys
from web_tier.auth.sessions import SessionRecord, SessionStore

pytestmark = pytest.mark.processes


@pytest.fixture
def page_address(sign_in_system: System) -> str:
    """The address of `page`, an anonymous user's where people sign in."""
    return sign_in_system.url


@pytest.fixture
def page_faults(sign_in_system: System) -> PageFaults:
    """What goes wrong in `page`, which may lead to the provider."""
    faults = PageFaults(sign_in_system.url)
    faults.expect_provider(str(sign_in_system.config.auth.issuer))
    return faults


def make_token(page: Page, name: str) -> str:
    """Make a personal token on the account page; return its text."""
    page.goto("/account")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Make the token").click()
    return page.get_by_label("Token", exact=True).input_value()


def test_pages_of_an_account_are_accessible_and_fit(
    page: Page, page_faults: PageFaults, sign_in_system: System, faults_of: FaultsOf
) -> None:
    page_faults.expect("403")
    signed_in(page, person(sign_in_system, f"{'a-very-long-name-' * 3}of-a-user"))
    assert faults_of(page) == []
    make_token(page, "a token")
    assert faults_of(page) == []
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    assert faults_of(page) == []
    page.goto("/sign-in")
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("alert")).to_contain_text("start again")
    assert faults_of(page) == []


def test_no_image_is_lost_or_duplicated_when_the_session_ends_during_a_batch(
    page: Page, page_faults: PageFaults, sign_in_system: System
) -> None:
    page_faults.expect("401")
    sub = person(sign_in_system, "ada")
    signed_in(page, sub)
    drop(page, "#drop", signs(12, seed=32, sizes=LARGER)[0])
    refused: list[str] = []

    def end_the_session(route: Route) -> None:
        refused.append("")
        page.context.clear_cookies()
        route.fulfill(status=401, body="{}", content_type="application/problem+json")

    page.route(re.compile(r"/images$"), end_the_session)
    classify(page)
    expect(page.locator("#said")).to_contain_text("12 images were not sent.")
    assert 1 <= len(refused) <= 3  # each concurrent request learns it once, and sends no more
    page.unroute(re.compile(r"/images$"))
    with page.expect_popup() as opened:
        page.locator("#signIn").click()
    sign_in_at_provider(opened.value, sub)
    expect(opened.value.get_by_role("heading", name="Account")).to_be_visible()
    opened.value.close()
    page.get_by_role("button", name="Retry 12 images").click()
    expect(page.locator("#list .tile.file")).to_have_count(0)
    page.reload()
    expect(page.locator("#main")).to_contain_text("12 images")


def test_open_pages_lead_to_the_sign_in_and_back_when_the_session_has_ended(
    page: Page, page_faults: PageFaults
) -> None:
    page_faults.expect("401")
    signed_in(page, OPERATOR)
    page.goto("/fleet")
    page.context.clear_cookies()  # the page polls each second
    sign_in_at_provider(page, OPERATOR)
    page.wait_for_url("**/fleet")

    page.goto("/")
    drop(page, "#drop", signs(1, seed=33)[0])
    classify(page)
    job_id = arrived(page)
    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#state")).not_to_have_class(re.compile("live"))  # it asks for nothing more by itself
    expect_live(page)
    page.context.clear_cookies()
    page.locator("#list a.open").click()
    sign_in_at_provider(page, OPERATOR)
    page.wait_for_url(f"**/jobs/{job_id}?image=*")  # the image that was asked for


def id_token_of(system: System, sub: str) -> str:
    """Return a token that the provider issues for the site, and that programs may send."""
    issuer = str(system.config.auth.issuer)
    query = {"response_type": "code", "client_id": CLIENT, "scope": "openid", "redirect_uri": system.url}
    url, browser = f"{issuer}/oauth2/authorize", requests.Session()
    sent = browser.post(url, {"sub": sub}, params=query, allow_redirects=False, timeout=DEADLINE_SECONDS)
    [code] = parse_qs(urlsplit(sent.headers["Location"]).query)["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": system.url}
    answer = browser.post(f"{issuer}/oauth2/token", form, auth=(CLIENT, SECRET), timeout=DEADLINE_SECONDS)
    return str(answer.json()["id_token"])


def refresh_token_of(system: System, cookie: str) -> str:
    """Return the provider's refresh token in the session of a cookie."""
    keys = SessionKeys((system.state_dir / SESSION_KEYS_FILE).read_text().split())
    ids = keys.read(cookie)
    assert ids is not None
    found = SessionStore(Table(system.clients.dynamodb, system.config.names.job_table)).find(ids.own)
    assert isinstance(found, SessionRecord)
    return keys.decrypt(found.refresh_token) or ""


@pytest.fixture
def secrets(browser: Browser, sign_in_system: System) -> dict[str, str]:
    """Everything secret of a user who has signed in and made a token, and of the system; each was used once."""
    system, sub = sign_in_system, person(sign_in_system, "secretive")
    with browser.new_context(base_url=system.url) as context:
        page = signed_in(context.new_page(), sub)
        token = make_token(page, "for a script")
        [cookie] = [each["value"] for each in context.cookies() if each["name"] == COOKIE]
        headers = {"Sec-Fetch-Site": "same-origin"}
        job = page.request.post("/api/v1/jobs", headers=headers).json()["job_id"]
        page.goto(f"/jobs/{job}/share")
        page.get_by_role("button", name="Make a link").click()
        link = page.get_by_label("Link", exact=True).input_value()
    with browser.new_context(base_url=system.url) as context:
        viewer = context.new_page()
        viewer.goto(link)
        expect(viewer.get_by_text("Shared with you")).to_be_visible()
    found = {
        "personal token": token,
        "cookie": cookie,
        "token of a link": link.rpartition(".")[2],
        "id of the session": cookie.split(".")[1],
        "ID token": id_token_of(system, sub),
        "refresh token": refresh_token_of(system, cookie),
        "secret of the client": SECRET,
        "key of the sessions": (system.state_dir / SESSION_KEYS_FILE).read_text().strip(),
        "the operator's token": str(system.token),
    }
    assert all(found.values())
    return found


def error_pages(system: System, secrets: dict[str, str]) -> Iterator[str]:
    """Send what is secret to where it does not belong, and yield what is answered."""
    for secret in secrets.values():
        bearer = {"Authorization": f"Bearer {secret}"}
        wrong = {"Authorization": f"Basic {secret}"}
        for headers, cookies in ((bearer, {}), (wrong, {}), ({}, {COOKIE: f"{secret}x"})):
            for path in ("/api/v1/jobs/none", "/nowhere", "/jobs?before=1"):
                answer = requests.get(f"{system.url}{path}", headers=headers, cookies=cookies, timeout=120)
                yield answer.text + str(answer.headers)
        returned = {"state": secret, "code": secret, "error": secret}
        yield requests.get(f"{system.url}/sign-in/callback", returned, timeout=120).text


TOKEN_OF_PROVIDER = re.compile(r"\beyJ[\w-]+\.eyJ[\w-]+\.")
"""The form of each of them, those that the site got itself too."""


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue


def test_nothing_secret_is_shown(sign_in_system: System, secrets: dict[str, str]) -> None:
    texts = {f"answer {number}": text for number, text in enumerate(error_pages(sign_in_system, secrets))}
    texts |= {f"process {number}": line for number, line in enumerate(command_lines())}
    # The processes are forked, so that the kernel does not show these.
    started = [each.managed for each in sign_in_system.supervisor._watchers]
    texts |= {f"command {each.name}": " ".join(each.arguments) for each in started}
    assert {"command web", "command controller"} <= texts.keys()
    keys = sign_in_system.state_dir / SESSION_KEYS_FILE
    files = [path for path in sign_in_system.state_dir.rglob("*") if path.is_file() and path != keys]
    texts |= {str(path): path.read_text(errors="replace") for path in files}
    assert any(re.search(r"logs/web\.log$", name) for name in texts)
    assert TOKEN_OF_PROVIDER.search(secrets["ID token"])
    assert [where for where, said in texts.items() if TOKEN_OF_PROVIDER.search(said)] == []
    assert {
        (secret, where) for secret, text in secrets.items() for where, said in texts.items() if text in said
    } == set()


def test_only_its_user_may_read_the_keys_of_the_sessions(sign_in_system: System) -> None:
    assert (sign_in_system.state_dir / SESSION_KEYS_FILE).stat().st_mode & 0o777 == 0o600


NOTIFICATIONS = """
    window.shown = [];
    window.Notification = class {
        static get permission() { return sessionStorage.permission ?? "default"; }
        static async requestPermission() { return (sessionStorage.permission = "granted"); }
        constructor(title, { body }) { window.shown.push(`${title}: ${body}`); }
        addEventListener() {}
    };
"""
"""Stands for the notifications of the desktop, which a test cannot see."""


def test_a_job_that_is_done_notifies_in_the_browser(page: Page, sign_in_system: System, faults_of: FaultsOf) -> None:
    signed_in(page, person(sign_in_system, "adawithanamethatiswiderthanaphone"))
    page.add_init_script(NOTIFICATIONS)
    token = page.evaluate("fetch('/account/visitor').then((reply) => reply.json())")["csrf_token"]
    headers = {"Origin": sign_in_system.url, "X-CSRF-Token": token}
    made = page.request.post("/api/v1/jobs", data={"name": "holiday"}, headers=headers).json()
    page.goto(made["links"]["page"])
    page.locator("[popovertarget=actions]").click()
    page.get_by_text("Notify me").click()
    page.get_by_label(re.compile("In this browser")).check()
    assert faults_of(page) == []
    [(name, content)], _ = signs(1, 77)
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    sent = page.request.post(made["links"]["images"], multipart={"image": file}, headers=headers)  # type: ignore[dict-item]
    assert sent.ok, sent.text()
    expect(page.locator("#state")).to_have_text("finished")
    assert page.evaluate("window.shown") == ["Job done: holiday: 1 classified"]


def test_the_border_of_doubt_and_the_time_to_finish_by_are_chosen_with_the_images_and_the_border_moves(
    page: Page, sign_in_system: System, faults_of: FaultsOf
) -> None:
    signed_in(page, person(sign_in_system, "mary"))
    drop(page, "#drop", signs(3, seed=53)[0])
    by = datetime.fromisoformat(str(page.evaluate("new Date(Date.now() + 7_200_000).toISOString()")))
    local = str(page.evaluate("time => new Date(time).toTimeString().slice(0, 5)", by.isoformat()))
    page.get_by_label("Unsure below").fill("100")
    page.get_by_label("Finish by").fill(local)
    expect(page.locator("#forecast")).to_contain_text("By ")
    assert faults_of(page) == []
    classify(page)
    path = f"/api/v1/jobs/{arrived(page)}"
    expect(page.get_by_text("finished", exact=True)).to_be_visible()
    job = page.request.get(path).json()
    assert job["min_score"] == 1
    assert datetime.fromisoformat(job["finish_by"]) == by.replace(second=0, microsecond=0)

    def decisions() -> set[bool]:
        return {each["decision"] == "unsure" for each in page.request.get(f"{path}/results").json()["results"]}

    assert decisions() == {True}
    expect(page.locator(".tile.unsure")).to_have_count(3)
    expect(page.locator("#unlikely")).to_have_text(
        re.compile("unsure about most of the images: their scores are below")
    )
    page.locator("[popovertarget=details]").click()
    expect(page.locator("#details")).to_contain_text(f"Finish by{by:%Y-%m-%d %H:%M}:00 UTC")
    assert faults_of(page) == []
    page.get_by_label("Unsure below, in percent").fill("2.5")
    page.get_by_role("button", name="Change").click()
    expect(page.locator('.chip[data-state="unsure"]')).to_be_hidden()
    expect(page.locator(".tile.unsure")).to_have_count(0)
    assert decisions() == {False}
