"""The web tier's metrics over the wire: the sum over its processes, also when some of them are killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from core.provision import provision
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import WebTier, serving, two_processes
from tests.support.jobs import picture
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.http.metrics import FOLDER_VARIABLE

pytestmark = pytest.mark.processes

HEALTHY = ("fleetsight_http_requests_total", "GET//healthz/200")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the web tier makes the folder of its files."""
    (folder := tmp_path / "counts").mkdir()
    return folder


@pytest.fixture
def web(
    clients: Clients, make_config: ConfigMaker, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebTier]:
    """A web tier of two processes."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    config = make_config(web=two_processes())
    provision(clients, config)
    with serving(config, tmp_path) as tier:
        yield tier


def read(web: WebTier) -> dict[tuple[str, str], float]:
    """Return each metric, by its name and the values of its labels."""
    answer = requests.get(f"{web.url}/metrics", timeout=DEADLINE_SECONDS)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def has_answered(file: Path) -> bool:
    """Return whether the process of a file has answered a request for its health."""
    return any(value > 0 and "/healthz" in key for key, value, *_ in MmapedDict.read_all_values_from_file(str(file)))


def ask_until_both_have_answered(web: WebTier, folder: Path) -> int:
    """Send requests, each by a connection of its own, until both processes have answered some; return how many."""
    sent = 0

    def both_have_answered() -> bool:
        nonlocal sent
        for _ in range(10):
            assert requests.get(f"{web.url}/healthz", timeout=DEADLINE_SECONDS).status_code == 200
            sent += 1
        return sum(map(has_answered, folder.glob("*/counter_*.db"))) == 2

    wait_until(both_have_answered, "both processes have answered")
    return sent


def kill_all(web: WebTier) -> None:
    """Kill the processes, and wait until the web tier has others."""
    killed = set(web.workers())
    for worker in killed:
        os.kill(worker, signal.SIGKILL)

    def are_replaced() -> bool:
        present = set(web.workers())
        return len(present) == len(killed) and not present & killed

    wait_until(are_replaced, "gunicorn has replaced the processes")


def test_counters_are_the_sum_over_processes_and_outlive_those_that_are_killed(web: WebTier, folder: Path) -> None:
    sent = ask_until_both_have_answered(web, folder)
    assert read(web)[HEALTHY] == sent
    job = web.create_job()
    files = {"images": ("a.jpg", picture())}
    added = requests.post(f"{web.url}/api/v1/jobs/{job}/images", files=files, timeout=DEADLINE_SECONDS)
    assert added.status_code == 200
    events = f"{web.url}/api/v1/jobs/{job}/events"
    with requests.get(events, stream=True, timeout=DEADLINE_SECONDS) as stream:
        assert stream.status_code == 200
        assert read(web)["fleetsight_event_streams", ""] == 1
        kill_all(web)
    after = read(web)
    assert after[HEALTHY] == sent
    assert after["fleetsight_images_accepted_total", ""] == 1
    assert after["fleetsight_images_accepted_bytes_total", ""] == len(picture())
    assert after["fleetsight_event_streams", ""] == 0, "the stream has ended with its process"


def test_new_processes_continue_the_files_of_those_before_and_the_last_removes_them(
    web: WebTier, folder: Path
) -> None:
    ask_until_both_have_answered(web, folder)
    files = {file.name for file in folder.glob("*/*.db") if not file.name.startswith("gauge")}
    sent = 0
    for _ in range(3):
        kill_all(web)
        sent += ask_until_both_have_answered(web, folder)
    assert {file.name for file in folder.glob("*/*.db") if not file.name.startswith("gauge")} == files
    web.process.send_signal(signal.SIGTERM)
    assert web.process.wait(DEADLINE_SECONDS) == 0
    assert not list(folder.iterdir())
