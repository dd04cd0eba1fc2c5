"""The commands that README.md names, in a clone where each finds only the packages that it installs itself."""

import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import Sample, samples
from scripts.run.system import free_port
from tests.support.documentation import require_mkdocs
from tests.support.fresh_clone import FreshClone, clone_into
from tests.support.reader import RUN, Reader, Run, copy_samples
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

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
    require_mkdocs()
    address = f"127.0.0.1:{free_port()}"
    command = ("./scripts/fleetsight", "docs", "--serve", "--dev-addr", address)
    with running(clone, f"http://{address}/index.html", *command):
        pass


def test_each_benchmark_starts_or_says_what_to_install(clone: FreshClone) -> None:
    assert clone.run("./scripts/setup.sh", "run")[0] == 0
    ended, output = clone.run(".venv/bin/python", "-c", EVERY_BENCHMARK)
    assert ended == 0, output
    remedy = "coldstart: not installed: torch, torchvision; run ./scripts/setup.sh run torch\n"
    assert remedy in output
    assert clone.run(".venv/bin/python", "-m", "benchmarks", "coldstart", "--quick") == (2, remedy)


def test_the_first_start_and_its_use_need_only_the_packages_of_run(tmp_path: Path) -> None:
    folder, home = tmp_path / "clone", tmp_path / "user"
    photos = folder / "photos"
    for each in (home, photos):
        each.mkdir(parents=True)
    clone_into(folder)
    copy_samples(folder)  # the load test draws its own, with the same packages
    signs = list(samples(3, seed=11))
    for sample in signs:
        (photos / sample.filename).write_bytes(sample.data)
    reader = Reader(folder, home, free_port(), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, forks=False)
    with reader.running(RUN) as run:
        run.expect_batch()
        expect_both_models(run, signs[0])
        reader.run("./scripts/fleetsight classify photos --out results.csv")
        assert "3" in reader.run(f"./scripts/fleetsight load-test --url {run.url} --count 3")
        assert "workers" in reader.run("./scripts/fleetsight fleet status")
        # It knows the processes of a system by their command lines, which forked ones do not have.
        assert "0 problems" in reader.run("./scripts/fleetsight doctor")
    assert len((folder / "results.csv").read_text().splitlines()) == 4
    assert (folder / "installed").read_text().split() == ["photos", *["run"] * 5]


def expect_both_models(run: Run, sign: Sample) -> None:
    """The drawn signs of the batch got the demo model; all other images get the one for photos."""
    run.expect(r"\n100 images, demo@")
    run.expect(r"\nModels: photos for new jobs, demo for this job\.\n")
    models = ApiClient(run.url).models()
    assert (models["default"], [each["name"] for each in models["models"]]) == ("photos", ["photos", "demo"])
    answer = requests.post(run.url, files={"f": (sign.filename, sign.data)}, timeout=DEADLINE_SECONDS)
    assert answer.ok
    assert answer.text not in load_bundle(DEMO_BUNDLE).labels
