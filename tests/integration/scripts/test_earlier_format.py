"""What a release before packs has written is refused, with the commands that export its results.

That release runs from its commit in the history of this repository.
"""

import csv
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from core.ids import new_id
from core.jobs.formats import LAST_RELEASE_BEFORE
from core.jobs.items import JOBS
from scripts.demo_model.signs import samples
from scripts.run.state import open_state
from scripts.run.system import free_port
from services.table import Table
from tests.conftest import ROOT
from tests.support.checkouts import without_setup
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the release, with this one's environment."""
    [commit] = re.findall(r"git checkout (\w+)", LAST_RELEASE_BEFORE)
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"the history of this checkout lacks the commit {commit}: {packed.stderr.decode()}")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    without_setup(folder)
    (folder / "segno.py").touch()  # a package that it imports for its sign-in, and that is not installed any more
    return folder


@contextmanager
def started(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Run a command in a folder while the context lasts; yield the file of its output."""
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(command.split(), cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        yield output
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


def test_a_state_of_this_release_with_a_job_of_an_earlier_format_is_refused(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    try:
        with running_system(tmp_path / "home", state=state) as system:
            table = Table(system.clients.dynamodb, system.config.names.job_table)
            table.put_all([{"pk": JOBS, "sk": new_id(), "name": "of a version between the releases"}])
    finally:
        os.close(state.lock)
    command = [sys.executable, "-m", "scripts.run", "--no-batch", "--state", str(state.folder.path)]
    environment = os.environ | {"FLEETSIGHT_HOME": str(tmp_path), "FLEETSIGHT__WEB__PORT": str(free_port())}
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"fleetsight: the state {state.folder.path} has jobs of an earlier format")


def test_the_state_of_a_release_before_packs_is_refused_and_exported_as_the_refusal_says(
    release: Path, tmp_path: Path
) -> None:
    images, state, port = tmp_path / "images", tmp_path / "state", free_port()
    images.mkdir()
    files = {each.filename: each.data for each in samples(3, seed=7)}
    for name, data in files.items():
        (images / name).write_bytes(data)
    environment = os.environ | {
        "FLEETSIGHT_HOME": str(tmp_path / "home"),
        "FLEETSIGHT__WEB__PORT": str(port),
        "FLEETSIGHT_URL": f"http://127.0.0.1:{port}",
    }

    def run(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command.split(), cwd=folder, env=environment, capture_output=True, text=True,
            timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip

    made = run(f"./scripts/run.sh --once --model demo --images {images} --state {state}", release)
    assert made.returncode == 0, made.stdout + made.stderr
    refused = run(f"{sys.executable} -m scripts.run --no-batch --state {state}", ROOT)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert refused.stderr.startswith(f"fleetsight: the state {state} has jobs of an earlier format")
    serve, export, listing = re.findall(r"`([^`]+)`", refused.stderr)
    with started(serve, release, environment) as output:
        wait_until(lambda: "Press Ctrl-C" in output.read_text(), "it serves", details=output.read_text)
        [job] = re.findall(r"^(\w{26}) ", run(listing, release).stdout, re.MULTILINE)
        assert run(export.replace("JOB", job), release).returncode == 0
    with (release / f"{job}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["filename"]).name for row in rows} == files.keys()
    assert all(row["label"] for row in rows)
