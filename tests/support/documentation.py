"""Builds the documentation site, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_WITHOUT_NETWORK = """
import runpy, socket, sys

def refuse(*call):
    raise OSError(f"the build asks the network: {call}")

socket.socket.connect = socket.getaddrinfo = refuse
runpy.run_module("mkdocs", run_name="__main__", alter_sys=True)
"""


def require_mkdocs() -> None:
    """Skip the test if mkdocs is not installed: requirements.txt leaves it out."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: run ./scripts/setup.sh docs")


def build_site(folder: Path, config: Path = ROOT / "mkdocs.yml") -> "subprocess.CompletedProcess[str]":
    """Build the site into `folder`, with warnings as errors; a connection is one. Skip the test without mkdocs."""
    require_mkdocs()
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_NETWORK, "build", "--strict", "--config-file", config, "--site-dir", folder],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
