"""What a fork of ours forgets, seen from outside and from within."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.confined.zygote import ROOT
from tests.support.waiting import DEADLINE_SECONDS

FORGETFUL = """
import ctypes, os, sys
os.environ["LATER"] = "s3cret-later"
os.environ["CHANGED"] = "s3cret-new"
del os.environ["REMOVED"]
kept = os.environb[b"KEY"]
from core.confined.forget import forget_environment
forget_environment()
print(dict(os.environ), kept.strip(b"\\0"), flush=True)
sys.stdin.read()
"""


@pytest.mark.processes
def test_nothing_of_an_environment_is_left_however_it_was_changed() -> None:
    given = {"KEY": "s3cret", "CHANGED": "s3cret-old", "REMOVED": "s3cret-gone", "A": "1", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", FORGETFUL], cwd=ROOT, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"{} b''\n"
        assert not Path(f"/proc/{process.pid}/environ").read_bytes().strip(b"\0")
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
