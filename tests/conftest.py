"""Fixtures for everything that is tested over the wire.

`cloud` is one local cloud for the whole run, without processes for its instances. `make_config` gives each test a
configuration whose buckets, queues, table and tags have names of their own, so that tests never meet; `provisioned`
makes what the test's `config` names and returns the clients to reach it.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import obstore
import pytest
import yaml

from core.config import Config, parse_config
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.provision import provision, provision_table
from core.tracing import set_traceparent
from localcloud.launch import LocalCloud
from localcloud.patches import parse_files_once
from services.clients import Clients
from services.endpoint import Endpoint
from services.s3 import Bucket
from services.table import Table
from tests.support.jobs import NOW

parse_files_once()  # the sessions of boto3 in a process share no file, and reading them is half of making a client

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "config.yaml"

ConfigMaker = Callable[..., Config]


@pytest.fixture(autouse=True)
def _no_trace() -> None:
    """A test begins without a trace: Flask's test client leaves that of its last request to the thread."""
    set_traceparent(None)


@pytest.fixture(scope="session")
def cloud(_no_real_aws: None) -> Iterator[LocalCloud]:
    """One local cloud for all wire tests; its instances run at once and compute nothing.

    It lacks moto's 500 images, all of which moto searches for each of ours.
    """
    with tempfile.TemporaryDirectory(prefix="fleetsight-test-") as state, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        with LocalCloud(Path(state), hypervisor=False) as started:
            patch.undo()
            yield started


@pytest.fixture(scope="session")
def clients(cloud: LocalCloud) -> Clients:
    """Clients of the local cloud, shared by all tests: making them costs more than a test."""
    return Clients(Endpoint("us-east-1", cloud.endpoint_url, max_attempts=3, pool_size=32))


@cache
def _shipped_values() -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return values


def shipped_values() -> dict[str, dict[str, Any]]:
    """Return the sections of the configuration that the project ships, to change and parse.

    The file is read once: reading it takes longer than most unit tests.
    """
    return deepcopy(_shipped_values())


def shipped_fleet() -> Mapping[str, Any]:
    """Return the section `fleet` of the configuration that the project ships: a copy takes longer than its check."""
    return _shipped_values()["fleet"]


def config_of(cloud: LocalCloud, own: str, **changes: dict[str, Any]) -> Config:
    """Return the shipped configuration with `changes`, for `cloud`; all names in it begin with `own`."""
    return config_at(cloud.endpoint_url, own, **changes)


def config_at(endpoint_url: str, own: str, **changes: dict[str, Any]) -> Config:
    """Return the shipped configuration with `changes`, for an endpoint; all names in it begin with `own`."""
    values = shipped_values()
    values["names"] = {key: f"{own}-{key.replace('_', '-')}" for key in values["names"]}
    values["aws"]["endpoint_url"] = endpoint_url
    for section, keys in changes.items():
        values[section] |= keys
    return parse_config(values)


@pytest.fixture
def make_config(cloud: LocalCloud) -> ConfigMaker:
    """Make configurations that share this test's own names: `make_config(fleet={"max_workers": 3})`."""
    return partial(config_of, cloud, new_id().lower())


@pytest.fixture
def config(make_config: ConfigMaker) -> Config:
    """The shipped configuration with names of this test's own."""
    return make_config()


@pytest.fixture
def provisioned(clients: Clients, config: Config) -> Clients:
    """Clients, once buckets, queues and table of `config` are there."""
    provision(clients, config)
    return clients


@pytest.fixture
def table(clients: Clients, config: Config) -> Table:
    """This test's job table, perhaps without buckets and queues."""
    provision_table(clients, config)
    return Table(clients.dynamodb, config.names.job_table)


@pytest.fixture
def store(table: Table) -> JobStore:
    """This test's job store."""
    return JobStore(table)


@pytest.fixture
def job(store: JobStore) -> Job:
    """A job without images."""
    job = Job(new_id(), "holiday", NOW)
    store.create(job)
    return job


def keys_in(bucket: Bucket, folder: str = "") -> list[str]:
    """Return the keys of the objects under `folder`, or of all, in order."""
    return [entry["path"] for page in obstore.list(bucket.store, folder or None) for entry in page]


def write_config(config: Config, path: Path) -> Path:
    """Write `config` as a YAML file that a process can be started with."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path
