"""ministack, an emulator of AWS by other people, as a process on a free port of loopback.

It judges our two stand-ins for AWS, and the stack: `tests/integration/services` and
`tests/integration/test_stack_elsewhere.py` say where it differs from them.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from localcloud.access_keys import owner_key
from localcloud.launch import HOST, REGION
from localcloud.parent_watch import Lifeline, watch_lifeline
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SERVICES = "s3,sqs,dynamodb,ec2,iam,sts"


@contextmanager
def running_emulator(folder: Path, services: str = SERVICES, extension: str = "") -> Iterator[str]:
    """Run the emulator, which keeps its files in `folder`; yield its endpoint. It ends with this process.

    Without a name, `services` are all; its process imports the module `extension`. Without ministack the test is
    skipped.
    """
    if find_spec("ministack") is None:  # pip cannot install it beside our botocore: pyproject.toml
        pytest.skip("ministack is not installed: run ./scripts/setup.sh test")
    lifeline, listener = Lifeline(), socket.create_server((HOST, 0), backlog=1024)
    port = listener.getsockname()[1]
    own = {
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": HOST,
        "MINISTACK_REGION": REGION,
        "MINISTACK_ACCOUNT_ID": "123456789012",
        "SERVICES": services,
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": f"unix://{folder}/no-docker",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "S3_DATA_DIR": str(folder / "s3"),
        "STATE_DIR": str(folder / "state"),
        "LOG_LEVEL": "WARNING",
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        **owner_key().environment,
    }
    log = folder / "emulator.log"
    with listener, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), str(lifeline.read_end), extension],
            pass_fds=[listener.fileno(), lifeline.read_end],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=own,
            cwd=folder,
        )
    try:
        endpoint = f"http://{HOST}:{port}"
        wait_until(
            lambda: process.poll() is not None or _answers(endpoint), "the emulator answers", details=log.read_text
        )
        assert process.poll() is None, log.read_text()
        yield endpoint
    finally:
        lifeline.cut()
        process.wait(DEADLINE_SECONDS)


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _serve(listener: int, lifeline: int, extension: str) -> None:
    """Serve the emulator on an open socket until the lifeline is cut."""
    if extension:
        import_module(extension)
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    config = Config()
    config.bind, config.keep_alive_timeout, config.loglevel = [f"fd://{listener}"], 75, "WARNING"
    watch_lifeline(lifeline, lambda: os.kill(os.getpid(), signal.SIGKILL))
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
