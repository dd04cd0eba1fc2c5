"""A fault that ends every worker, in a running system: it comes to rest, says why, and goes on after the repair."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from core.fleet.models import LaunchJournal
from core.fleet.store import FleetStore
from localcloud.clients import ControlClient
from scripts.run.system import System
from services.table import Table
from tests.support.jobs import picture
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

IMAGES = 12
WORKERS = 4
DENIED = {"service": "s3", "operation": "PUT", "tier": "worker", "kind": "denied"}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    settings = {"FLEETSIGHT__FLEET__MAX_WORKERS": str(WORKERS), "FLEETSIGHT__FLEET__IMAGES_PER_WORKER": "1"}
    with running_system(tmp_path, settings) as system:
        yield system


def set_faults(system: System, *faults: dict[str, str]) -> None:
    with closing(ControlClient(system.endpoint_url)) as control:
        control.call("PUT", "switches", {"faults": list(faults)})


def launches(system: System) -> int:
    pages = system.clients.ec2.get_paginator("describe_instances").paginate()
    return sum(len(each["Instances"]) for page in pages for each in page["Reservations"])


def fleet(system: System) -> dict[str, Any]:
    """Return the status of the fleet, once the controller has published one."""

    def published() -> Any:
        answer = requests.get(f"{system.url}/api/v1/fleet", timeout=DEADLINE_SECONDS)
        return answer.json() if answer.ok else None

    return dict(wait_until(published, "the controller publishes a fleet status"))


def replace_controller_as_if_minutes_later(system: System) -> None:
    """Kill the controller for one that finds no launch in the journal."""
    store = FleetStore(Table(system.clients.dynamodb, system.config.names.job_table))
    pid = system.supervisor.pid("controller")
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    assert store.put_journal(LaunchJournal(revision=store.journal().revision + 1))
    os.killpg(pid, signal.SIGKILL)


def test_row_61_workers_without_right_to_store_are_probed_and_reported_until_repair(system: System) -> None:
    set_faults(system, DENIED)
    client = system.api()
    job = client.create_job("denied")
    client.add_images(job, [(f"{number}.jpg", picture(shade=number)) for number in range(IMAGES)])
    wait_until(
        lambda: fleet(system)["circuit"]["state"] == "open", "the circuit is open", details=lambda: str(fleet(system))
    )
    circuit, problem = fleet(system)["circuit"], fleet(system)["problem"]
    assert "PutObject" in circuit["reason"]
    assert circuit["reason"] in problem
    assert circuit["reason"] in requests.get(f"{system.url}/fleet", timeout=DEADLINE_SECONDS).text.replace(
        "&#39;", "'"
    )
    page = requests.get(f"{system.url}/jobs/{job}", timeout=DEADLINE_SECONDS).text
    assert "No worker can classify images at the moment." in page
    before = launches(system)
    # The reproduction had 41 launches in 40 s. Now the first probe follows, alone, a minute after the last launch;
    # the controller's successor knows the state of the circuit, and here of no launch.
    replace_controller_as_if_minutes_later(system)
    wait_until(lambda: launches(system) > before, "a probe starts")
    assert (before <= 2 * WORKERS, launches(system)) == (True, before + 1)
    set_faults(system)
    wait_until(lambda: client.status(job)["state"] == "finished", "the images are classified after the repair")
    status = client.status(job)
    assert (status["done"], status["failed"]) == (IMAGES, 0)
    wait_until(lambda: fleet(system)["problem"] is None, "and nothing is reported any more")
