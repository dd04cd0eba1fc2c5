"""The commands that README.md names, in a clone where each finds only the packages that it installs itself."""

import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.demo_model.signs import samples
from scripts.run.system import free_port
from tests.support.fresh_clone import FreshClone, clone_into
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

EVERY_BENCHMARK = """
from benchmarks.__main__ import BENCHMARKS, MissingPackageError, load
for name in BENCHMARKS:
    try:
        load(name)
    except MissingPackageError as error:
        print(f"{name}: {error}")
"""


@pytest.fixture
def clone(tmp_path: Path) -> FreshClone:
    return clone_into(tmp_path, FLEETSIGHT__WEB__PORT=str(free_port()), AWS_ENDPOINT_URL="http://127.0.0.1:9")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


@contextmanager
def running(clone: FreshClone, url: str, *command: str) -> Iterator[None]:
    """Run a command that serves until Ctrl-C; the block runs once `url` answers."""
    with clone.start(*command) as process:
        try:
            wait_until(lambda: answers(url) or process.poll() is not None, f"{url} answers")
            is_running = process.poll() is None
            if is_running:
                yield
        finally:
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert is_running, printed
        assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        ("./scripts/fleetsight --help", 0, "classify"),
        ("./scripts/fleetsight up --region us-east-1 --open-to 198.51.100.7/32 --demo", 2, "sign in with"),
        ("./scripts/fleetsight down --region us-east-1", 2, "sign in with"),
        ("./scripts/fleetsight model show", 0, "labels"),
        ("./scripts/fleetsight simulate --trace batch-100", 0, "p95"),
    ],
)
def test_a_command_needs_no_package_that_it_does_not_install(
    clone: FreshClone, command: str, status: int, printed: str
) -> None:
    ended, output = clone.run(*command.split())
    assert "Traceback" not in output
    assert ended == status, output
    assert printed in output


def test_the_site_is_served(clone: FreshClone) -> None:
    address = f"127.0.0.1:{free_port()}"
    with running(clone, f"http://{address}/index.html", "./scripts/docs", "--serve", "--dev-addr", address):
        pass


def test_each_benchmark_starts_or_says_what_to_install(clone: FreshClone) -> None:
    assert clone.run("./scripts/setup.sh", "run")[0] == 0
    ended, output = clone.run(".venv/bin/python", "-c", EVERY_BENCHMARK)
    assert ended == 0, output
    remedy = "engine: not installed: torch, torchvision, nncf; run ./scripts/setup.sh run torch\n"
    assert remedy in output
    assert clone.run(".venv/bin/python", "-m", "benchmarks", "engine", "--quick") == (2, remedy)


def test_a_system_runs_and_is_used_with_the_packages_of_run(clone: FreshClone) -> None:
    url = f"http://127.0.0.1:{clone.environment['FLEETSIGHT__WEB__PORT']}"
    photos = clone.folder / "photos"
    photos.mkdir()
    for sample in samples(3, seed=11):
        (photos / sample.filename).write_bytes(sample.data)
    with running(clone, f"{url}/readyz", "./scripts/run.sh", "--no-batch"):
        for command, printed in (
            (f"./scripts/fleetsight classify {photos} --url {url} --out results.csv", "3"),
            (f"./scripts/load_test --url {url} --count 3", "3"),
            (f"./scripts/fleetsight fleet status --url {url}", "workers"),
        ):
            ended, output = clone.run(*command.split())
            assert ended == 0, output
            assert printed in output
    assert len((clone.folder / "results.csv").read_text().splitlines()) == 4
    assert (clone.folder / "installed").read_text().split() == ["photos", "run", "run", "run", "run"]
