"""Row 42: what is secret stands in no log, no user data, no error page and no command line of a running system."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, expect

from scripts.run.system import System
from services.users import UserPool
from tests.browser.conftest import person, signed_in

COOKIE = "__Host-fleetsight"
MADE = "#made"


@pytest.fixture
def secrets(browser: Browser, sign_in_system: System) -> dict[str, str]:
    """Everything secret of somebody who has signed in and made a token, and of the system; each was used once."""
    assert sign_in_system.sign_in is not None
    email, password = person(sign_in_system, "secretive")
    with browser.new_context(base_url=sign_in_system.url) as context:
        page = signed_in(context.new_page(), email, password)
        page.goto("/account")
        page.get_by_label("Name").fill("for a script")
        page.get_by_role("button", name="Make the token").click()
        expect(page.locator(MADE)).to_be_visible()
        token = page.locator(MADE).input_value()
        [cookie] = [each["value"] for each in context.cookies() if each["name"] == COOKIE]
    found = sign_in_system.sign_in
    pool_tokens = UserPool(sign_in_system.clients.cognito_idp, found.pool_id, found.client_id)
    of_the_pool = pool_tokens.sign_in(email, password)
    return {
        "password": password,
        "personal token": token,
        "cookie": cookie,
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


def test_nothing_secret_is_told(sign_in_system: System, secrets: dict[str, str]) -> None:
    told = {f"answer {number}": text for number, text in enumerate(error_pages(sign_in_system, secrets))}
    told |= {f"process {number}": line for number, line in enumerate(command_lines())}
    keys = sign_in_system.sign_in.keys if sign_in_system.sign_in else None
    files = [path for path in sign_in_system.state_dir.rglob("*") if path.is_file() and path != keys]
    told |= {str(path): path.read_text(errors="replace") for path in files}
    assert any(re.search(r"logs/web\.log$", name) for name in told)
    assert {
        (secret, where) for secret, text in secrets.items() for where, said in told.items() if text in said
    } == set()


def test_only_its_user_may_read_the_keys_of_the_sessions(sign_in_system: System) -> None:
    assert sign_in_system.sign_in is not None
    assert sign_in_system.sign_in.keys.stat().st_mode & 0o777 == 0o600
