"""`fleetsight classify` against a real system: killed at random moments and resumed, nothing is lost or doubled."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fleetsight_client.api import ApiClient
from scripts.run.system import System
from tests.conftest import ROOT
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

IMAGES = 600
KILLS = 4
SEED = 2026


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {
        "FLEETSIGHT__FLEET__MAX_WORKERS": "1",
        "FLEETSIGHT__IMPORTS__SOURCES": '[{"location": "s3://photos/incoming"}]',
    }
    with running_system(tmp_path_factory.mktemp("system"), settings) as running:
        yield running


@pytest.fixture
def api(system: System) -> Iterator[ApiClient]:
    client = ApiClient(system.url)
    yield client
    client.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with small images, no two of them the same."""
    for number in range(IMAGES):
        data = io.BytesIO()
        Image.new("RGB", (8, 8), (number % 256, number // 256, SEED % 256)).save(data, "PNG")
        file = tmp_path / "photos" / f"day{number % 3}" / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.getvalue())
    return tmp_path / "photos"


def start(system: System, tmp_path: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = (sys.executable, "-m", "fleetsight_client", *map(str, arguments), "--url", system.url)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, errors


def test_a_command_killed_at_random_moments_sends_each_image_once(
    system: System, api: ApiClient, photos: Path, tmp_path: Path
) -> None:
    choose, out = random.Random(SEED), tmp_path / "results.csv"
    arguments = ("classify", photos, "--out", out, "--resume", "--name", "killed")
    state, sent = tmp_path / "state" / "fleetsight", list[int]()
    for _ in range(KILLS):
        process = start(system, tmp_path, *arguments)
        wait_until(lambda: process.poll() is not None or list(state.glob("*.journal")), "the journal exists")  # noqa: B023
        time.sleep(choose.uniform(0.0, 0.8))  # the moment of the kill, not a condition
        process.send_signal(signal.SIGKILL)
        status, errors = finish(process)
        found = [job for job in api.jobs() if job["name"] == "killed"]
        sent += [sum(api.status(job["job_id"])["accepted"] for job in found)]
        if out.exists():
            break  # on a fast machine it has written all results before the kill
    if status != 0:  # else it has even ended before the kill
        status, errors = finish(start(system, tmp_path, *arguments))
    assert status == 0, errors
    (job,) = [job for job in api.jobs() if job["name"] == "killed"]
    names = Counter(str(result["filename"]) for result in api.results(job["job_id"]))
    expected = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))
    assert sorted(names.elements()) == expected, sent
    assert api.status(job["job_id"])["accepted"] == IMAGES
    with out.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["filename"] for row in rows] == expected
    assert {row["status"] for row in rows} == {"done"}
    assert not list(state.iterdir())


def test_the_first_interrupt_ends_in_order_and_resume_continues(
    system: System, api: ApiClient, photos: Path, tmp_path: Path
) -> None:
    folder = photos / "day0"
    process = start(system, tmp_path, "classify", folder, "--name", "interrupted", "--keep")

    def has_images() -> bool:
        found = [job for job in api.jobs() if job["name"] == "interrupted"]
        return bool(found) and next(api.results(found[0]["job_id"]), None) is not None

    wait_until(lambda: process.poll() is not None or has_images(), "images were sent")
    process.send_signal(signal.SIGINT)
    status, errors = finish(process)
    if status == 0:
        pytest.skip("the command was faster than the interrupt")
    assert status == 130
    assert "continue with the same command and --resume" in errors
    status, errors = finish(start(system, tmp_path, "classify", folder, "--resume"))
    assert status == 0, errors
    count = len([*folder.iterdir()])
    assert f"{count} images: {count} with a label." in errors


def test_a_folder_of_s3_gets_its_results(system: System, photos: Path, tmp_path: Path) -> None:
    s3, files = system.clients.s3, sorted(photos.rglob("*.png"))[:20]
    s3.create_bucket(Bucket="photos")
    for file in files:
        s3.put_object(Bucket="photos", Key=f"incoming/{file.name}", Body=file.read_bytes())
    out = tmp_path / "results.csv"
    status, errors = finish(start(system, tmp_path, "classify", "--source", "s3://photos/incoming", "--out", out))
    assert status == 0, errors
    with out.open(newline="", encoding="utf-8") as lines:
        assert [row["filename"] for row in csv.DictReader(lines)] == sorted(file.name for file in files)
