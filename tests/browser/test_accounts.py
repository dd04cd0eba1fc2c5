"""Accounts in a browser: made, confirmed, signed in to and out of, and what open pages do after a sign-out."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, Route, expect

from core.ids import new_id
from scripts.run.sign_in import OPERATOR
from scripts.run.system import System
from services.users import UserPool
from tests.browser.conftest import (
    LARGER,
    FaultsOf,
    PageFaults,
    arrived,
    classify,
    drop,
    expect_live,
    person,
    signed_in,
    signs,
)

pytestmark = pytest.mark.processes

PASSWORD, ANOTHER = "Correct-horse-7-battery", "Another-horse-8-battery"
COPYING = {"permissions": ["clipboard-write"]}


@pytest.fixture
def page_address(sign_in_system: System) -> str:
    """The address of `page`, an anonymous user's where people sign in."""
    return sign_in_system.url


def fill(page: Page, button: str, **fields: str) -> None:
    """Fill in the form's fields, by their names, and press its button."""
    for name, value in fields.items():
        page.locator(f'main [name="{name}"]').fill(value)
    page.locator("main").get_by_role("button", name=button, exact=True).click()


@pytest.mark.parametrize("page_options", [COPYING])
def test_a_user_makes_an_account_with_one_form_and_one_code_makes_a_token_and_signs_out(
    page: Page, page_faults: PageFaults, sign_in_system: System, faults_of: FaultsOf
) -> None:
    page_faults.expect("401")
    email = f"ada-{new_id().lower()}@example.org"
    page.goto("/jobs")
    page.get_by_role("link", name="Create an account").click()
    fill(page, "Mail me a code", email=email, password=PASSWORD)
    expect(page.get_by_role("heading", name="Check your e-mail")).to_be_visible()
    assert faults_of(page) == []
    fill(page, "Create the account", code="0000 0000 0000")
    expect(page.get_by_role("alert")).to_contain_text("The code is wrong")
    assert faults_of(page) == []
    page.get_by_role("button", name="Mail me another code").click()
    expect(page.get_by_role("status")).to_contain_text("Only its new code is good")
    fill(page, "Create the account", code=sign_in_system.mailed(email)[-1])
    page.wait_for_url("**/jobs")

    page.get_by_role("link", name=email).click()
    fill(page, "Make the token", name="nightly", password=PASSWORD)
    made = page.get_by_label("Token", exact=True).input_value()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.get_by_label("Name").press("ControlOrMeta+v")
    expect(page.get_by_label("Name")).to_have_value(made)
    page.goto("/account")
    expect(page.get_by_role("cell", name="nightly", exact=True)).to_be_visible()
    assert made not in page.content()

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    page.go_back()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_account_pages_are_accessible_and_fit(page: Page, sign_in_system: System, faults_of: FaultsOf) -> None:
    # The test above looks at the page for a code, with its messages.
    for path in ("/sign-up", "/forgot", "/reset"):
        page.goto(path)
        assert faults_of(page) == []
    email, password = person(sign_in_system, f"{'a-very-long-name-' * 3}of-a-user")
    signed_in(page, email, password)
    for path in ("/account/password", "/account/second-factor", "/account/delete"):
        page.goto(path)
        assert faults_of(page) == []
    page.goto("/account")
    fill(page, "Make the token", name="a token", password=password)
    expect(page.get_by_role("heading", name="Your new token")).to_be_visible()
    assert faults_of(page) == []
    page.goto("/")
    assert faults_of(page) == []


def test_no_image_is_lost_or_duplicated_when_the_session_ends_during_a_batch(
    page: Page, page_faults: PageFaults, sign_in_system: System
) -> None:
    page_faults.expect("401")
    email, password = person(sign_in_system, "ada")
    signed_in(page, email, password)
    page.goto("/")
    drop(page, "#drop", signs(40, seed=32, sizes=LARGER)[0])
    refused: list[str] = []

    def end_the_session(route: Route) -> None:
        refused.append("")
        page.context.clear_cookies()
        route.fulfill(status=401, body="{}", content_type="application/problem+json")

    page.route(re.compile(r"/images$"), end_the_session)
    classify(page)
    expect(page.locator("#said")).to_contain_text("40 images were not sent.")
    assert 1 <= len(refused) <= 3  # each concurrent request learns it once, and sends no more
    page.unroute(re.compile(r"/images$"))
    with page.expect_popup() as opened:
        page.locator("#signIn").click()
    fill(opened.value, "Sign in", email=email, password=password)
    expect(opened.value.get_by_role("heading", name="Account")).to_be_visible()
    opened.value.close()
    page.get_by_role("button", name="Retry 40 images").click()
    expect(page.locator("#list .tile.file")).to_have_count(0)
    page.reload()
    expect(page.locator("#main")).to_contain_text("40 images")


def test_open_pages_lead_to_the_sign_in_and_back_when_the_session_has_ended(
    page: Page, page_faults: PageFaults, sign_in_system: System
) -> None:
    page_faults.expect("401")
    assert sign_in_system.sign_in is not None
    secret = sign_in_system.sign_in.password
    signed_in(page, OPERATOR, secret)
    page.goto("/fleet")
    page.context.clear_cookies()  # the page polls each second
    expect(page.get_by_role("status")).to_contain_text("You were signed out meanwhile")
    fill(page, "Sign in", email=OPERATOR, password=secret)
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
    page.wait_for_url("**/sign-in?**")
    fill(page, "Sign in", email=OPERATOR, password=secret)
    page.wait_for_url(f"**/jobs/{job_id}?image=*")  # the image that was asked for


COOKIE = "__Host-fleetsight"
MADE = "#made"


@pytest.fixture
def secrets(browser: Browser, sign_in_system: System) -> dict[str, str]:
    """Everything secret of a user who has signed in and made a token, and of the system; each was used once."""
    assert sign_in_system.sign_in is not None
    email, password = person(sign_in_system, "secretive")
    with browser.new_context(base_url=sign_in_system.url) as context:
        page = signed_in(context.new_page(), email, password)
        page.goto("/account")
        fill(page, "Make the token", name="for a script", password=password)
        expect(page.locator(MADE)).to_be_visible()
        token = page.locator(MADE).input_value()
        [cookie] = [each["value"] for each in context.cookies() if each["name"] == COOKIE]
        headers = {"Sec-Fetch-Site": "same-origin"}
        job = page.request.post("/api/v1/jobs", headers=headers).json()["job_id"]
        page.goto(f"/jobs/{job}/share")
        page.get_by_role("button", name="Make a link").click()
        link = page.get_by_label("Link", exact=True).input_value()
    with browser.new_context(base_url=sign_in_system.url) as context:
        viewer = context.new_page()
        viewer.goto(link)
        expect(viewer.get_by_text("Shared with you")).to_be_visible()
    found = sign_in_system.sign_in
    pool_tokens = UserPool(sign_in_system.clients.cognito_idp, found.pool_id, found.client_id)
    of_the_pool = pool_tokens.sign_in(email, password)
    return {
        "password": password,
        "personal token": token,
        "cookie": cookie,
        "token of a link": link.rpartition(".")[2],
        "id of the session": cookie.split(".")[1],
        "token of the pool": of_the_pool.id_token,  # type: ignore[union-attr]  # no first sign-in
        "refresh token": of_the_pool.refresh_token,  # type: ignore[union-attr]
        "key of the sessions": found.keys.read_text().strip(),
        "the operator's password": found.password,
        "the operator's token": found.token,
    }


def error_pages(system: System, secrets: dict[str, str]) -> Iterator[str]:
    """Send what is secret to where it does not belong, and yield what is answered."""
    for secret in secrets.values():
        bearer = {"Authorization": f"Bearer {secret}"}
        wrong = {"Authorization": f"Basic {secret}"}
        for headers, cookies in ((bearer, {}), (wrong, {}), ({}, {COOKIE: f"{secret}x"})):
            for path in ("/api/v1/jobs/none", "/nowhere", "/jobs?before=1"):
                answer = requests.get(f"{system.url}{path}", headers=headers, cookies=cookies, timeout=120)
                yield answer.text + str(answer.headers)
        form = {"email": "nobody@example.org", "password": secret}
        yield requests.post(f"{system.url}/sign-in", data=form, headers={"Sec-Fetch-Site": "none"}, timeout=120).text


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
    keys = sign_in_system.sign_in.keys if sign_in_system.sign_in else None
    files = [path for path in sign_in_system.state_dir.rglob("*") if path.is_file() and path != keys]
    texts |= {str(path): path.read_text(errors="replace") for path in files}
    assert any(re.search(r"logs/web\.log$", name) for name in texts)
    assert {
        (secret, where) for secret, text in secrets.items() for where, said in texts.items() if text in said
    } == set()


def test_only_its_user_may_read_the_keys_of_the_sessions(sign_in_system: System) -> None:
    assert sign_in_system.sign_in is not None
    assert sign_in_system.sign_in.keys.stat().st_mode & 0o777 == 0o600


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
    email, password = person(sign_in_system, "adawithanamethatiswiderthanaphone")
    signed_in(page, email, password)
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
    signed_in(page, *person(sign_in_system, "mary"))
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
