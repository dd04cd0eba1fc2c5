"""What pytest does for all tests, those of the packages `client` and `localcloud` included."""

import gc
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from localcloud.access_keys import owner_key
from tests.support.tiers import is_thorough

# No example fails because the machine is busy. The examples are the same in each run; `./scripts/test.sh --all` draws
# others and more, and what they find becomes an example.
settings.register_profile(
    "random", settings(), max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fixed", settings.get_profile("random"), max_examples=40, derandomize=True, database=None)
settings.load_profile("fixed")


class OneProcessForAws(LoadFileScheduling):  # type: ignore[misc]
    """Keeps the tests of a file in one process, and those of all AWS commands: their account starts slowly."""

    FOLDER = "tests/integration/aws/"

    def _split_scope(self, nodeid: str) -> str:
        return self.FOLDER if nodeid.startswith(self.FOLDER) else super()._split_scope(nodeid)


def pytest_configure() -> None:
    """Let Ctrl-C end the programs of tests, also where a shell runs the tests in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave modules that have only thorough tests out of a run without these.

    Some import torch, which takes seconds of each process, and gigabytes of a disk.
    """
    leaves_out = config.option.markexpr == "not thorough"
    return True if leaves_out and collection_path.suffix == ".py" and is_thorough(collection_path) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Let the tests of the AWS commands run in one process, where the run keeps those of a file together."""
    return OneProcessForAws(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test an id of its own, since pytest-xdist runs one of those that share an id and is content.

    Schemathesis names its tests by their operation, and gives all of them the id of their function.
    """
    for item in items:
        if not item.nodeid.endswith(item.name):
            item._id = item.id.parse(f"{item.nodeid.rpartition('::')[0]}::{item.name}")
    ids = [item.nodeid for item in items]
    if len(set(ids)) < len(ids):
        shared = sorted({each for each in ids if ids.count(each) > 1})
        raise pytest.UsageError(f"tests that share an id: {', '.join(shared)}")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Switch the garbage collector off while pytest collects the tests; later it leaves out tests and modules.

    These stay until the end of the run. To visit them would take a third of the CPU time of the collection, and up to
    a tenth of that of the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _no_real_aws() -> Iterator[None]:
    """Credentials of local clouds only: AWS refuses a test that forgets its endpoint, at no cost."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in owner_key().environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield


STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"})
"""Python's audit events of everything that starts a process: https://docs.python.org/3/library/audit_events.html"""

_running: list[str] = []
"""The id of the unit test that runs, or nothing between two."""


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    if event in STARTS and _running:
        raise RuntimeError(f"{_running[0]} starts a process ({event} {arguments[:1]}): move it to tests/integration")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Refuse processes while a unit test runs, its fixtures included.

    A test that needs a process, or an emulated cloud, which is one, is an integration test.
    """
    if "/tests/unit/" in str(item.path):
        _running.append(item.nodeid)
    try:
        return (yield)
    finally:
        _running.clear()
