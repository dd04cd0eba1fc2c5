import os
import subprocess
import sys

import pytest

from benchmarks.processes import Usage, cpu_seconds_between, tree, usage_of, usages


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
