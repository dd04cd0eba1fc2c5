"""Starts the local cloud as child processes that end with their parent, for commands and tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from localcloud.access_keys import owner_key
from localcloud.clients import ControlClient
from localcloud.machines.machine import remove_all
from localcloud.parent_watch import Lifeline

HOST = "127.0.0.1"
REGION = "us-east-1"
STOP_SECONDS = 8.0


class LocalCloudError(RuntimeError):
    """Raised when the local cloud does not start; the message has the reason."""


class LocalCloud:
    """A local cloud: server, hypervisor and guard, each a process.

    Use it as a context manager, or call `start` and `stop`.

    Args:
        state_dir: folder of logs and instances; created if necessary.
        port: on 127.0.0.1; 0 for any free port.
        hypervisor: whether each instance has a machine; otherwise instances run at once and compute nothing.
        switches: initial values of `options.Switches`.
        start_seconds: time limit until the server answers.
        state: folder in which the server keeps everything; None loses it when the server ends.
        extensions: names of modules that change the server's APIs, see `dispatch.MIDDLEWARE`.

    Attributes:
        program: arguments of Python, for ``python -m localcloud`` or what stands for it.
    """

    program: Sequence[str] = ("-m", "localcloud")

    def __init__(
        self,
        state_dir: Path,
        port: int = 0,
        *,
        hypervisor: bool = True,
        switches: Mapping[str, Any] | None = None,
        start_seconds: float = 30.0,
        state: Path | None = None,
        extensions: Sequence[str] = (),
    ) -> None:
        self.state_dir, self._port, self._with_hypervisor = state_dir.absolute(), port, hypervisor
        self._state, self._extensions = state, extensions
        self._switches, self._start_seconds = dict(switches or {}), start_seconds
        self._lifeline = Lifeline()
        self._cloud: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.hypervisor: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """The URL of the cloud, for boto3's ``endpoint_url``."""
        return f"http://{HOST}:{self._port}"

    @property
    def server_pid(self) -> int:
        """The process of the server (its child is the worker), for measurements.

        Raises:
            LocalCloudError: the cloud has not been started.
        """
        if self._cloud is None:
            raise LocalCloudError("the local cloud has not been started; call start() first")
        return self._cloud.pid

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which boto3 uses this cloud; the key is valid only here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            **owner_key().environment,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> "LocalCloud":
        """Start the processes and wait until the server answers.

        Raises:
            LocalCloudError: the port is in use, or the server ended or did not answer in time.
        """
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_all(self.state_dir)
        try:
            self._start_cloud()
            self._wait_until_ready()
            if self._switches:
                self.set_switches(**self._switches)
            if self._with_hypervisor:
                # It ends the instances if this process and the hypervisor are killed.
                lifeline = ["--lifeline-fd", str(self._lifeline.read_end)]
                self._guard = self._spawn("guard", ["guard", "--state-dir", str(self.state_dir), *lifeline])
                self.start_hypervisor()
        except BaseException:
            self.stop()
            raise
        return self

    def start_hypervisor(self) -> subprocess.Popen[bytes]:
        """Start the hypervisor, also after it died: it adopts the machines of its predecessor."""
        where = ["--endpoint", self.endpoint_url, "--state-dir", str(self.state_dir)]
        lifeline = ["--lifeline-fd", str(self._lifeline.read_end)]
        self.hypervisor = self._spawn("hypervisor", ["hypervisor", *where, *lifeline])
        return self.hypervisor

    def set_switches(self, **switches: Any) -> dict[str, Any]:
        """Set switches (see `options.Switches`) and return the values of all switches.

        Raises:
            CloudUnreachableError: a switch is unknown or its value is not allowed; the message says why.
        """
        return self.control("PUT", "switches", switches)

    def control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call the control endpoint; raises as `ControlClient.call` does."""
        with closing(ControlClient(self.endpoint_url)) as client:
            return client.call(method, path, body)

    def stop(self) -> None:
        """End every process, instances included, and wait until they have ended."""
        for process in (self.hypervisor, self._cloud):
            if process is not None and process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in (self.hypervisor, self._cloud):
            _reap(process, deadline)
        self._lifeline.cut()
        _reap(self._guard, time.monotonic() + STOP_SECONDS)

    def __enter__(self) -> "LocalCloud":
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _start_cloud(self) -> None:
        try:
            listener = socket.create_server((HOST, self._port), backlog=1024)
        except OSError as error:
            raise LocalCloudError(
                f"port {self._port} on {HOST} cannot be used ({error}); stop what uses it or choose another"
            ) from error
        with listener:
            self._port = listener.getsockname()[1]
            compute = [] if self._with_hypervisor else ["--no-compute"]
            state = [] if self._state is None else ["--state", str(self._state)]
            extensions = [part for module in self._extensions for part in ("--extension", module)]
            arguments = ["cloud", "--fd", str(listener.fileno()), *compute, *state, *extensions]
            lifeline = ["--lifeline-fd", str(self._lifeline.read_end)]
            self._cloud = self._spawn("cloud", arguments + lifeline, listener.fileno())

    def _spawn(self, name: str, arguments: list[str], *descriptors: int) -> subprocess.Popen[bytes]:
        with (self.state_dir / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *self.program, *arguments],
                pass_fds=[self._lifeline.read_end, *descriptors],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "MALLOC_ARENA_MAX": "2",  # heaps of all threads; glibc has eight for each core, which keep memory
                    **os.environ,
                    **owner_key().environment,
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                },
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while True:
            try:
                self.control("GET", "health")
            except OSError as error:
                ended = self._cloud is None or self._cloud.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise LocalCloudError(
                        f"the local cloud does not answer at {self.endpoint_url} ({error}); its log:\n"
                        + (self.state_dir / "cloud.log").read_text()[-2000:]
                    ) from error
                time.sleep(0.02)
            else:
                return


def _reap(process: subprocess.Popen[bytes] | None, deadline: float) -> None:
    if process is None:
        return
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
