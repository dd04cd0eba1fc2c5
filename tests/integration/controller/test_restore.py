"""A job table that was damaged is restored to a new one, with which the system goes on: each image has one result."""

import math
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.fleet.store import FleetStore
from core.ids import ImageRef
from core.messages import Prediction, RequestMessage
from core.predictions import store_prediction, stored_prediction
from scripts.restore import plan_restore, restore_command
from scripts.restore import restore as restore_table
from services.clients import Clients
from tests.conftest import write_config
from tests.integration.controller.conftest import Scene, SceneMaker, done
from tests.support.waiting import wait_until
from web_tier.controller.services import ControllerServices

pytestmark = pytest.mark.processes


def restore(scene: Scene, *arguments: str) -> Result:
    """Run `fleetsight restore` for the job table of `scene`."""
    table = ("--endpoint-url", str(scene.config.aws.endpoint_url), "--table", scene.config.names.job_table)
    return CliRunner().invoke(restore_command, ["--region", "us-east-1", *table, *arguments])


def moment() -> datetime:
    """Return a moment in whole seconds after all that has happened."""
    second = math.floor(time.time()) + 1
    wait_until(lambda: time.time() > second, "a second begins")
    return datetime.fromtimestamp(second, UTC)


def enable_recovery(clients: Clients, table: str) -> None:
    clients.dynamodb.update_continuous_backups(
        TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )


def prediction(ref: ImageRef, label: str) -> Prediction:
    return Prediction(**done(ref, label).model_dump(), probabilities=(0.5, 0.5))


def with_table(scene: Scene, table: str, folder: Path) -> Scene:
    """Return the system of a scene, pointed at another job table."""
    values = scene.config.model_dump(mode="json")
    values["names"]["job_table"] = table
    config = Config.model_validate(values)
    folder.mkdir()
    path = write_config(config, folder / "config.yaml")
    return replace(
        scene,
        config=config,
        config_file=path,
        wiring=ControllerServices.connect(config),
        log_dir=folder,
        controllers=[],
    )


def test_a_restored_table_has_what_was_recorded_and_the_reconciler_repairs_the_rest(
    make_scene: SceneMaker, clients: Clients, tmp_path: Path
) -> None:
    scene = make_scene(fleet={"max_workers": 0})
    table = scene.config.names.job_table
    enable_recovery(clients, table)
    finished = scene.add_job(2, request=False)
    for ref in finished:
        scene.wiring.store.put_done([store_prediction(prediction(ref, "cat"), scene.wiring.outputs).response()])
    running = scene.add_job(4, request=False)
    answered, lost = running[:3], running[3]
    at = moment()
    done_restoring = restore(scene, "--at", at.isoformat())
    assert done_restoring.exit_code == 0, done_restoring.stderr
    target = f"{table}-restored-{at:%Y%m%dt%H%M%Sz}"
    assert f"--set RestoredJobTable={target}" in done_restoring.stdout
    again = restore(scene, "--at", at.isoformat())
    assert again.exit_code == 0, again.stderr
    assert "DynamoDB makes" not in again.stdout

    # After the moment: workers answer three images, the results are recorded, and the images deleted.
    responses = [store_prediction(prediction(ref, "dog"), scene.wiring.outputs).response() for ref in answered]
    scene.wiring.store.put_done(responses)
    scene.wiring.inputs.delete_all([record.key for record in scene.wiring.store.images_of(answered).values()])
    late = scene.add_job(1, request=False)
    # Then the items of both jobs are deleted by mistake.
    for ref in (finished[0], running[0]):
        items = list(scene.wiring.store.table.query(f"JOB#{ref.job_id}", "A", "~"))
        scene.wiring.store.table.delete_all([(str(item["pk"]), str(item["sk"])) for item in items])

    after = with_table(scene, target, tmp_path / "after")
    store = after.wiring.store
    assert {ref: result.label for ref, result in store.results_of(finished).items()} == dict.fromkeys(finished, "cat")
    assert store.results_of(running) == {}
    assert not store.existing([late[0].job_id])
    after.start_controller()
    try:
        wait_until(lambda: len(store.results_of(answered)) == 3, "the results are read from the output bucket")
        request = wait_until(
            lambda: after.wiring.requests.receive(wait_seconds=0), "the lost image is requested again"
        )
        assert {RequestMessage.from_json(message.body).ref for message in request} == {lost}
        after.respond([store_prediction(prediction(lost, "owl"), after.wiring.outputs).response()])
        after.wiring.requests.delete([message.receipt for message in request])
        wait_until(lambda: after.finished(lost.job_id), "the job is finished")
    finally:
        after.stop()
    results = store.results_of([*finished, *running])
    assert len(results) == 6
    for ref, result in results.items():
        stored = stored_prediction(ref, after.wiring.outputs)
        assert stored is not None
        assert (result.status, result.label, result.model) == (stored.status, stored.label, stored.model)
    expiry = clients.dynamodb.describe_time_to_live(TableName=target)["TimeToLiveDescription"]
    assert expiry["TimeToLiveStatus"] == "ENABLED"
    enabled = clients.dynamodb.describe_continuous_backups(TableName=target)["ContinuousBackupsDescription"]
    assert enabled["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


def test_of_the_controllers_of_both_tables_only_that_of_the_restored_one_acts(
    make_scene: SceneMaker, clients: Clients, tmp_path: Path
) -> None:
    """Row 64: the documented procedure, without the end of the old controller."""
    scene = make_scene(fleet={"max_workers": 0}, controller={"lease_seconds": 3})
    table = scene.config.names.job_table
    enable_recovery(clients, table)
    scene.start_controller()
    wait_until(lambda: scene.acts(0), "the controller acts")
    refs = scene.add_job(20)
    at = moment()
    assert restore(scene, "--at", at.isoformat()).exit_code == 0
    target = f"{table}-restored-{at:%Y%m%dt%H%M%Sz}"
    [late] = scene.add_job(1)
    store = scene.wiring.store
    items = list(store.table.query(f"JOB#{refs[0].job_id}", "A", "~"))
    store.table.delete_all([(str(item["pk"]), str(item["sk"])) for item in items])  # by mistake

    after = with_table(scene, target, tmp_path / "after")
    after.start_controller()
    try:
        wait_until(lambda: after.acts(0), "the controller of the restored table acts")
        after.respond([store_prediction(prediction(ref, "owl"), after.wiring.outputs).response() for ref in refs])
        after.respond([store_prediction(prediction(late, "owl"), after.wiring.outputs).response()])
        wait_until(lambda: after.finished(refs[0].job_id), "the job is finished")
        wait_until(
            lambda: "kept predictions of jobs" in after.log(), "a job that the restored table lacks is reported"
        )
        results = after.wiring.store.results_of(refs)
        assert {ref: result.label for ref, result in results.items()} == dict.fromkeys(refs, "owl")
        assert all(stored_prediction(ref, after.wiring.outputs) for ref in [*refs, late])

        scene.controllers[0].kill()
        scene.start_controller()
        wait_until(lambda: "another table is in use" in scene.log(1), "a new one for the old table reads it")
        assert not scene.acts(1)
        problem = FleetStore(store.table).state().problem
        assert problem is not None
        assert f"the job table {target} is in use instead" in problem
        assert FleetStore(after.wiring.store.table).state().problem is None
    finally:
        after.stop()


def test_what_cannot_be_restored_is_one_clear_line(scene: Scene, clients: Clients) -> None:
    off = restore(scene)
    assert (off.exit_code, off.stdout) == (1, "")
    assert off.stderr.strip().endswith(
        f"{scene.config.names.job_table} has no point-in-time recovery, so no earlier moment of it can be restored"
    )
    enable_recovery(clients, scene.config.names.job_table)
    early = restore(scene, "--at", (datetime.now(UTC) - timedelta(days=1)).isoformat())
    assert early.exit_code == 1
    assert "can be restored from " in early.stderr
    assert restore(scene, "--at", "yesterday").exit_code == 2
    zoneless = restore(scene, "--at", "2026-11-25T12:00:00")
    assert (zoneless.exit_code, "has no time zone" in zoneless.stderr) == (2, True)


def test_dynamodb_is_asked_for_the_moment_that_the_user_names(scene: Scene, clients: Clients) -> None:
    table, asked = scene.config.names.job_table, list[datetime]()
    enable_recovery(clients, table)
    at = moment()
    wait_until(lambda: datetime.now(UTC) > at + timedelta(seconds=1), "the moment is not the latest")
    event = "provide-client-params.dynamodb.RestoreTableToPointInTime"
    clients.dynamodb.meta.events.register(event, lambda params, **_: asked.append(params["RestoreDateTime"]))
    restore_table(clients.dynamodb, plan_restore(clients.dynamodb, table, at), lambda _line: None)
    assert asked == [at]


def test_a_dry_run_restores_nothing(scene: Scene, clients: Clients) -> None:
    enable_recovery(clients, scene.config.names.job_table)
    at = moment()
    shown = restore(scene, "--at", at.isoformat(), "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    name = shown.stdout.strip().rpartition(" ")[2]
    assert name not in clients.dynamodb.list_tables()["TableNames"]
