"""`scripts/run.sh` as a person types it: it ends with the right status, and leaves no process behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
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


@pytest.fixture
def serving(port: int, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command with a small batch done and its two workers still there, as it stands until Ctrl-C."""
    for drawn in samples(4, seed=5):
        (tmp_path / drawn.filename).write_bytes(drawn.data)
    environment = {
        **os.environ,
        "FLEETSIGHT__WEB__PORT": str(port),
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "600",
        "FLEETSIGHT__FLEET__MAX_WORKERS": "2",
        "FLEETSIGHT__FLEET__IMAGES_PER_WORKER": "1",
    }
    with running(port, "The page is at", "--images", tmp_path, environment=environment) as (process, _):
        yield process


@contextmanager
def running(
    port: int, ready: str, *options: object, environment: Mapping[str, str] = os.environ
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command until the block ends; yield it with what it prints up to the line with `ready`."""
    command = [sys.executable, "-u", "-m", "scripts.run", "--port", str(port), *map(str, options)]
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


def test_no_process_is_left_when_the_command_is_terminated(serving: subprocess.Popen[str], port: int) -> None:
    # The command itself, cloud, its server, hypervisor, guard, controller, gunicorn and its workers, two instances.
    assert len(processes_of(port)) >= 9
    end(serving, port, signal.SIGTERM)


def end(serving: subprocess.Popen[str], port: int, number: signal.Signals) -> None:
    """End the command by a signal; expect the end of every process."""
    serving.send_signal(number)
    serving.wait(timeout=DEADLINE_SECONDS)
    wait_until(lambda: not processes_of(port), "every process has ended")


def test_the_first_batch_has_its_pictures_outlives_the_web_tier_and_ends_by_a_kill(
    serving: subprocess.Popen[str], port: int
) -> None:
    url = f"http://127.0.0.1:{port}"
    [job_id] = set(re.findall("/jobs/([0-9A-Z]{26})", requests.get(f"{url}/jobs", timeout=DEADLINE_SECONDS).text))
    for image in ApiClient(url).results(job_id):
        picture = requests.get(f"{url}/jobs/{job_id}/images/{image['image_id']}/thumbnail", timeout=DEADLINE_SECONDS)
        assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/jpeg")

    web = {pid for pid in processes_of(port) if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    assert web
    for pid in web:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not ApiClient(f"http://127.0.0.1:{port}").ready(), "the web tier is gone")
    wait_until(ApiClient(f"http://127.0.0.1:{port}").ready, "the web tier answers again")
    assert serving.poll() is None
    end(serving, port, signal.SIGKILL)


def test_a_system_without_a_batch_is_empty_and_ends_with_0_at_an_interrupt(port: int) -> None:
    with running(port, "Press Ctrl-C to stop", "--no-batch", "--sign-in") as (process, printed):
        [token] = re.findall(r"FLEETSIGHT_TOKEN=(\S+)", printed)
        api = ApiClient(f"http://127.0.0.1:{port}", token=token)
        headers = {"Authorization": f"Bearer {token}"}
        jobs = requests.get(f"{api.base_url}/api/v1/jobs", headers=headers, timeout=DEADLINE_SECONDS).json()["jobs"]
        assert jobs == []
        end(process, port, signal.SIGINT)
        assert process.returncode == 0


def test_once_ends_with_0_and_a_summary_when_every_image_has_its_answer(port: int, tmp_path: Path) -> None:
    summary_file = tmp_path / "summary.json"
    switches = ["--switch", "boot_delay_seconds=0.5", "--switch", "capacity={c7a.large: 5}"]
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
    assert 1 <= summary["peak_workers"] <= 5
    assert 0.5 < summary["first_result_s"] <= summary["last_result_s"]
    assert "boot_delay_seconds=0.5, capacity={c7a.large: 5}" in ended.stdout
    assert "Fleet scaled down to 0" in ended.stdout
    assert f"http://127.0.0.1:{port}" in ended.stdout
    assert not processes_of(port)


def test_once_ends_with_1_when_an_image_of_the_users_own_fails(port: int, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "torn.jpg").write_bytes(b"no image at all")
    good = next(iter(samples(1, seed=3)))
    (folder / good.filename).write_bytes(good.data)
    command = [
        sys.executable,
        "-m",
        "scripts.run",
        "--once",
        "--port",
        str(port),
        "--model",
        "demo",
        "--images",
        str(folder),
    ]
    path = os.pathsep.join([str(ROOT / "tests" / "support" / "forking"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, FORK_SERVER_VARIABLE: fork_server()}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "failed: torn.jpg" in ended.stdout
    assert good.label in ended.stdout
