"""CPU of cores and processes, read from a real kernel."""

import os
import subprocess
import sys

import pytest

from benchmarks.measure import Usage, busy_seconds, cpu_seconds_between, pinned, tree, two_cores, usage_of, usages


@pytest.fixture
def allowed() -> set[int]:
    return os.sched_getaffinity(0)


@pytest.mark.processes
def test_a_process_that_is_started_pinned_may_use_that_core_alone(allowed: set[int]) -> None:
    core = max(allowed)
    with pinned(core):
        told = subprocess.check_output([sys.executable, "-I", "-c", "import os; print(os.sched_getaffinity(0))"])
    assert told.decode().strip() == str({core})


def test_afterwards_everything_may_run_where_it_could_before(allowed: set[int]) -> None:
    with pytest.raises(KeyError), pinned(min(allowed)):
        raise KeyError
    assert os.sched_getaffinity(0) == allowed


def test_one_core_is_too_few_for_a_measurement(allowed: set[int]) -> None:
    with pinned(min(allowed)), pytest.raises(RuntimeError, match="needs a second one"):
        two_cores()


def test_two_different_cores_are_found_among_those_allowed(allowed: set[int]) -> None:
    if len(allowed) < 2:
        pytest.skip("this machine has one core")
    first, second = two_cores()
    assert first != second
    assert {first, second} <= allowed


def test_a_core_is_busy_for_longer_and_longer(allowed: set[int]) -> None:
    core = min(allowed)
    first = busy_seconds(core)
    assert 0 < first <= busy_seconds(core)


def test_a_process_that_has_gone_has_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    process.wait()
    assert usage_of(process.pid) is None
    assert usages([process.pid]) == {}


def test_this_process_has_memory_and_a_peak_not_below_it() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert 0 < usage.resident_mb <= usage.peak_mb


@pytest.mark.processes
def test_children_are_counted_with_their_parent() -> None:
    waiting = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(tree(os.getpid()))
        assert set(usages([os.getpid()], below=False)) == {os.getpid()}
        assert child.stdin is not None
        child.stdin.close()


def test_a_process_that_started_in_between_counts_from_its_start() -> None:
    before = {1: Usage(2.0, 10, 10)}
    after = {1: Usage(2.5, 10, 10), 2: Usage(0.75, 10, 10)}
    assert cpu_seconds_between(before, after) == 1.25
