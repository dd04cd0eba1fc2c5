"""The examples that need no running system."""

import subprocess
import sys

import pytest

from localcloud.launch import LocalCloud
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes


def run(*command: object) -> str:
    """Run an example in the project's folder; return what it prints."""
    done = subprocess.run(
        [sys.executable, *(str(part) for part in command)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wrappers_of_services_make_a_work_queue_of_another_program(cloud: LocalCloud) -> None:
    printed = run("-m", "examples.work_queue", "--endpoint", cloud.endpoint_url).splitlines()
    assert printed == [f"{number} squared is {number**2}" for number in range(10)]
