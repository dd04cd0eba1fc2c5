"""The examples against a whole system: each runs as its README says, and prints the right labels."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import RunningSystem, signs
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

EXAMPLES = ROOT / "examples"


def run(*command: object) -> list[str]:
    """Run an example; return the lines that it prints."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_upload_prints_the_label_of_each_file_and_the_reason_of_a_rejected_one(
    running: RunningSystem, tmp_path: Path
) -> None:
    files, truth = signs(25, seed=81)
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "text.jpg").write_text("this is no image")
    printed = dict(
        line.split(": ", 1)
        for line in run(sys.executable, EXAMPLES / "upload.py", running.system.url, *tmp_path.iterdir())
    )
    right = sum(printed[name].startswith(label) for name, label in truth.items())
    assert (len(printed), right >= 24) == (25, True)


def test_watch_prints_the_events_of_a_job_until_its_end(running: RunningSystem) -> None:
    files, _ = signs(5, seed=82)
    job_id = running.api.create_job("watched")
    outcome = running.api.add_images(job_id, files)
    lines = run(sys.executable, EXAMPLES / "watch.py", running.system.url, job_id)
    assert lines[-1].startswith("end ")
    assert len(outcome.accepted) == 5


def test_presigned_uploads_an_image_without_the_web_tier(running: RunningSystem, tmp_path: Path) -> None:
    files, truth = signs(20, seed=83)
    name, content = next((name, content) for name, content in files if name.endswith(".jpg"))
    (tmp_path / name).write_bytes(content)
    header, row = run(EXAMPLES / "presigned.sh", running.system.url, tmp_path / name)
    assert "label" in header
    assert truth[name] in row
