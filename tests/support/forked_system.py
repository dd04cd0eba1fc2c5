"""A supervisor for `System`, and a local cloud, that fork their processes, see `forked`: a fifth of the CPU time.

They lead sessions, inherit descriptors and end with this process, as those of `run.sh` do. The kernel shows the
command line and the first environment of the fork server. Workers are children of the hypervisor; a process that it
forks before it starts a thread, the zygote, forks them. So are web instances if their user data ends with
`-m tests.support.web_instance FOLDER`.
"""

import contextlib
import ctypes
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from multiprocessing import forkserver, reduction, resource_tracker
from pathlib import Path
from typing import Any

from localcloud.access_keys import owner_key
from localcloud.launch import LocalCloud
from localcloud.machines import backends
from localcloud.machines.machine import PATH, Machine
from scripts.run.supervisor import ManagedProcess, Supervisor
from tests.support.forked import ForkedPython, become

MAX_REQUEST_BYTES = 100_000

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None).prctl


class ForkingSupervisor(Supervisor):
    """A supervisor of forked processes."""

    def spawn(self, managed: ManagedProcess) -> Any:
        """Fork the process."""
        return _ForkedService(managed)


class ForkedCloud(LocalCloud):
    """A local cloud of forked processes."""

    def _spawn(self, name: str, arguments: list[str], *descriptors: int) -> Any:
        environment = {**os.environ, **owner_key().environment}
        inherited = (self._lifeline.read_end, *descriptors)
        command, log = (sys.executable, *self.program, *arguments), self.state_dir / f"{name}.log"
        return _ForkedService(ManagedProcess(name, command, environment, log, inherited=inherited))


FORK_SERVER_VARIABLE = "FORK_SERVER"
"""Environment variable with the address of the fork server for a `run.sh`; see forking/sitecustomize.py."""


def fork_server() -> str:
    """Return the address of this process's fork server, which another process can use as long as this one runs."""
    forkserver.ensure_running()
    return str(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]


def fork_from(address: str) -> None:
    """Let all supervisors of this process fork their processes, by the fork server of another process."""
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd = address, os.open(os.devnull, os.O_RDONLY)
    server.ensure_running = resource_tracker.ensure_running
    Supervisor.spawn = ForkingSupervisor.spawn  # type: ignore[method-assign, assignment]


class _ForkedService(ForkedPython):
    def __init__(self, managed: ManagedProcess) -> None:
        managed.log.touch()
        command, environment = list(managed.arguments[1:]), dict(managed.environment)
        self._start(_serve, command, environment, str(managed.log), _Descriptors(managed.inherited))
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            while os.getsid(self.pid) != self.pid:
                time.sleep(0.001)


class _Descriptors:
    """Descriptors that a forked process inherits, as it gets them: by their numbers here, with its own numbers."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (list(self._numbers), [reduction.DupFd(number) for number in self._numbers])


def _inherited(numbers: Sequence[int], descriptors: Sequence[Any]) -> dict[int, int]:
    return {number: descriptor.detach() for number, descriptor in zip(numbers, descriptors, strict=True)}


def _serve(command: list[str], environment: Mapping[str, str], log: str, inherited: Mapping[int, int]) -> None:
    """Become a process of the system."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)  # or the fork server would wait for this process to end
    for place, (option, value) in enumerate(pairwise(command), 1):
        if option.endswith("-fd"):
            command[place] = str(inherited[int(value)])
    if "hypervisor" in command:
        backends.start = _Zygote().start
    become(command, environment, log)


_FORKED_MODULE = re.compile(r"-m (?:app_tier|tests\.support\.web_instance \S+)(?=\n\Z)")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


class _Zygote:
    """Forks workers and web instances, which become children of the hypervisor."""

    def __init__(self) -> None:
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._start_real = backends.start
        if os.fork():
            requests.close()
            return
        self._requests.close()
        while request := requests.recv(MAX_REQUEST_BYTES):
            if not (middle := os.fork()):
                middle = os.getpid()
                if os.fork():
                    os._exit(0)
                _run_instance(requests, middle, *json.loads(request))
            os.waitpid(middle, 0)
        os._exit(0)

    def start(self, machine: Machine, metadata_endpoint: str) -> Any:
        """Run the user data of a prepared machine as `backends.start` does; fork what ends with such a module."""
        script = (machine.directory / "user-data").read_text(errors="surrogateescape")
        if not (found := _FORKED_MODULE.search(script)):
            return self._start_real(machine, metadata_endpoint)
        environment = {
            "PATH": PATH,
            **backends.environment_of(machine, metadata_endpoint),
            **dict(word.split("=", 1) for word in shlex.split(script) if _ASSIGNMENT.match(word)),
        }
        machine.console.touch()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        start = [str(machine.directory), found[0].split(), environment, str(machine.console)]
        self._requests.send(json.dumps(start).encode())
        pid = int(self._requests.recv(MAX_REQUEST_BYTES))
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)
        return _Instance(pid)


class _Instance:
    """A forked instance, with the method of a `Popen` that the hypervisor uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def _run_instance(
    requests: socket.socket, middle: int, folder: str, command: list[str], environment: dict[str, str], log: str
) -> None:
    """Become what an instance runs, once its parent has ended and the hypervisor is its parent instead."""
    os.setsid()
    while os.getppid() == middle:
        time.sleep(0.001)
    Path(folder, "process").write_text(Path("/proc/self/stat").read_text())
    requests.send(str(os.getpid()).encode())
    requests.close()
    become(command, environment, log)
    raise SystemExit
