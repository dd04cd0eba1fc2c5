"""What benchmarks measure with, on a real kernel: cores, processes, a controller and a worker, torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from benchmarks.capacity import CapacityBench
from benchmarks.coldstart import StartBench
from benchmarks.measure import Usage, cpu_seconds_between, pinned, tree, usages
from localcloud.launch import LocalCloud


@pytest.fixture
def allowed() -> set[int]:
    return os.sched_getaffinity(0)


@pytest.mark.processes
def test_a_process_that_is_started_pinned_may_use_that_core_alone(allowed: set[int]) -> None:
    core = max(allowed)
    with pinned(core):
        printed = subprocess.check_output([sys.executable, "-I", "-c", "import os; print(os.sched_getaffinity(0))"])
    assert printed.decode().strip() == str({core})


def test_afterwards_everything_may_run_where_it_could_before(allowed: set[int]) -> None:
    with pytest.raises(KeyError), pinned(min(allowed)):
        raise KeyError
    assert os.sched_getaffinity(0) == allowed


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


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of this process, which a benchmark changes."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.processes
@pytest.mark.usefixtures("environment")
def test_a_real_controller_records_each_answer_once_and_its_calls_are_counted(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    bench = CapacityBench(cloud, tmp_path)
    for jobs in (1, 3):
        found = bench.record(jobs, 120)
        assert found.images_per_second > 0
        assert found.calls > 0


@pytest.mark.processes
@pytest.mark.usefixtures("environment")
def test_a_start_is_measured_from_the_process_to_its_answer(cloud: LocalCloud) -> None:
    start = StartBench(cloud).start(DEMO_BUNDLE)
    assert 0 < start.poll_s < start.answer_s
    assert start.peak_mb > 20
