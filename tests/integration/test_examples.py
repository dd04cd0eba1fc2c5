"""The examples that need no running system."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app_tier.bundle import load_bundle
from localcloud.launch import LocalCloud
from scripts.cli import fleetsight
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

EXAMPLES = ROOT / "examples"


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


def test_a_network_of_ones_own_becomes_a_bundle(tmp_path: Path) -> None:
    folder = EXAMPLES / "custom_model"
    run(folder / "network.py", tmp_path / "colours.pt2")
    files = ("--network", str(tmp_path / "colours.pt2"), "--spec", str(folder / "colours.yaml"))
    options = ("--precision", "fp32", "--out", str(tmp_path / "bundle"))
    built = CliRunner().invoke(fleetsight, ["model", "build", *files, *options])
    assert built.exit_code == 0, built.output
    assert load_bundle(tmp_path / "bundle").labels == ("red", "green", "blue")
