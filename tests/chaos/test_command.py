"""`scripts/run.sh` as a person types it: it ends with the right status, and leaves no process behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import ROOT, free_port
from tests.support.forked_system import FORK_SERVER_VARIABLE, fork_server
from tests.support.processes import processes_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def running(
    port: int, ready: str, *options: object, variables: Mapping[str, str], folders: Sequence[Path] = ()
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command until the block ends; yield it with what it prints up to the line with `ready`.

    It has the modules of `folders`.
    """
    command = [sys.executable, "-P", "-m", "scripts.run", "--port", str(port), *map(str, options)]
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    environment = {**os.environ, **variables, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        try:
            for line in process.stdout:
                printed += line
                if ready in line:
                    break
            assert ready in printed
            yield process, printed
        finally:
            process.kill()
    wait_until(lambda: not processes_of(port), "nothing is left of it")


def end(process: "subprocess.Popen[str]", port: int, number: signal.Signals) -> None:
    """End the command by a signal; expect the end of every process."""
    process.send_signal(number)
    process.wait(timeout=DEADLINE_SECONDS)
    wait_until(lambda: not processes_of(port), "every process has ended")


def test_the_first_batch_has_its_pictures_outlives_the_web_tier_and_ends_by_a_kill(port: int, tmp_path: Path) -> None:
    for drawn in samples(4, seed=5):
        (tmp_path / drawn.filename).write_bytes(drawn.data)
    (tmp_path / "torn.jpg").write_bytes(b"no image at all")
    settings = {
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "600",  # they are there at the end
        "FLEETSIGHT__FLEET__MAX_WORKERS": "2",
        "FLEETSIGHT__FLEET__IMAGES_PER_WORKER": "1",
    }
    url, options = f"http://127.0.0.1:{port}", ("--model", "demo", "--images", tmp_path)
    with running(port, "This job is at", *options, variables=settings) as (serving, printed):
        assert "failed: torn.jpg" in printed
        assert drawn.label in printed
        [job_id] = re.findall(rf"{url}/jobs/([0-9A-Z]{{26}})", printed)
        images = [image for image in ApiClient(url).results(job_id) if image["status"] == "done"]
        assert len(images) == 4
        for image in images:
            address = f"{url}/jobs/{job_id}/images/{image['image_id']}/thumbnail"
            picture = requests.get(address, timeout=DEADLINE_SECONDS)
            assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/jpeg")

        # The command, cloud, its server, hypervisor, guard, controller, gunicorn and its workers, two instances.
        assert len(processes_of(port)) >= 9
        web = {pid for pid in processes_of(port) if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        assert web
        for pid in web:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not ApiClient(url).ready(), "the web tier is gone")
        wait_until(ApiClient(url).ready, "the web tier answers again")
        assert serving.poll() is None
        end(serving, port, signal.SIGKILL)


def test_a_system_without_a_batch_is_empty_and_ends_with_0_at_an_interrupt(port: int) -> None:
    forks = {FORK_SERVER_VARIABLE: fork_server()}
    options, folders = ("--no-batch", "--sign-in"), [ROOT / "tests" / "support" / "forking"]
    with running(port, "Press Ctrl-C to stop", *options, variables=forks, folders=folders) as (process, printed):
        [token] = re.findall(r"FLEETSIGHT_TOKEN=(\S+)", printed)
        api = ApiClient(f"http://127.0.0.1:{port}", token=token)
        headers = {"Authorization": f"Bearer {token}"}
        jobs = requests.get(f"{api.base_url}/api/v1/jobs", headers=headers, timeout=DEADLINE_SECONDS).json()["jobs"]
        assert jobs == []
        end(process, port, signal.SIGINT)
        assert process.returncode == 0


def test_once_ends_with_0_and_a_summary_when_every_image_has_its_answer(port: int, tmp_path: Path) -> None:
    summary_file = tmp_path / "summary.json"
    switches = ["--switch", "boot_delay_seconds=0.5", "--switch", "capacity={c7a.large: 2}"]
    switches += [
        "--switch",
        "faults=[{kind: unavailable, service: s3, operation: HeadBucket}]",
    ]  # so it is never ready
    command = ["./scripts/run.sh", "--once", "--port", str(port), "--json", str(summary_file), *switches]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads(summary_file.read_text())
    assert (summary["images"], summary["failed"], summary["lost"]) == (100, 0, 0)
    assert summary["right"] >= 99
    assert summary["right"] + summary["wrong"] == 100
    assert 1 <= summary["peak_workers"] <= 2
    assert 0.5 < summary["first_result_s"] <= summary["last_result_s"]
    assert "boot_delay_seconds=0.5, capacity={c7a.large: 2}" in ended.stdout
    assert "Fleet scaled down to 0" in ended.stdout
    assert f"http://127.0.0.1:{port}" in ended.stdout
    assert not processes_of(port)
