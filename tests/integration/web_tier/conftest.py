"""The web tier over the local cloud: in the test's own process, and by gunicorn as it runs in production."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from core.config import PATH_VARIABLE, Config
from core.ids import new_id
from core.jobs.store import JobStore
from core.provision import provision
from localcloud.launch import LocalCloud
from scripts.run.system import WEB_TIER, free_port
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import Queue
from services.table import Table
from tests.conftest import ConfigMaker, config_of, write_config
from tests.support.clocks import ManualClock
from tests.support.fixtures import audit_log, bucket, compiled, queue  # noqa: F401 - for all modules
from tests.support.forked import ForkedPython
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import OIDC, SMALL_LIMITS, PlayedProvider, SignInSite, SignInSiteMaker, access_of
from tests.support.processes import children_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.app import create_app
from web_tier.http import rate_limits
from web_tier.http.quotas import Quotas


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> None:
    """Load schemathesis's plugin for the one module that needs it; any other run starts two seconds sooner."""
    if module_path == Path(__file__).parent / "test_openapi.py":
        parent.config.pluginmanager.import_plugin("schemathesis.pytest.plugin")


@pytest.fixture
def table() -> Table:
    """The job table, in memory: `tests/integration/services` holds it to the contract of the one in the cloud.

    A module whose web tier is a process has `table = cloud_table`.
    """
    return MemoryTable()


@pytest.fixture
def cloud_table(config: Config, provisioned: Clients) -> Table:
    """The job table of `config` in the cloud."""
    return Table(provisioned.dynamodb, config.names.job_table)


@pytest.fixture
def app(config: Config, provisioned: Clients, table: Table) -> Flask:
    """The web tier, with everything its configuration names but the table."""
    return create_app(config, store=JobStore(table))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def input_bucket(config: Config, provisioned: Clients) -> Bucket:
    return Bucket.named(provisioned, config.names.input_bucket)


@pytest.fixture
def requests_queue(config: Config, provisioned: Clients) -> Queue:
    return Queue.named(provisioned.sqs, config.queue_name(config.names.request_queue))


@dataclass
class WebTier:
    """A running web tier."""

    process: ForkedPython
    port: int
    config: Config
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Return the process ids of gunicorn's workers."""
        return children_of(self.process.pid)

    def create_job(self, *, keep: bool = False) -> str:
        return str(requests.post(f"{self.url}/api/v1/jobs", json={"keep": keep}, timeout=120).json()["job_id"])


def two_processes() -> dict[str, int]:
    """Return the section `web` of a web tier of two processes with 16 threads each, at a free port."""
    return {"port": free_port(), "threads": 16, "max_request_bytes": 20_000_000}


@pytest.fixture
def web_tier(clients: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[WebTier]:
    """A web tier of two processes, which a test may end."""
    config = make_config(web=two_processes())
    provision(clients, config)
    with serving(config, tmp_path) as web:
        yield web


@pytest.fixture(scope="session")
def shared_tier(cloud: LocalCloud, clients: Clients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebTier]:
    """A web tier of two processes for the tests of a run that leave it serving; its classic clients wait shortly."""
    config = config_of(cloud, new_id().lower(), web=two_processes(), classic={"wait_seconds": 0.1})
    provision(clients, config)
    with serving(config, tmp_path_factory.mktemp("web")) as web:
        yield web


@contextmanager
def serving(config: Config, tmp_path: Path, *options: str) -> Iterator[WebTier]:
    """Run a web tier with `config`, on a free port, and `options` of gunicorn, while the context lasts."""
    port = config.web.port
    path, log = write_config(config, tmp_path / "config.yaml"), tmp_path / "web.log"
    command = ("-m", *WEB_TIER[:-1], *options, WEB_TIER[-1])
    process = ForkedPython(command, os.environ | {PATH_VARIABLE: str(path)}, log)
    try:
        web = WebTier(process, port, config, log)
        _wait_until_ready(web)
        yield web
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(web: WebTier) -> None:
    def is_ready() -> bool:
        try:
            answer = requests.get(f"{web.url}/readyz", timeout=DEADLINE_SECONDS)
            # gunicorn starts the others up to a tenth of a second after the first, which answers alone until then.
            return answer.status_code == 200 and len(web.workers()) == web.config.web.processes
        except requests.ConnectionError:
            assert web.process.poll() is None, web.log.read_text()
            return False

    wait_until(is_ready, "the web tier is ready", details=web.log.read_text)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no day of a quota end during a test."""
    noon = ManualClock(0.0, datetime.now(UTC).replace(hour=12))
    monkeypatch.setattr(rate_limits, "Quotas", partial(Quotas, clock=noon))


@pytest.fixture
def make_site(make_config: ConfigMaker, table: Table, noon: None) -> SignInSiteMaker:
    """Make a web tier with sign-in and small limits, except those given: `make_site(images_per_day=9)`."""

    def make(**limits: object) -> SignInSite:
        provider = PlayedProvider()
        access = access_of(table, provider)
        config = make_config(auth=OIDC, limits=SMALL_LIMITS | limits)
        return SignInSite(create_app(config, store=JobStore(table), auth=access), access, provider)

    return make


@pytest.fixture
def clock(provider: PlayedProvider) -> ManualClock:
    return provider.clock


@pytest.fixture
def provider() -> PlayedProvider:
    return PlayedProvider()


@pytest.fixture
def site(config: Config, table: Table, provider: PlayedProvider) -> SignInSite:
    access = access_of(table, provider)
    return SignInSite(create_app(config, store=JobStore(table), auth=access), access, provider)
