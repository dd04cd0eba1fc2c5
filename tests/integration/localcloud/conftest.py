"""Local clouds of real processes on free ports, and boto3 clients for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from localcloud.launch import REGION, LocalCloud
from tests.support.waiting import DEADLINE_SECONDS


class Clients:
    """boto3 clients of one cloud, one of each service."""

    def __init__(self, endpoint_url: str, attempts: int = 3) -> None:
        self._endpoint_url, self._attempts = endpoint_url, attempts
        self._clients: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self._endpoint_url,
                region_name=REGION,
                config=Config(
                    max_pool_connections=64, retries={"mode": "standard", "total_max_attempts": self._attempts}
                ),
            )
        return self._clients[service]


def stops_by_itself(cloud: LocalCloud) -> bool:
    """Stop `cloud`; return True if its server ended on SIGTERM, False if it had to be killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localcloud.launch.STOP_SECONDS", DEADLINE_SECONDS)
        cloud.stop()
    assert cloud._cloud is not None
    return cloud._cloud.returncode == 0


@pytest.fixture(scope="package")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients of a cloud without a hypervisor, shared: tests use names of their own."""
    with LocalCloud(tmp_path_factory.mktemp("apis"), hypervisor=False) as cloud:
        yield Clients(cloud.endpoint_url)


@pytest.fixture(scope="package")
def computing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud with a hypervisor, shared: tests set switches through `cloud`."""
    with LocalCloud(tmp_path_factory.mktemp("computing")) as cloud:
        yield cloud


@pytest.fixture
def cloud(computing: LocalCloud) -> Iterator[LocalCloud]:
    """The shared cloud with a hypervisor; afterwards its switches are off and its instances ended."""
    before = computing.control("GET", "switches")
    yield computing
    computing.set_switches(**before)
    ec2 = Clients(computing.endpoint_url)("ec2")
    pages = ec2.get_paginator("describe_instances").paginate()
    ids = [i["InstanceId"] for p in pages for r in p["Reservations"] for i in r["Instances"]]
    if ids:
        ec2.terminate_instances(InstanceIds=ids)


@pytest.fixture
def clients(cloud: LocalCloud) -> Clients:
    return Clients(cloud.endpoint_url)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"
