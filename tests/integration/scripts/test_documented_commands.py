"""The commands in the documents' blocks run as they are written, against a system on this machine.

A block is copied into one shell. What a reader replaces is in `PLACEHOLDERS`. Commands that other files run are in
`ELSEWHERE`, and those that no test runs in `EXCUSED`.
`tests/unit/test_documented_commands.py` parses the commands in sentences, too.
"""

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from scripts.client import FleetClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from tests.conftest import ROOT
from tests.support.bundles import relabelled_bundle
from tests.support.checkouts import link_checkout
from tests.support.documents import DOCUMENTS, CommandBlock, command_blocks
from tests.support.reader import Reader
from tests.support.systems import crashed_images, running_system
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

BLOCKS = [block for document in DOCUMENTS for block in command_blocks(document)]


AWS = "tests/integration/aws/test_documented_aws_commands.py::test_each_command_about_aws_is_in_one_of_these_tests"
STARTS = (
    "tests/integration/scripts/test_documented_runs.py::"
    "test_each_command_that_starts_a_system_is_in_one_of_these_tests"
)
STORIES = "tests/integration/scripts/test_documented_stories.py::test"
FRESH_CLONE = (
    "tests/integration/scripts/test_fresh_clone.py::test_the_first_start_and_its_use_need_only_the_packages_of_run"
)
USERS = (
    "tests/unit/scripts/test_users.py::"
    "test_an_operator_is_made_and_unmade_and_an_account_disabled_enabled_and_removed"
)
DEAD_LETTER = f"{STORIES}_a_dead_letter_is_made_found_and_redriven"
OWN_POLICY = f"{STORIES}_a_policy_of_ones_own_decides_in_a_fleet"

ELSEWHERE: Mapping[str, str] = {
    "*: ./scripts/fleetsight aws check --region *": AWS,
    "*: ./scripts/fleetsight up *": AWS,
    "*: ./scripts/fleetsight bake *": AWS,
    "*: ./scripts/fleetsight roll *": AWS,
    "*: ./scripts/fleetsight status --region *": AWS,
    "*: ./scripts/fleetsight down *": AWS,
    "*: ./scripts/fleetsight users operator * --region *": AWS,
    "docs/operate.md: ./scripts/fleetsight users *": USERS,
    "*: ./scripts/fleetsight doctor": FRESH_CLONE,
    "*: ./scripts/run.sh*": STARTS,
    "*: FLEETSIGHT__*=* ./scripts/run.sh*": STARTS,
    "CONTRIBUTING.md: export FLEETSIGHT__FLEET__POLICY=batches *": OWN_POLICY,
    "CONTRIBUTING.md: .venv/bin/python -m scripts.release *": (
        "tests/integration/scripts/test_release.py::"
        "test_a_release_has_a_tag_with_its_notes_and_files_that_can_be_built_again"
    ),
    "CONTRIBUTING.md: .venv/bin/python -m cyclonedx_py *": (
        "tests/integration/scripts/test_audit_and_bill.py::"
        "test_the_bill_of_materials_has_all_pinned_packages_with_version_and_hashes"
    ),
    "docs/models.md: *colours*": f"{STORIES}_a_network_of_ones_own_is_exported_built_checked_and_served",
    **dict.fromkeys(
        ("docs/first-batch.md: *flock *", "docs/first-batch.md: mkdir OTHER *"),
        f"{STORIES}_a_state_of_a_proxied_page_is_copied_and_continued_with_metrics_and_spans",
    ),
    "docs/operate.md: ./scripts/fleetsight classify photo.jpg --no-wait": DEAD_LETTER,
    "docs/operate.md: ./scripts/fleetsight dead-letters show JOB IMAGE": DEAD_LETTER,
    "docs/operate.md: ./scripts/fleetsight logs --image IMAGE": DEAD_LETTER,
    "docs/operate.md: ./scripts/fleetsight dead-letters redrive JOB IMAGE": DEAD_LETTER,
}
"""The test that runs a command as it is written, or checks that its file has all of them.

By a pattern of `DOCUMENT: COMMAND`.
"""


@dataclass(frozen=True)
class Excuse:
    """Why no test runs a command as it is written, and the `PATH` or `PATH::NAME` that runs its function, if any."""

    reason: str
    run_by: str | None = None


INSTALLS = Excuse("installs packages into the checkout's .venv, which scripts/test.sh does first", "scripts/test.sh")
RUNS_TESTS = Excuse("would run this test: CI runs everything", ".ci/run")
CAMPAIGN = Excuse("takes two minutes or more; its parts are tested", "tests/unit/test_chaos.py")
AWS_CLI = Excuse("needs AWS's own command, which is no part of Fleetsight")

EXCUSED: Mapping[str, Excuse] = {
    "*: ./scripts/setup.sh *": INSTALLS,
    "*: pipx run pre-commit install *": Excuse("changes the hooks of the checkout and needs pipx"),
    "*: ./scripts/test.sh  *": RUNS_TESTS,
    "*: ./scripts/test.sh --fast *": RUNS_TESTS,
    "*: ./scripts/test.sh --all *": RUNS_TESTS,
    "*: ./scripts/test.sh tests/unit -k *": RUNS_TESTS,
    "docs/operate.md: git *": Excuse("changes the checkout"),
    "*: FLEETSIGHT_AWS=1 *": Excuse("needs an AWS account, for an hour", "tests/aws/test_life.py"),
    "*: aws *": AWS_CLI,
    "*: docker *": Excuse(
        "needs a Docker engine, or podman as root",
        "tests/image/test_container.py::test_compose_runs_the_system_and_keeps_its_state",
    ),
    "docs/first-batch.md: sudo install *": Excuse("needs root, to give a folder to the user of the container"),
    "ami/README.md: sudo ami/provision.sh *": Excuse(
        "installs a machine image into the system it runs on",
        "tests/integration/ami/test_builder.py::test_a_builder_provisions_reports_and_powers_off",
    ),
    "client/README.md: pip install ./client *": Excuse(
        "installs its dependencies from the package index",
        "tests/integration/test_packages.py::test_the_installed_client_classifies",
    ),
    "localcloud/README.md: pip install ./localcloud": Excuse(
        "installs its dependencies from the package index",
        "tests/integration/test_packages.py::test_the_installed_local_cloud_stores_an_object",
    ),
    "localcloud/README.md: python -m localcloud start *": Excuse(
        "runs until it is stopped",
        "tests/integration/test_packages.py::test_the_installed_local_cloud_stores_an_object",
    ),
    "CONTRIBUTING.md: ./scripts/pin.sh*": Excuse(
        "asks the package index for every package, and changes the checkout"
    ),
    "*: .venv/bin/python -m tests.chaos*": CAMPAIGN,
    "docs/reliability.md: .venv/bin/python -m tests.simulation.data_path *": Excuse(
        "takes minutes", "tests/simulation/test_data_path.py"
    ),
    "docs/measurements.md: .venv/bin/python -m benchmarks NAME *": Excuse(
        "a benchmark takes minutes, and measures on a quiet machine", "tests/unit/benchmarks/test_report.py"
    ),
}
"""By a pattern of `DOCUMENT: COMMAND`."""

NOT_HERE = (*ELSEWHERE, *EXCUSED)


def matches(block: CommandBlock, command: str, patterns: Iterable[str]) -> list[str]:
    """Return the patterns of `DOCUMENT: COMMAND` that a command matches."""
    return [pattern for pattern in patterns if fnmatchcase(f"{block.document}: {command}", pattern)]


PHOTOS = ("first.jpg", "second.jpg", "third.jpg")


@dataclass
class Checkout:
    """A checkout, made of links to this one, with a running system and the files that the documents presuppose."""

    folder: Path
    system: System
    client: FleetClient = field(init=False)
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        """Make a client of the system, and its reader."""
        self.client = FleetClient(self.system.url)
        variables = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.system.endpoint_url,
        }
        self.reader = Reader(self.folder, self.folder / "home", self.system.config.web.port, variables)

    @cached_property
    def job(self) -> str:
        """A finished job with the photos."""
        job_id = self.client.create_job("photos", keep=True)
        self.client.add_images(job_id, [(name, (self.folder / "photos" / name).read_bytes()) for name in PHOTOS])
        wait_until(lambda: self.client.status(job_id)["state"] == "finished", "the photos are classified")
        return job_id

    def dead_letter(self) -> str:
        """Make an image a dead letter; return the ids of its job and of the image."""
        job_id, [image_id] = crashed_images(self.system)
        return f"{job_id} {image_id}"

    def instance(self) -> str:
        """Return a running instance, which the controller shows; the fleet has a minimum of one."""

        def running() -> str | None:
            shown = self.client.instances()["instances"]
            return next((str(each["instance_id"]) for each in shown if each["state"] == "running"), None)

        return wait_until(running, "an instance is shown")

    def typed(self, command: str) -> str:
        """Return a command with the values of the placeholders; a threshold that it misses is no failure."""
        for pattern, value in PLACEHOLDERS:
            if re.search(pattern, command):
                command = re.sub(pattern, value(self), command)
        return f"{{ {command}\n}} || (($? == 1))" if MAY_MISS.search(command) else command


PLACEHOLDERS: tuple[tuple[str, Callable[[Checkout], str]], ...] = (
    (r"http://127\.0\.0\.1:8000|https://ADDRESS|https://photos\.example\.org", lambda checkout: checkout.system.url),
    (r"\bJOB IMAGE\b", lambda checkout: checkout.dead_letter()),
    (r"\b(JOB_)?ID\b", lambda checkout: checkout.job),
    (r"\bINSTANCE\b|\bi-0123456789abcdef0\b", lambda checkout: checkout.instance()),
    (r"\bNEW_BUNDLE\b", lambda _: "new-bundle"),
    (r"\bBUNDLE\b", lambda _: str(DEMO_BUNDLE)),
    (r"\bDIR\b", lambda _: "photos"),
)
"""What a reader replaces in a command."""

MAY_MISS = re.compile(r" --max-p95\b")
"""A threshold that a busy machine may miss, which is status 1."""

UNTIL_CTRL_C = re.compile(r" --follow\b")
"""Commands that a reader ends with Ctrl-C."""

OUTPUT = re.compile(r"(?:--(?:out|json|report|sort-into)|>) ?([\w./]+)")
"""A file or folder that a command writes."""

PRINTED: Mapping[str, str] = {
    "README.md: curl -s -F *": r'(?s)"accepted".*one\.jpg.*two\.png',
    "README.md: curl -s http*": r"(?s)image_id,filename.*one\.jpg.*two\.png",
    "* --max-p95 2 *": r"(reached|missed): p95 at most 2 s",
    "docs/models.md: * model use signs *": r"(?s)New jobs get signs\..*New jobs get demo\.",
    "*: ./scripts/test.sh *": r"[1-9] passed",
    "docs/classify.md: curl -X POST *cancel": r'"cancelled"',
    "*: curl --data-binary *": r'"matched": ?3',
    "*: curl */evaluation": r'"accuracy"',
    "docs/operate.md: curl https://photos.example.org/*": r'"ready": ?true',
    "docs/first-batch.md: ./scripts/fleetsight load-test *": r"right +│ +100",
    "docs/operate.md: ./scripts/fleetsight dead-letters list": r"There are no dead letters",
    "docs/operate.md: ./scripts/fleetsight dead-letters discard *": r"keeps its failed result",
    "docs/aws-first-hour.md: curl -k *": r'"image_id"',
    "examples/README.md: python3 examples/upload.py *": "(?s)" + ".*".join(f"{name}: " for name in PHOTOS),
    "examples/README.md: python3 examples/watch.py *": r"(?m)^end ",
    "examples/README.md: examples/presigned.sh *": r"photo\.jpg",
    "localcloud/README.md: control -X PUT *60*": r'"describe_lag_seconds": ?60',
}
"""What the shell of a command prints, by a pattern of `DOCUMENT: COMMAND`."""


def fill(folder: Path) -> None:
    """Make the files that the documents presuppose."""
    link_checkout(folder)
    (folder / "bin").mkdir()
    executable(folder / "bin" / "fleetsight", '#!/bin/sh\nexec .venv/bin/python -m fleetsight_client "$@"\n')
    # A reader sees that the API refuses a call; a test sees curl's status.
    (folder / "home").mkdir()
    (folder / "home" / ".curlrc").write_text("fail\nshow-error\n")

    drawn = {Path(sample.filename).suffix: sample.data for sample in samples(12, seed=90)}
    jpegs = [sample for sample in samples(24, seed=91) if sample.filename.endswith(".jpg")]
    (folder / "photos").mkdir()
    for name, sample in zip(PHOTOS, jpegs, strict=False):
        (folder / "photos" / name).write_bytes(sample.data)
    rows = "".join(f"{name},{sample.label}\n" for name, sample in zip(PHOTOS, jpegs, strict=False))
    for name in ("labels.csv", "truth.csv"):
        (folder / name).write_text(f"filename,label\n{rows}")
    for name in ("one.jpg", "photo.jpg"):
        (folder / name).write_bytes(drawn[".jpg"])
    (folder / "two.png").write_bytes(drawn[".png"])
    relabelled_bundle(folder / "new-bundle", "new", " (new)")
    (folder / "mine.csv").write_text("second\n0\n1\n2\n")
    (folder / "token").write_text("Authorization: Bearer fst_none\n")
    for name in ("chain.pem", "key.pem"):
        (folder / name).write_text("-----BEGIN-----\n")


def executable(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout with its system, in which a worker always runs."""
    folder = tmp_path_factory.mktemp("checkout")
    fill(folder)
    settings = {
        "FLEETSIGHT__FLEET__MIN_WORKERS": "1",
        "FLEETSIGHT__FLEET__MAX_WORKERS": "2",
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "600",
    }
    with running_system(folder / ".fleetsight", settings) as system:
        (folder / ".fleetsight" / "run-8000").symlink_to(system.state_dir)
        yield Checkout(folder, system)


@pytest.fixture
def checkout(started: Checkout) -> Iterator[Checkout]:
    """The checkout; afterwards the fleet has its configured limits and is not paused."""
    yield started
    started.client.resume()
    started.client.reset_limits()


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if not all(matches(block, each, NOT_HERE) for each in block.commands)],
    ids=str,
)
def test_the_commands_of_a_block_run(checkout: Checkout, block: CommandBlock) -> None:
    commands = [command for command in block.commands if not matches(block, command, NOT_HERE)]
    written = [checkout.folder / name for command in commands for name in OUTPUT.findall(command)]
    for path in written:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)

    printed = ""
    for follows, part in groupby(commands, lambda command: bool(UNTIL_CTRL_C.search(command))):
        ready = [checkout.typed(command) for command in part]
        if follows:
            with checkout.reader.until_ctrl_c("\n".join(ready), bool) as output:
                printed += output.read_text()
        else:
            printed += checkout.reader.run(*ready)

    for path in written:
        assert list(path.iterdir()) if path.is_dir() else path.read_bytes(), path
        if path.name == "results.csv":
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
            assert [(row["filename"], row["status"]) for row in rows] == [(name, "done") for name in PHOTOS]
    assert "missed: wrong" not in printed
    for command in commands:
        for pattern in matches(block, command, PRINTED):
            assert re.search(PRINTED[pattern], printed), f"{command}\n{printed}"


def test_each_exception_is_in_the_documents_and_names_a_test_that_exists() -> None:
    documented = [(block, command) for block in BLOCKS for command in block.commands]
    used = {pattern for block, command in documented for pattern in matches(block, command, NOT_HERE)}
    assert sorted(set(NOT_HERE) - used) == []
    for run_by in (*ELSEWHERE.values(), *(excuse.run_by for excuse in EXCUSED.values())):
        if run_by is not None:
            path, _, name = run_by.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") if name else (ROOT / path).exists()


def test_what_is_expected_of_commands_is_of_those_that_run() -> None:
    ran = [(block, each) for block in BLOCKS for each in block.commands if not matches(block, each, NOT_HERE)]
    assert {*PRINTED} == {pattern for block, command in ran for pattern in matches(block, command, PRINTED)}
