"""Two web instances behind a load balancer: each request of a user may come to either of them."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from core.jobs.store import JobStore
from fleetsight_client.api import ApiClient
from scripts.run.system import free_port
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import cloud_table, serving
from tests.support.jobs import done, picture, put_results
from tests.support.providers import OPERATOR, SECRET, RunningProvider, mock_provider
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.auth.context import COOKIE
from web_tier.auth.provider import STATE_COOKIE
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE, SECRET_VARIABLE

CSRF_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')

pytestmark = pytest.mark.processes

table = cloud_table

REQUESTS = 20
"""Of a caller in a minute."""


@pytest.fixture
def provider() -> Iterator[RunningProvider]:
    with mock_provider("http://127.0.0.1") as running:
        yield running


@pytest.fixture
def addresses(
    provider: RunningProvider,
    provisioned: Clients,
    make_config: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[str, str]]:
    """The addresses of two web tiers that share only the cloud, the keys of sessions and the secret of the client."""
    keys = tmp_path / "keys"
    keys.write_text("k" * 64)
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(keys))
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    limits = {"store": "table", "requests_per_minute": REQUESTS}
    with ExitStack() as running:
        started = []
        for name in ("one", "other"):
            (folder := tmp_path / name).mkdir()
            config = make_config(web={"port": free_port(), "processes": 1}, auth=provider.settings, limits=limits)
            started.append(running.enter_context(serving(config, folder)).url)
        yield started[0], started[1]


def asked(address: str, method: str = "GET", **sent: object) -> requests.Response:
    """Send a request; follow no redirect."""
    return requests.request(method, address, timeout=DEADLINE_SECONDS, allow_redirects=False, **sent)  # type: ignore[arg-type]


def signed_in(addresses: tuple[str, str], provider: RunningProvider) -> str:
    """Let a user start to sign in at one web tier and return to the other; return the cookie of the session.

    `requests` sends such cookies by TLS only.
    """
    one, other = addresses
    start = asked(f"{one}/sign-in?next=/account")
    back = provider.sign_in(start.headers["Location"], OPERATOR)
    assert back.startswith(f"{one}/sign-in/callback?")
    state = {"Cookie": f"{STATE_COOKIE}={start.cookies[STATE_COOKIE]}"}
    answer = asked(back.replace(one, other), headers=state)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/account"), answer.text
    return f"{COOKIE}={answer.cookies[COOKIE]}"


def test_sign_ins_sessions_jobs_streams_and_counts_are_those_of_both_instances(
    addresses: tuple[str, str], provider: RunningProvider, store: JobStore
) -> None:
    one, other = addresses
    browser = {"Cookie": signed_in(addresses, provider), "Sec-Fetch-Site": "same-origin"}
    account = asked(f"{one}/account", headers=browser)
    assert (account.status_code, "operator@example.org" in account.text) == (200, True)
    wanted = {"name": "a test", "scopes": ["classify", "read"], "days": 1}
    token = asked(f"{other}/api/v1/tokens", "POST", headers=browser, json=wanted).json()["token"]
    job_id = ApiClient(one, token=token).create_job("both")
    outcome = ApiClient(other, token=token).add_images(job_id, [("a.jpg", picture())])
    assert len(outcome.accepted) == 1
    with asked(f"{one}/api/v1/jobs/{job_id}/events", headers=browser, stream=True) as stream:
        assert stream.status_code == 200
        (image,) = store.images(job_id)
        put_results(store, done(image))
        lines = [line for line in stream.iter_lines(decode_unicode=True) if line.startswith("data: ")]
    assert json.loads(lines[-1].removeprefix("data: "))["done"] == 1
    form = {"csrf_token": CSRF_TOKEN.findall(account.text)[0]}  # of the first instance
    out = asked(f"{other}/sign-out", "POST", headers=browser, data=form)
    assert (out.status_code, provider.issuer in out.headers["Refresh"]) == (200, True)
    assert asked(f"{one}/account", headers=browser).status_code == 303, "the session has ended everywhere"
    assert any(other_refuses(addresses) for _ in range(2)), "a minute ends once at most"


def other_refuses(addresses: tuple[str, str]) -> bool:
    """Return whether a caller whom one web tier has just refused for too many requests is refused by the other."""
    one, other = (f"{address}/api/v1" for address in addresses)
    while asked(one).status_code != 429:
        pass
    return asked(other).status_code == 429
