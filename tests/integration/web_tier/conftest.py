"""gunicorn as it runs in production, on a free port, over the embedded cloud."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from scripts.run.system import free_port
from services.clients import Clients
from services.config import PATH_VARIABLE, Config
from tests.conftest import ROOT, ConfigMaker, write_config

START_SECONDS = 30.0


@dataclass
class WebTier:
    """A running web tier."""

    process: subprocess.Popen[bytes]
    port: int
    config: Config
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Return the process ids of gunicorn's workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def create_job(self) -> str:
        return str(requests.post(f"{self.url}/api/v1/jobs", timeout=10).json()["job_id"])


@pytest.fixture
def web_tier(provisioned: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[WebTier]:
    """A web tier of two processes with four threads each."""
    config = make_config(web={"port": free_port(), "threads": 4, "max_request_bytes": 20_000_000})
    with serving(config, tmp_path) as web:
        yield web


@contextmanager
def serving(config: Config, tmp_path: Path, *options: str) -> Iterator[WebTier]:
    """Run a web tier with `config`, whose port is free, and `options` of gunicorn, while the context lasts."""
    port = config.web.port
    path, log = write_config(config, tmp_path / "config.yaml"), tmp_path / "web.log"
    command = [sys.executable, "-m", "gunicorn", "-c", "python:web_tier.gunicorn", *options]
    command.append("web_tier.app:create_app()")
    environment = os.environ | {PATH_VARIABLE: str(path)}
    with log.open("wb") as lines, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=lines) as process:
        web = WebTier(process, port, config, log)
        try:
            _wait_until_ready(web)
            yield web
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(web: WebTier) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            if requests.get(f"{web.url}/readyz", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            assert web.process.poll() is None, web.log.read_text()
            time.sleep(0.05)
    pytest.fail(f"the web tier is not ready after {START_SECONDS} s: {web.log.read_text()}")
