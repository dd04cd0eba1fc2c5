"""The controller as a process: `python -m web_tier.controller` on the local cloud."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import yaml

from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.figures import JobFigures
from core.jobs.items import JOBS
from core.jobs.models import Counts, MergedFile
from scripts.run.supervisor import ManagedProcess
from scripts.run.system import WEB_TIER
from services.lease import Tenure
from tests.conftest import ROOT
from tests.integration.controller.conftest import Scene, SceneMaker, done
from tests.support.forked import ForkedPython
from tests.support.forked_system import ForkingSupervisor
from tests.support.jobs import put_counts, put_results
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.controller.collector import Collector
from web_tier.controller.loops import controller_loops

pytestmark = pytest.mark.processes


def test_a_controller_that_is_killed_repeatedly_is_replaced_before_its_lease_ends(
    make_scene: SceneMaker,
) -> None:
    """Row 68: its supervisor knows that it is dead."""
    scene, supervisor = make_scene(controller={"lease_seconds": 600}), ForkingSupervisor()
    environment = {**os.environ, "FLEETSIGHT_CONFIG": str(scene.config_file)}
    command, log = (sys.executable, "-m", "web_tier.controller"), scene.log_dir / "controller-0.log"
    log.touch()
    supervisor.start(ManagedProcess("controller", command, environment, log))
    try:
        for number in range(1, 4):
            wait_until(lambda: scene.log().count("holds the lease") == number, "it acts")  # noqa: B023 - at once
            killed = supervisor.pid("controller")
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
        wait_until(lambda: scene.log().count("holds the lease") == 4, "the last one acts")
        problem = FleetStore(scene.wiring.store.table).state().problem
        assert problem is not None
        assert re.search(r"ended 3 times within 10 minutes, last at \S+ UTC with signal 9 \(SIGKILL\)$", problem)
    finally:
        supervisor.stop()


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
    fleet_config = FleetConfigWatcher(scene.config_file, scene.config.fleet)
    loops = controller_loops(scene.wiring, fleet_config, Tenure("me", token, active=active))
    work = {loop.name: loop.work for loop in loops}
    [counted], [merged] = (scene.add_job(1, request=False) for _ in range(2))
    stored = Counts(5, 0, 5, hour_ago, hour_ago)
    put_counts(store, counted.job_id, stored, token=9)
    scene.respond([done(counted)])
    while scene.wiring.responses.counts().visible:
        work["collector"].tick()
    assert JobFigures(store.table).counts(counted.job_id).done == (6 if token > 9 else 5)

    put_results(store, done(merged))
    put_counts(store, merged.job_id, Counts(1, 0, 1, hour_ago, hour_ago), token=9)
    assert JobFigures(store.table).put_merged(merged.job_id, MergedFile("key", "another", hour_ago), token=9)
    work["results_files"].tick()
    status = store.status(merged.job_id)
    assert (status.merged is not None and status.merged.edition == status.edition) is (token > 9)
    assert cast(Collector, work["collector"]).tenure.active is active


def test_a_configuration_that_is_not_valid_stops_it_at_start(scene: Scene) -> None:
    values = yaml.safe_load(scene.config_file.read_text())
    values["fleet"]["max_workers"] = -1
    scene.config_file.write_text(yaml.safe_dump(values))
    controller = scene.start_controller()
    assert controller.wait(DEADLINE_SECONDS) == 2
    assert "fleet.max_workers = -1: must be greater than or equal to 0" in json.loads(scene.log())["message"]


def test_a_job_table_of_an_earlier_format_ends_controller_and_web_tier_as_a_wrong_configuration_does(
    scene: Scene,
) -> None:
    scene.wiring.store.table.put_all([{"pk": JOBS, "sk": new_id(), "name": "of an earlier release"}])

    def end_of_web_tier() -> tuple[int, str]:
        log = scene.log_dir / "web.log"
        web = ForkedPython(("-m", *WEB_TIER), {**os.environ, "FLEETSIGHT_CONFIG": str(scene.config_file)}, log)
        return web.wait(DEADLINE_SECONDS), log.read_text()

    assert scene.start_controller().wait(DEADLINE_SECONDS) == 2
    status, words = end_of_web_tier()
    for said in (json.loads(scene.log())["message"], words):
        assert "by `./scripts/fleetsight results JOB --out JOB.csv` for each JOB" in said
    values = yaml.safe_load(scene.config_file.read_text())
    scene.config_file.write_text(yaml.safe_dump({**values, "fleets": {}}))
    assert end_of_web_tier()[0] == status


def test_without_its_services_it_ends_with_a_reason(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "web_tier.controller"],
        cwd=ROOT,
        env={
            **os.environ,
            "FLEETSIGHT__AWS__ENDPOINT_URL": "http://127.0.0.1:9",
        },
        stderr=subprocess.PIPE,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert b"the services could not be reached" in ended.stderr
