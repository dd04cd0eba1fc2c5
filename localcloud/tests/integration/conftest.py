"""Local clouds of real processes on free ports, and boto3 clients for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.launch import LocalCloud
from localcloud.tests.support.cloud_clients import CloudClients


@pytest.fixture(scope="package")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudClients]:
    """CloudClients of a cloud without a hypervisor, shared: tests use names of their own."""
    with LocalCloud(tmp_path_factory.mktemp("apis"), hypervisor=False) as cloud:
        yield CloudClients(cloud.endpoint_url)


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
    ec2 = CloudClients(computing.endpoint_url)("ec2")
    pages = ec2.get_paginator("describe_instances").paginate()
    ids = [i["InstanceId"] for p in pages for r in p["Reservations"] for i in r["Instances"]]
    if ids:
        ec2.terminate_instances(InstanceIds=ids)


@pytest.fixture
def clients(cloud: LocalCloud) -> CloudClients:
    return CloudClients(cloud.endpoint_url)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"
