import os
import subprocess
import sys

import pytest

from benchmarks.cores import busy_seconds, pinned, two_cores


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
