"""Systems of their own: unhealthy instances are replaced, protected workers stay, a batch costs what was billed."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from benchmarks.billed_calls import EMPTY, EXTENSION, Record, recording
from core.config import PATH_VARIABLE
from core.cost import JOB, Requests, requests_of
from core.fleet.store import FleetStore
from core.jobs.figures import JobFigures
from core.jobs.store import JobStore
from fleetsight_client.api import ApiClient
from localcloud.clients import ControlClient
from services.ec2 import Fleet
from services.table import Table
from tests.chaos.conftest import RunningSystem, run_system, signs
from tests.conftest import shipped_values
from tests.support.systems import running_system
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

IDLE_SECONDS = 1


@contextmanager
def started(home: Path, config: Path) -> Iterator[RunningSystem]:
    """A system of its own by this configuration."""
    with running_system(home) as system:
        fleet = Fleet(system.clients.ec2, system.config.names.worker_instance)
        yield RunningSystem(system, ApiClient(system.url), fleet)


def configured(path: Path, **fleet: object) -> Path:
    """Write the shipped configuration with an impatient worker and these keys of its fleet."""
    values = shipped_values()
    values["worker"]["idle_seconds"] = IDLE_SECONDS
    values["fleet"] |= {"max_workers": 2, **fleet}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_an_instance_without_a_heartbeat_is_replaced_and_then_terminated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path / "config.yaml", boot_allowance_seconds=2)
    monkeypatch.setenv(PATH_VARIABLE, str(config))
    with started(tmp_path, config) as running:
        store = FleetStore(Table(running.system.clients.dynamodb, running.system.config.names.job_table))
        running.set_switches(stuck_boot_fraction=1)
        files, truth = signs(30, seed=71)
        job_id = running.api.create_job("with an unhealthy instance")
        outcome = running.upload(job_id, files)
        wait_until(running.workers, "an instance runs")
        unhealthy = running.workers()[0].instance_id
        running.set_switches(stuck_boot_fraction=0)
        wait_until(
            lambda: any(each.marked and each.instance_id == unhealthy for each in store.instances().instances),
            "the unhealthy instance is marked",
        )
        running.wait_for_results(job_id, 30)
        assert running.right(job_id, outcome, truth) >= 29
        wait_until(lambda: not running.workers(), "the unhealthy instance has ended")
        why = f"terminated {unhealthy}: no heartbeat within 2 s of its launch"
        wait_until(
            lambda: any(each.words.startswith(why) for each in store.decisions().decisions),
            "the decision is recorded",
        )
        assert running.max_seen <= 2


def test_what_a_killed_worker_held_is_answered_although_its_timeout_is_an_hour(tmp_path: Path) -> None:
    """Row 1."""
    with run_system(tmp_path, visibility_seconds=3_600) as running:
        running.set_switches(faults=[{"kind": "slow", "tier": "worker", "service": "s3", "seconds": 120}])
        files, truth = signs(3, seed=72)
        job_id = running.api.create_job("held by a killed worker")
        outcome = running.upload(job_id, files)
        with closing(ControlClient(running.system.endpoint_url)) as cloud:
            hiding = "sqs ChangeMessageVisibilityBatch"
            wait_until(lambda: cloud.get("calls")["calls"].get(hiding), "a worker hides them for an hour")
        running.set_switches(faults=[])
        pids = [running.worker_pid(worker) for worker in running.workers()]
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        running.wait_for_results(job_id, 3)
        assert running.right(job_id, outcome, truth) == 3
        # More than two where a busy machine let the first timeout of two seconds end.
        assert min(result["attempts"] for result in running.api.results(job_id)) >= 2


IMAGES = 100

BY_CLOCK = (f"sqs {EMPTY}", "sqs GetQueueAttributes", "dynamodb PutItem", "dynamodb UpdateItem", "dynamodb Query")
"""Calls that controller and workers make by the clock, mostly."""


@pytest.mark.parametrize("max_images", [1, 50])
def test_a_job_alone_costs_the_fleets_bill_and_asks_for_what_the_model_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_images: int
) -> None:
    monkeypatch.setenv("FLEETSIGHT__PACKS__MAX_IMAGES", str(max_images))
    with recording(tmp_path / "calls") as record, run_system(tmp_path, extensions=[EXTENSION]) as running:
        check_costs(running, record)


def check_costs(running: RunningSystem, record: Record) -> None:
    """Classify a batch by a system that has done nothing else; compare the bill and the calls with the model."""
    files, _ = signs(IMAGES, seed=71)
    store = JobStore(Table(running.system.clients.dynamodb, running.system.config.names.job_table))
    made = Requests()

    def requests_so_far() -> Requests:
        nonlocal made
        calls = record.take().items()
        own = (each for (component, name), each in calls if component == "web" or name not in BY_CLOCK)
        made = sum((each.requests for each in own), made)
        return made

    record.take()
    job_id = running.api.create_job("alone")
    running.wait_for_results(job_id, len(running.upload(job_id, files).accepted))
    # Nothing is put or read twice, but for a call that was repeated; the file of all results comes later.
    status = store.status(job_id)
    expected, puts_and_gets = requests_of(status.counts, status.job), requests_so_far()
    assert (puts_and_gets.s3_put, puts_and_gets.s3_get) == pytest.approx(
        (expected.s3_put, expected.s3_get + JOB.s3_get), rel=0.02, abs=2
    )

    wait_until(lambda: not running.workers() and (running.api.fleet() or {})["running"] == 0, "the fleet has ended")
    fleet, cost = running.api.fleet(), running.api.status(job_id)["cost"]
    running.api.delete(job_id)
    wait_until(lambda: not JobFigures(store.table).counts(job_id).images, "the job is removed")
    # Where work is slow, batches of messages and of results are small, and each of these is counted. Full batches are
    # one call (tests/unit/app_tier/test_pipeline.py, tests/unit/web_tier/test_collector.py).
    made, expected, prices = requests_so_far(), expected + JOB, running.system.config.prices
    assert made.table_write == pytest.approx(expected.table_write, rel=0.2)
    assert made.dollars(prices) == pytest.approx(expected.dollars(prices), rel=0.1)

    assert fleet is not None
    assert cost["billed_seconds"] == pytest.approx(fleet["billed_seconds"], abs=0.2)
    assert cost["instances_dollars"] == pytest.approx(fleet["cost"], abs=1e-6)
    assert fleet["billed_seconds"] >= 60
    assert fleet["cost"] == pytest.approx(fleet["billed_seconds"] / 3600 * prices.worker_hour("c7a.large"), rel=1e-3)
    assert (fleet["images"], fleet["run"]["images"], fleet["run"]["is_open"]) == (IMAGES, IMAGES, False)
