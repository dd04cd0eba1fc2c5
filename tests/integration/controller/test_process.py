"""The controller as a process: `python -m web_tier.controller` on the local cloud."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from core.ids import new_id
from core.jobs.models import Counts, MergedFile
from localcloud.launch import LocalCloud
from services.sqs import OutgoingMessage
from tests.conftest import ROOT, write_config
from tests.integration.controller.conftest import Scene, SceneMaker, done
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.autoscaler.fleet_config import FleetConfigWatcher

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("kind", ["standard", "fifo"])
def test_a_batch_gets_its_fleet_and_its_results_are_counted(make_scene: SceneMaker, kind: str) -> None:
    scene = make_scene(queues={"kind": kind})
    scene.start_controller()
    refs = scene.add_job(45)
    wait_until(lambda: scene.workers() == 3, "three workers run for 45 images, 20 a worker")
    scene.respond([done(ref) for ref in refs])
    wait_until(lambda: scene.finished(refs[0].job_id), "the job is finished")
    assert scene.wiring.store.counts(refs[0].job_id).done == 45
    assert scene.workers() == 3
    wait_until(lambda: (seen := scene.snapshot()) and seen.running == 3, "the fleet page shows three workers")


def test_workers_that_end_while_images_wait_are_replaced(make_scene: SceneMaker) -> None:
    scene = make_scene(fleet={"max_workers": 2})
    scene.start_controller()
    scene.add_job(45)
    wait_until(lambda: scene.workers() == 2, "two workers run")
    ended = [instance.instance_id for instance in scene.wiring.fleet.instances(("running",))]
    scene.wiring.fleet.terminate(ended)
    wait_until(lambda: scene.workers() == 2, "two others run")


def test_stopped_workers_are_started_before_new_ones_are_launched(make_scene: SceneMaker) -> None:
    scene = make_scene(fleet={"scale_in": "stop"}, controller={"lost_after_seconds": 60})
    scene.start_controller()
    refs = scene.add_job(40)
    wait_until(lambda: scene.workers() == 2, "two workers run")
    first = {instance.instance_id for instance in scene.wiring.fleet.instances()}
    while batch := scene.wiring.requests.receive(wait_seconds=0):
        scene.wiring.requests.delete([message.receipt for message in batch])
    scene.respond([done(ref) for ref in refs])
    wait_until(lambda: scene.finished(refs[0].job_id), "the job is finished")
    scene.wiring.fleet.client.stop_instances(InstanceIds=sorted(first))
    wait_until(lambda: (seen := scene.snapshot()) and seen.stopped == 2, "the fleet page shows two stopped")
    scene.add_job(60)
    wait_until(lambda: scene.workers() == 3, "three workers run")
    assert first < {instance.instance_id for instance in scene.wiring.fleet.instances(("running",))}


def test_a_launch_whose_reply_is_lost_gives_exactly_as_many_as_were_wanted(
    make_scene: SceneMaker, cloud: LocalCloud
) -> None:
    # Without botocore's own retries, so that the launch is made again by us.
    scene = make_scene(aws={"max_attempts": 1})
    scene.start_controller()
    wait_until(lambda: scene.acts(0), "the controller acts")
    cloud.set_switches(lost_launch_replies=2)
    try:
        scene.add_job(100)
        wait_until(lambda: scene.workers() >= 5, "five workers run")
        wait_until(lambda: (seen := scene.snapshot()) and seen.running == 5, "the fleet page shows five")
        refs = scene.add_job(120)
        wait_until(lambda: scene.workers() >= 11, "eleven workers run")
        scene.respond([done(ref) for ref in refs])
        wait_until(lambda: scene.finished(refs[0].job_id), "the job is finished")
    finally:
        cloud.set_switches(lost_launch_replies=0)
    assert scene.workers() == 11
    assert "workers could not be started" in scene.log()


def test_what_the_fleet_page_shows_is_what_there_is(make_scene: SceneMaker) -> None:
    scene = make_scene(fleet={"max_workers": 2})
    scene.start_controller()
    scene.add_job(45)
    wait_until(
        lambda: (seen := scene.snapshot()) and (seen.running, seen.visible) == (2, 45),
        "the snapshot shows two workers and 45 images",
    )
    snapshot = scene.snapshot()
    assert snapshot is not None
    assert (snapshot.max_workers, snapshot.peak_workers, snapshot.pending) == (2, 2, 0)
    assert snapshot.billed_seconds >= 120
    assert snapshot.reason == "2 workers, the most allowed: 45 images waiting, 2 still booting"
    assert snapshot.problem is None


def test_of_two_controllers_one_acts_and_the_other_takes_over_when_it_is_killed(make_scene: SceneMaker) -> None:
    scene = make_scene(fleet={"max_workers": 4, "images_per_worker": 1}, controller={"lease_seconds": 4})
    scene.start_controller()
    wait_until(lambda: scene.acts(0), "the first controller acts")
    scene.start_controller()
    first = scene.add_job(3)
    wait_until(lambda: scene.workers() == 3, "three workers run")
    wait_until(lambda: "contending" in scene.log(1), "the second controller stands by")

    killed_at = datetime.now(UTC)
    scene.controllers[0].kill()
    second = scene.add_job(3)
    wait_until(lambda: scene.workers() == 4, "the standby launches up to the maximum")
    wait_until(lambda: scene.acts(1), "the standby logs that it acts")
    [acted] = [line for line in map(json.loads, scene.log(1).splitlines()) if "holds the lease" in line["message"]]
    assert datetime.fromisoformat(acted["at"]) > killed_at
    scene.respond([done(ref) for ref in first + second])
    wait_until(lambda: scene.finished(first[0].job_id) and scene.finished(second[0].job_id), "both jobs are finished")
    assert scene.workers() == 4


def test_a_holder_that_was_frozen_stops_acting_when_it_thaws(make_scene: SceneMaker) -> None:
    scene = make_scene(fleet={"max_workers": 5, "images_per_worker": 1}, controller={"lease_seconds": 4})
    frozen = scene.start_controller()
    wait_until(lambda: scene.acts(0), "the first controller acts")
    scene.start_controller()
    frozen.send_signal(signal.SIGSTOP)
    wait_until(lambda: scene.acts(1), "the standby takes over")
    scene.add_job(9)
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: scene.workers() == 5, "the maximum of workers runs")
    wait_until(lambda: "the lease was lost" in scene.log(0), "the thawed controller notices")
    wait_until(lambda: (seen := scene.snapshot()) and seen.running == 5, "the fleet page shows it")
    assert scene.workers() == 5


@pytest.mark.parametrize("token", [7, 11])
def test_a_shift_stores_counts_and_files_with_its_fencing_token(scene: Scene, token: int) -> None:
    """Row 54: what another controller has stored with the token 9 stands against 7, and not against 11."""
    store, hour_ago = scene.wiring.store, datetime.now(UTC) - timedelta(hours=1)
    active = lambda: True  # noqa: E731 - its identity is asserted
    ticks = scene.wiring.ticks("me", token, FleetConfigWatcher(scene.config_file, scene.config.fleet), active)
    [counted], [merged] = (scene.add_job(1, request=False) for _ in range(2))
    stored = Counts(5, 0, 5, hour_ago, hour_ago)
    assert store.store_counts(counted.job_id, stored, token=9)
    scene.respond([done(counted)])
    while scene.wiring.responses.counts().visible:
        ticks["collector"]()
    assert store.counts(counted.job_id).done == (1 if token > 9 else 5)

    store.put_done([done(merged)])
    assert store.store_counts(merged.job_id, Counts(1, 0, 1, hour_ago, hour_ago), token=9)
    assert store.put_merged(merged.job_id, MergedFile("key", "another", hour_ago), token=9)
    ticks["results_files"]()
    status = store.status(merged.job_id)
    assert (status.merged is not None and status.merged.edition == status.edition) is (token > 9)
    assert cast(Any, ticks["collector"]).__self__.recorder.active is active


def test_a_controller_that_stops_releases_its_lease_and_its_standby_takes_over(make_scene: SceneMaker) -> None:
    scene = make_scene(controller={"lease_seconds": 4})  # A standby looks every third of it.
    holder = scene.start_controller()
    wait_until(lambda: scene.acts(0), "the first controller acts")
    scene.start_controller()
    wait_until(lambda: "contending" in scene.log(1), "the second controller stands by")
    held = scene.wiring.store.table.get("LEASE", "controller")
    assert held is not None
    holder.terminate()
    assert holder.wait(DEADLINE_SECONDS) == 0
    left = scene.wiring.store.table.get("LEASE", "controller")
    assert left is None or left["holder"] != held["holder"]
    wait_until(lambda: scene.acts(1), "the standby takes over")
    scene.controllers[1].send_signal(signal.SIGINT)
    assert scene.controllers[1].wait(DEADLINE_SECONDS) == 0


def test_killed_at_any_time_while_it_collects_it_counts_every_result_once(make_scene: SceneMaker) -> None:
    scene = make_scene(queues={"visibility_timeout_seconds": 1})
    refs = scene.add_job(300, request=False)
    scene.respond([done(ref) for ref in refs] + [done(ref) for ref in refs[:50]])
    for pause in (0.0, 0.05, 0.2):
        scene.start_controller()
        number = len(scene.controllers) - 1
        wait_until(lambda number=number: scene.acts(number), "the controller acts")  # type: ignore[misc]
        time.sleep(pause)  # Not for luck: the three kills are to hit it at different steps.
        scene.kill_controller(number)
    scene.start_controller()
    wait_until(lambda: scene.finished(refs[0].job_id), "the job is finished")
    wait_until(lambda: scene.wiring.responses.counts().total == 0, "the response queue is empty")
    counts = scene.wiring.store.counts(refs[0].job_id)
    assert (counts.done, counts.failed, counts.images) == (300, 0, 300)
    assert len(scene.wiring.store.statuses(refs[0].job_id)) == 300


def test_malformed_and_unknown_responses_are_dropped_with_their_reason(scene: Scene) -> None:
    refs = scene.add_job(2, request=False)
    stranger = done(refs[0]).model_copy(update={"image_id": new_id()})
    elsewhere = done(refs[0]).model_copy(update={"job_id": new_id()})
    scene.wiring.responses.send([OutgoingMessage(new_id(), body) for body in ("not JSON", "{}", '{"version": 9}')])
    scene.respond([stranger, elsewhere, *[done(ref) for ref in reversed(refs)]])
    scene.start_controller()
    wait_until(lambda: scene.finished(refs[0].job_id), "the job is finished")
    wait_until(lambda: scene.wiring.responses.counts().total == 0, "the response queue is empty")
    assert sorted(scene.wiring.store.statuses(refs[0].job_id)) == sorted(ref.image_id for ref in refs)
    assert scene.wiring.store.statuses(elsewhere.job_id) == {}
    lines = [json.loads(line)["message"] for line in scene.log().splitlines()]
    assert lines.count("dropped a malformed response") == 3
    assert "dropped results of a job that does not exist" in lines
    assert "dropped results of images that were never accepted" in lines


def test_a_lowered_maximum_is_obeyed_without_a_restart_and_a_broken_file_changes_nothing(scene: Scene) -> None:
    scene.start_controller()
    wait_until(scene.snapshot, "the controller acts")

    def shows(maximum: int, problem: str = "") -> bool:
        seen = scene.snapshot()
        return seen is not None and seen.max_workers == maximum and problem in (seen.problem or "")

    lowered = scene.config.model_copy(update={"fleet": scene.config.fleet.model_copy(update={"max_workers": 1})})
    write_config(lowered, scene.config_file)
    wait_until(lambda: shows(1), "the lower maximum is in force")
    scene.config_file.write_text("fleet: {max_workers: many}")
    wait_until(lambda: shows(1, "max_workers = 'many'"), "the error is shown")
    scene.add_job(100)
    wait_until(lambda: scene.workers() == 1, "one worker runs")
    wait_until(lambda: (seen := scene.snapshot()) and seen.visible == 100, "the queue was looked at since")
    assert scene.workers() == 1
    assert "max_workers 19 -> 1" in scene.log()


def test_a_configuration_that_is_not_valid_stops_it_at_start(scene: Scene) -> None:
    values = yaml.safe_load(scene.config_file.read_text())
    values["fleet"]["max_workers"] = -1
    scene.config_file.write_text(yaml.safe_dump(values))
    controller = scene.start_controller()
    assert controller.wait(DEADLINE_SECONDS) == 2
    assert "fleet.max_workers = -1: Input should be greater than or equal to 0" in json.loads(scene.log())["message"]


def test_without_its_services_it_ends_with_a_reason(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "web_tier.controller"],
        cwd=ROOT,
        env={
            **os.environ,
            "FLEETSIGHT__AWS__ENDPOINT_URL": "http://127.0.0.1:9",
            "FLEETSIGHT__AWS__MAX_ATTEMPTS": "1",
        },
        stderr=subprocess.PIPE,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert b"the services could not be reached" in ended.stderr
