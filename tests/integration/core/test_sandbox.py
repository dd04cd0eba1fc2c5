"""Sandboxed processes, by real processes: `docs/faults.md` row 9."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from core.images import ImageRejectedError
from core.sandbox.pool import IDLE_FACTOR, Allowance, SandboxPool
from core.sandbox.process import CrashedError, MissingLimitsError, PoolUnavailableError, StarvedError, TooCostlyError
from core.sandbox.zygote import ROOT, Zygote
from tests.support.clocks import ManualClock
from tests.support.processes import children_of, other_machine, state_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

T = TypeVar("T")
FUNCTION = "tests.support.sandboxed_functions:misbehave"
MEGABYTE = 2**20
SMALL = Allowance(seconds=5, memory_bytes=64 * MEGABYTE, answer_bytes=1_000)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote(FUNCTION)
    yield made
    made.close()


@pytest.fixture
def sandbox(zygote: Zygote) -> SandboxPool:
    return SandboxPool(zygote, SMALL, max_processes=2)


def child_of(sandbox: SandboxPool) -> int:
    return int(sandbox(b"pid", "a"))


def test_one_process_answers_item_after_item(sandbox: SandboxPool) -> None:
    first = child_of(sandbox)
    assert [child_of(sandbox) for _ in range(20)] == [first] * 20
    assert sandbox(b"pid", "a", times=2) == str(first).encode() * 2
    assert first != os.getpid()


def test_items_of_two_owners_are_never_in_the_same_process(zygote: Zygote) -> None:
    sandbox = SandboxPool(zygote, SMALL, max_processes=1)
    sandbox.prepare()
    owners = [*"abab", *(str(number) for number in range(3 * IDLE_FACTOR)), *"ab"]
    seen = [(int(sandbox(b"pid", owner)), owner) for owner in owners]
    assert len({process for process, _ in set(seen)}) == len(set(seen))
    assert len({process for process, _ in seen[:4]}) == 2  # owners that take turns keep their processes
    assert len(living_children(parent_of(seen[-1][0]))) <= IDLE_FACTOR


def test_a_process_is_replaced_after_a_number_of_items(sandbox: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.sandbox.pool.MAX_ITEMS_PER_PROCESS", 3)
    processes = [child_of(sandbox) for _ in range(7)]
    assert [processes.count(each) for each in dict.fromkeys(processes)] == [3, 3, 1]


def test_a_rejection_is_raised_unchanged_and_the_process_stays(sandbox: SandboxPool) -> None:
    first = child_of(sandbox)
    with pytest.raises(ImageRejectedError) as refused:
        sandbox("refuse it ends early: \u202e <b>".encode(), "a")
    assert (refused.value.code, refused.value.message) == ("truncated", "it ends early: \u202e <b>")
    assert child_of(sandbox) == first


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"signal SIGSEGV", "Segmentation fault"),
        (b"signal SIGABRT", "Aborted"),
        (b"exit 3", "status 3"),
        (b"exit 0", "status 0"),
        (b"fail by a bug", "LookupError: by a bug"),
        (b"long 1001", "invalid reply"),
        (b"raw " + b"ff" * 5, "invalid reply"),
        (b"raw 02ffffff7f", "invalid reply"),
        (b"raw 0201000000" + b"22", "invalid reply"),
    ],
)
def test_an_item_that_ends_its_process_twice_fails_and_the_next_gets_a_new_process(
    sandbox: SandboxPool, item: bytes, reason: str
) -> None:
    with pytest.raises(CrashedError, match=reason):
        sandbox(item, "a")
    assert child_of(sandbox)


@pytest.mark.parametrize(
    ("item", "error", "reason"),
    [
        (b"spin", TooCostlyError, "0.5 s of processor time|no reply within"),
        (b"sleep", StarvedError, "no reply within 1.5 s"),
        (b"allocate 100000000", StarvedError, "more than 64 MB"),
        (b"signal SIGKILL", StarvedError, "memory is short"),
    ],
)
def test_an_item_that_exceeds_its_allowance_fails(
    zygote: Zygote, item: bytes, error: type[TooCostlyError], reason: str
) -> None:
    hasty = SandboxPool(zygote, Allowance(0.5, 64 * MEGABYTE, 1_000), max_processes=1)
    hasty.prepare()
    with pytest.raises(error, match=reason):
        hasty(item, "a")
    assert child_of(hasty)


def test_the_time_limit_counts_for_each_item(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.sandbox.pool.HANG_FACTOR", DEADLINE_SECONDS)  # only processor time counts here
    # The system counts whole seconds: without more for each item, the first one would last for all.
    sandbox = SandboxPool(zygote, Allowance(0.5, 64 * MEGABYTE, 1_000), max_processes=1)
    assert len({bytes(sandbox(b"burn 0.2", "a")) for _ in range(7)}) == 1


def test_an_item_within_its_allowance_succeeds(sandbox: SandboxPool) -> None:
    assert sandbox(b"allocate 30000000", "a") == b"30000000"
    assert len(sandbox(b"long 1000", "a")) == 1_000


@pytest.mark.parametrize(
    "what",
    ["open", "socket", "pipe", "execve", "fork", "ptrace", "kill", "prlimit", "process_vm_readv", "setuid"],
)
def test_a_child_can_open_start_and_reach_nothing(sandbox: SandboxPool, what: str) -> None:
    assert sandbox(f"try {what}".encode(), "a") == b"PermissionError"


@pytest.mark.parametrize("what", ["unlink", "mkdir", "chmod"])
def test_a_child_can_change_no_file(sandbox: SandboxPool, tmp_path: Path, what: str) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.touch(mode=0o600)
    assert sandbox(f"try {what} {new if what == 'mkdir' else there}".encode(), "a") == b"PermissionError"
    assert (there.stat().st_mode & 0o777, new.exists()) == (0o600, False)


def test_a_child_has_neither_descriptors_nor_processes_nor_core_dumps_to_give(sandbox: SandboxPool) -> None:
    assert sandbox(b"limits", "a") == repr([(0, 0)] * 4).encode()


def test_a_child_holds_no_key_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    zygote = Zygote(FUNCTION)
    sandbox = SandboxPool(zygote, SMALL, max_processes=1)
    child = child_of(sandbox)
    assert b"s3cret" not in sandbox(b"environment", "a")
    assert b"s3cret" not in environment_of(child)
    zygote.close()


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def test_a_child_has_no_open_file_but_its_own_socket_and_writes_into_no_log(sandbox: SandboxPool) -> None:
    opened = {link.name: str(link.readlink()) for link in Path(f"/proc/{child_of(sandbox)}/fd").iterdir()}
    assert [opened.pop(number) for number in "012"] == ["/dev/null"] * 3
    (channel,) = opened.values()
    assert channel.startswith("socket:")


def test_the_kernel_kills_a_child_first_and_it_gains_no_privileges(sandbox: SandboxPool) -> None:
    process = Path(f"/proc/{child_of(sandbox)}")
    assert (process / "oom_score_adj").read_text() == "1000\n"
    assert "NoNewPrivs:\t1" in (process / "status").read_text()


def test_a_child_that_dies_between_two_items_costs_neither(sandbox: SandboxPool) -> None:
    first = child_of(sandbox)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: state_of(first) == "Z", "the first child has ended")
    assert child_of(sandbox) != first


@dataclass
class Call:
    """A call of a sandbox function in a thread of its own."""

    sandbox: SandboxPool
    item: bytes
    answer: bytes | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.answer = bytes(self.sandbox(self.item, "a"))
        except Exception as error:  # noqa: BLE001 (the test checks it)
            self.error = error

    def ended(self) -> "Call":
        self.thread.join(DEADLINE_SECONDS)
        assert not self.thread.is_alive()
        return self


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_item_whose_child_is_killed_from_outside_is_tried_again_in_a_fresh_child(
    sandbox: SandboxPool, number: signal.Signals
) -> None:
    first = child_of(sandbox)
    call = Call(sandbox, f"stop_in {first}".encode())
    wait_until(lambda: state_of(first) == "T", "the item is in its first child")
    os.kill(first, number)
    with suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)  # a process that is stopped receives SIGKILL alone
    assert call.ended().error is None
    assert call.answer not in {None, str(first).encode()}


def test_an_item_whose_child_gets_no_memory_is_tried_again_in_a_fresh_child(sandbox: SandboxPool) -> None:
    first = child_of(sandbox)
    _, most = resource.prlimit(first, resource.RLIMIT_AS)
    resource.prlimit(first, resource.RLIMIT_AS, (1, most))
    assert sandbox(b"allocate 10000000", "a")
    assert child_of(sandbox) != first


def test_an_item_whose_child_gets_no_processor_is_tried_again_in_a_fresh_child(zygote: Zygote) -> None:
    hasty = SandboxPool(zygote, Allowance(0.5, 64 * MEGABYTE, 1_000), max_processes=1)
    first = child_of(hasty)
    assert hasty(f"stop_in {first}".encode(), "a") != str(first).encode()


def test_an_item_is_tried_again_alone_and_a_second_death_is_its_own(zygote: Zygote) -> None:
    sandbox = SandboxPool(zygote, SMALL, max_processes=3)
    first = child_of(sandbox)
    parent = parent_of(first)
    call = Call(sandbox, b"signal SIGSTOP")
    wait_until(lambda: state_of(first) == "T", "the item is in its first child")
    waiting = Call(sandbox, b"signal SIGSTOP")
    (other,) = wait_until(lambda: stopped_children(parent) - {first}, "another item is in a second child")
    os.kill(first, signal.SIGKILL)
    third = Call(sandbox, b"pid")
    third.thread.join(0.2)  # time for a pool that does not wait until the other item has left its child
    assert stopped_children(parent) == {other}
    os.kill(other, signal.SIGKILL)
    for _ in range(2):  # both are tried again, one after the other
        (alone,) = wait_until(lambda: stopped_children(parent), "an item is tried again")
        os.kill(alone, signal.SIGKILL)
        wait_until(lambda alone=alone: state_of(alone) == "Z", "its child has ended")  # type: ignore[misc]
    for each in (call, waiting):
        assert isinstance(each.ended().error, TooCostlyError)
    assert third.ended().error is None


def stopped_children(parent: int) -> set[int]:
    return {child for child in children_of(parent) if state_of(child) == "T"}


def living_children(parent: int) -> set[int]:
    return {child for child in children_of(parent) if state_of(child) != "Z"}


def test_a_child_ignores_the_signals_that_stop_services(sandbox: SandboxPool) -> None:
    first = child_of(sandbox)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(first, number)
    assert child_of(sandbox) == first


def test_threads_share_no_more_children_than_agreed(zygote: Zygote) -> None:
    sandbox = SandboxPool(zygote, Allowance(5, 64 * MEGABYTE, 10_000), max_processes=3)
    seen: set[bytes] = set()
    with ThreadPoolExecutor(12) as pool:
        for answer in pool.map(lambda _: sandbox(b"pid", "a"), range(300)):
            seen.add(bytes(answer))
    assert 1 <= len(seen) <= 3


def test_a_crash_fails_its_own_item_only(zygote: Zygote) -> None:
    sandbox = SandboxPool(zygote, SMALL, max_processes=3)

    def outcome(number: int) -> str:
        try:
            return "pid" if sandbox(b"signal SIGSEGV" if number % 3 == 0 else b"pid", "a") else ""
        except CrashedError:
            return "crash"

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(outcome, range(60)))
    assert found == ["crash" if number % 3 == 0 else "pid" for number in range(60)]


def test_a_killed_zygote_is_restarted_and_no_item_is_blamed() -> None:
    zygote = Zygote(FUNCTION, jitter=lambda _low, _high: 0.0)
    sandbox = SandboxPool(zygote, Allowance(5, 64 * MEGABYTE, 1_000), max_processes=1)
    child = child_of(sandbox)
    errors: list[Exception] = []

    def stop() -> None:
        suppressed(lambda: sandbox(b"signal SIGSTOP", "a"), errors)

    waiting = threading.Thread(target=stop, daemon=True)
    waiting.start()
    wait_until(lambda: state_of(child) == "T", "the child is stopped")  # only now is the item in its hands
    os.kill(parent_of(child), signal.SIGKILL)
    waiting.join(DEADLINE_SECONDS)
    assert [type(error) for error in errors] == [PoolUnavailableError]
    wait_until(lambda: state_of(child) == "Z", "the child has ended")
    assert child_of(sandbox) != child
    zygote.close()


def suppressed(call: Callable[[], object], errors: list[Exception]) -> None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 (the test checks it)
        errors.append(error)


def test_zygote_start_backs_off_after_a_failure() -> None:
    clock = ManualClock()
    zygote = Zygote("tests.nowhere:function", jitter=lambda _low, high: high, clock=clock)
    sandbox = SandboxPool(zygote, SMALL, max_processes=1)
    with pytest.raises(PoolUnavailableError, match="nowhere"):
        sandbox(b"pid", "a")
    with pytest.raises(PoolUnavailableError, match=r"tried again in 0\.1 s"):
        sandbox(b"pid", "a")
    clock.advance(0.11)
    with pytest.raises(PoolUnavailableError, match="no process"):
        sandbox(b"pid", "a")
    with pytest.raises(PoolUnavailableError, match=r"tried again in 0\.2 s"):
        sandbox(b"pid", "a")


def test_a_process_without_all_limits_is_refused_unless_the_setting_allows_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with other_machine():
        zygote = Zygote(FUNCTION)
        with pytest.raises(MissingLimitsError, match="refuses seccomp"):
            SandboxPool(zygote, SMALL, max_processes=1)(b"pid", "a")
    assert SandboxPool(zygote, SMALL, 1, "best_effort")(b"pid", "a")
    assert [record.__dict__["missing"] for record in caplog.records if "missing" in record.__dict__] == ["seccomp"]
    zygote.close()


PARENT = f"""
import sys, time
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.zygote import Zygote
zygote = Zygote({FUNCTION!r})
if sys.argv[1] == "fork":
    zygote.fork()
sandbox = SandboxPool(zygote, Allowance(5, 1 << 26, 1000), 1)
print(sandbox(b"pid", "a").decode(), flush=True)
if sys.argv[2] == "busy":
    sandbox(b"sleep", "a")
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["fork", "afresh"])
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_no_child_outlives_its_parent(way: str, state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, way, state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "A_KEY": "s3cret-of-the-parent"},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        zygote = parent_of(child)
        for process in (child, zygote):
            assert b"s3cret-of-the-parent" not in environment_of(process)
        parent.kill()
    wait_until(lambda: state_of(child) == state_of(zygote) == "Z", "both have ended")


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


SCRUBBING = """
import ctypes, os, sys
os.environ["LATER"] = "s3cret-later"
os.environ["CHANGED"] = "s3cret-new"
del os.environ["REMOVED"]
kept = os.environb[b"KEY"]
from core.sandbox.limits import scrub_environment
scrub_environment()
print(dict(os.environ), kept.strip(b"\\0"), flush=True)
sys.stdin.read()
"""


@pytest.mark.processes
def test_scrubbing_leaves_nothing_of_the_environment() -> None:
    given = {"KEY": "s3cret", "CHANGED": "s3cret-old", "REMOVED": "s3cret-gone", "A": "1", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", SCRUBBING], cwd=ROOT, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"{} b''\n"
        assert not Path(f"/proc/{process.pid}/environ").read_bytes().strip(b"\0")
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
