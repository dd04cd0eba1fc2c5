"""Unhealthy instances are terminated and replaced; protected workers stay although there is nothing to do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from core.config import PATH_VARIABLE
from core.fleet.store import FleetStore
from scripts.client import ApiClient
from scripts.run.system import System, free_port
from services.ec2 import Fleet
from services.table import Table
from tests.chaos.conftest import RunningSystem, signs
from tests.conftest import shipped_values
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

IDLE_SECONDS = 1


@contextmanager
def started(home: Path, config: Path) -> Iterator[RunningSystem]:
    """A system of its own by this configuration."""
    system = System(home, {"FLEETSIGHT__WEB__PORT": str(free_port())})
    try:
        system.start()
        yield RunningSystem(
            system, ApiClient(system.url), Fleet(system.clients.ec2, system.config.names.worker_instance)
        )
    finally:
        system.stop()


def configured(path: Path, **fleet: object) -> Path:
    """Write the shipped configuration with an impatient worker and these keys of its fleet."""
    values = shipped_values()
    values["worker"]["idle_seconds"] = IDLE_SECONDS
    values["fleet"] |= {"max_workers": 2, **fleet}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_an_instance_that_never_works_is_replaced_at_once_and_ended_after_a_second_look(
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
        wait_until(lambda: any(each.words.startswith(why) for each in store.decisions().decisions), "it is told")
        assert running.max_seen <= 2


def test_a_standby_stays_through_its_idle_times_and_goes_when_it_is_no_longer_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path / "config.yaml", min_workers=1)
    monkeypatch.setenv(PATH_VARIABLE, str(config))
    with started(tmp_path, config) as running:
        store = FleetStore(Table(running.system.clients.dynamodb, running.system.config.names.job_table))

        def standby() -> str | None:
            """Return the instance that was asked to stay and has been heard of."""
            heard = {each.instance_id for each in store.instances().instances if each.heard_at is not None}
            return next(
                (each.instance_id for each in running.workers() if each.protected and each.instance_id in heard), None
            )

        wait_until(standby, "a worker stands by")
        first = standby()
        time.sleep(4 * IDLE_SECONDS)  # Not for luck: nobody stays for long that was not asked to.
        assert [each.instance_id for each in running.workers()] == [first]
        job_id = running.api.create_job("for the standby")
        running.wait_for_results(job_id, len(running.upload(job_id, signs(10, seed=72)[0]).accepted))
        assert {result["worker"] for result in running.api.results(job_id)} == {first}
        configured(config, min_workers=0)
        wait_until(lambda: not running.workers(), "the standby has ended itself")
        assert "idle for 1 s" in running.fleet.console_output(str(first))
