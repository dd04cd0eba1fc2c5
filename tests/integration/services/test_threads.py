"""The start of a thread in a real process without memory."""

import subprocess
import sys

import pytest

from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

WITHOUT_MEMORY = """
import os
import time
from services import threads
from tests.support.processes import take_memory

threads.BEGIN_SECONDS = 0.5
earlier = [threads.DaemonThread(bytes, name="earlier") for _ in range(3)]
for thread in earlier:  # their stacks are used again, so that only the memory for a first line is missing
    thread.start()
    thread.join()
while len(os.listdir("/proc/self/task")) > 1:  # their stacks are free when the system has ended them
    time.sleep(0.01)
thread = threads.DaemonThread(os._exit, 1, name="stage")
take_memory([os.getpid()])
held = []
for size in (1 << 20, 1 << 16, 1 << 12, 600, 64):
    try:
        while True:
            held.append(bytearray(size))
    except MemoryError:
        pass
try:
    thread.start()
except MemoryError:
    held.clear()
    print("MemoryError")
"""


def test_a_start_ends_in_a_process_that_has_no_memory_for_the_thread() -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY]
    ended = subprocess.run(command, capture_output=True, check=True, text=True, timeout=DEADLINE_SECONDS)
    assert ended.stdout == "MemoryError\n"
