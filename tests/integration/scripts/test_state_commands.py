"""`fleetsight state`: copies, restores and removes a state, as a person types it."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from localcloud.launch import LocalCloud
from scripts.cli import fleetsight
from scripts.run.state import StateFolderError, open_state
from tests.support.cloud_clients import CloudClients

pytestmark = pytest.mark.processes


def run(command: str) -> Result:
    return CliRunner().invoke(fleetsight, ["state", *shlex.split(command)])


def objects(state: Path, folder: Path) -> list[str]:
    with LocalCloud(folder, hypervisor=False, state=state) as cloud:
        listed = CloudClients(cloud.endpoint_url)("s3").list_objects_v2(Bucket="bucket")
        return [each["Key"] for each in listed.get("Contents", [])]


def test_a_snapshot_is_restored_and_a_state_reset(tmp_path: Path) -> None:
    state, file, copy = tmp_path / "state", tmp_path / "backup", tmp_path / "copy"
    with LocalCloud(tmp_path / "run", hypervisor=False, state=state) as cloud:
        s3 = CloudClients(cloud.endpoint_url)("s3")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="kept", Body=b"x")
        for command in (f"snapshot {state} {file}", f"reset {state}"):
            refused = run(command)
            assert isinstance(refused.exception, StateFolderError)
            assert str(refused.exception) == f"the state {state} is in use: stop the system that runs with it"
    written = run(f"snapshot {state} {file}")
    assert written.exit_code == 0, written.output
    assert written.output.startswith(f"{file}: the state {state}, ")
    assert run(f"reset {state}").output == f"{state}: is empty\n"
    restored = run(f"restore {file} {copy}")
    assert restored.output.endswith(f"Run it with ./scripts/run.sh --state {copy}\n")
    assert objects(copy, tmp_path / "again") == ["kept"]


@pytest.mark.parametrize("command", ["snapshot {folder} {folder}/backup", "reset {folder}"])
def test_a_folder_that_is_no_state_is_left_alone(tmp_path: Path, command: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    refused = run(command.format(folder=tmp_path))
    assert isinstance(refused.exception, StateFolderError)
    assert f"{tmp_path} is not a state" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_run_refuses_a_folder_with_other_files_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StateFolderError, match=f"{tmp_path} is not a state"):
        open_state(tmp_path)
