"""Two web instances behind a load balancer: each request of a user may come to either of them."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from core.ids import new_id
from core.jobs.store import JobStore
from core.provision import provision_user_pool
from fleetsight_client.api import ApiClient
from scripts.run.system import free_port
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import serving
from tests.support.jobs import done, picture, put_results
from tests.support.operator_account import EMAIL, PASSWORD, Operator
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.auth.context import COOKIE
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE

CSRF_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')

pytestmark = pytest.mark.processes

ATTEMPTS = 6
"""To sign in, of an address in a minute; half as many of an account."""


@pytest.fixture
def operator(provisioned: Clients) -> Operator:
    return Operator(provisioned, *provision_user_pool(provisioned, new_id()))


@pytest.fixture
def addresses(
    operator: Operator, make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """The addresses of two web tiers that share nothing but the cloud and the keys of sessions."""
    keys = tmp_path / "keys"
    keys.write_text("k" * 64)
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(keys))
    auth = {"mode": "cognito", "user_pool_id": operator.pool_id, "client_id": operator.client_id}
    limits = {"store": "table", "sign_in_attempts_per_minute": ATTEMPTS}
    with ExitStack() as running:
        started = []
        for name in ("one", "other"):
            (folder := tmp_path / name).mkdir()
            config = make_config(web={"port": free_port()}, auth=auth, limits=limits)
            started.append(running.enter_context(serving(config, folder)).url)
        yield started[0], started[1]


def test_sessions_jobs_streams_and_counts_of_attempts_are_those_of_both_instances(
    addresses: tuple[str, str], operator: Operator, store: JobStore
) -> None:
    one, other = addresses
    with requests.Session() as browser:
        form = {"email": EMAIL, "password": PASSWORD}
        signed_in = browser.post(f"{one}/sign-in", data=form, timeout=DEADLINE_SECONDS, allow_redirects=False)
        assert signed_in.status_code == 303, signed_in.text
        # `requests` sends such a cookie by TLS only.
        cookie = f"{COOKIE}={signed_in.cookies[COOKIE]}"
        browser.headers.update({"Cookie": cookie, "Sec-Fetch-Site": "same-origin"})
        account = browser.get(f"{other}/account", timeout=DEADLINE_SECONDS, allow_redirects=False)
        assert (account.status_code, EMAIL in account.text) == (200, True)
        token = operator.personal_token(one)
        job_id = ApiClient(one, token=token).create_job("both")
        outcome = ApiClient(other, token=token).add_images(job_id, [("a.jpg", picture())])
        assert len(outcome.accepted) == 1
        events = f"{one}/api/v1/jobs/{job_id}/events"
        with browser.get(events, stream=True, timeout=DEADLINE_SECONDS) as stream:
            assert stream.status_code == 200
            (image,) = store.images(job_id)
            put_results(store, store.job(job_id), done(image))
            lines = [line for line in stream.iter_lines(decode_unicode=True) if line.startswith("data: ")]
        assert json.loads(lines[-1].removeprefix("data: "))["done"] == 1
        form = {"csrf_token": CSRF_TOKEN.findall(account.text)[0]}  # of the other instance
        out = browser.post(f"{one}/sign-out", data=form, timeout=DEADLINE_SECONDS, allow_redirects=False)
        assert out.status_code == 303, out.text
        account = browser.get(f"{other}/account", timeout=DEADLINE_SECONDS, allow_redirects=False)
        assert account.status_code == 303, "the session has ended everywhere"
    statuses = [
        requests.post(
            f"{addresses[number % 2]}/sign-in", data={"email": EMAIL, "password": "wrong"}, timeout=DEADLINE_SECONDS
        ).status_code
        for number in range(2 * ATTEMPTS)
    ]
    assert statuses.index(429) <= ATTEMPTS, statuses
