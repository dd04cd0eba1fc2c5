"""A process that hangs shows where its threads are."""

import os
import signal
import subprocess
import sys

import pytest
import requests

from tests.integration.web_tier.conftest import WebTier
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

HANGS = """
import os, signal
from core.logs import configure_logging
configure_logging("controller")
def hang_here():
    os.kill(os.getpid(), signal.SIGUSR1)
hang_here()
"""


def test_a_process_prints_its_stacks_at_sigusr1_and_goes_on(shared_tier: WebTier) -> None:
    command = [sys.executable, "-c", HANGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True)
    assert "in hang_here" in done.stderr
    for worker in shared_tier.workers():
        os.kill(worker, signal.SIGUSR1)
    wait_until(lambda: shared_tier.log.read_text().count("Current thread") >= 2, "both processes print their stacks")
    assert "gthread.py" in shared_tier.log.read_text()
    assert requests.get(f"{shared_tier.url}/healthz", timeout=DEADLINE_SECONDS).status_code == 200
