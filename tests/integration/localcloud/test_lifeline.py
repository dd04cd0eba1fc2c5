"""Whoever watches a lifeline learns that its owner has ended."""

import os
import subprocess
import sys
import threading

import pytest

from localcloud.parent_watch import Lifeline, watch_lifeline
from tests.support.waiting import DEADLINE_SECONDS


def test_a_cut_lifeline_is_noticed_and_an_intact_one_is_not() -> None:
    lifeline, ended = Lifeline(), threading.Event()
    reader = os.dup(lifeline.read_end)
    watch_lifeline(reader, ended.set)
    assert not ended.wait(0.05)
    lifeline.cut()
    assert ended.wait(DEADLINE_SECONDS)
    lifeline.cut()
    os.close(reader)


@pytest.mark.processes
def test_a_lifeline_ends_with_its_owner_even_by_kill_9() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[writer])
    os.close(writer)
    ended = threading.Event()
    watch_lifeline(reader, ended.set)
    assert not ended.wait(0.2)
    owner.kill()
    owner.wait(DEADLINE_SECONDS)
    assert ended.wait(DEADLINE_SECONDS)
    os.close(reader)
