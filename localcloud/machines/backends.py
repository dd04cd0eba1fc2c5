"""Starts machines and shuts them down: each is a process that runs the user data.

The directory of a machine also holds ``user-data`` (the script) and ``port`` (of its metadata service).
"""

import contextlib
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from localcloud.machines.machine import Machine, Process
from localcloud.machines.metadata import MetadataServer, loopback_listener


class ProcessBackend:
    """Runs each instance's user data as a process, with a metadata service on a port of the loopback.

    Attributes:
        grace_seconds: time for a shutdown before the machine is killed.
    """

    grace_seconds = 2.0

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url

    def boot(
        self, machine: Machine, identity: Mapping[str, Any]
    ) -> tuple[subprocess.Popen[bytes], contextlib.ExitStack]:
        """Start a prepared machine; return the process that leads it, and its services, which the caller closes.

        `control.describe_identity` describes the instance.

        Raises:
            BootFailedError: the machine cannot be started; its console has the reason, too.
            OSError: its services cannot be started.
        """
        prepare(machine, identity["user_data"].encode("latin-1"))
        services = contextlib.ExitStack()
        metadata = self._serve_metadata(machine, services)
        return start(machine, metadata.url), services

    def attach(self, machine: Machine, process: Process) -> contextlib.ExitStack:  # noqa: ARG002 - for subclasses
        """Start the services of a running machine again, at the same port, after its hypervisor died.

        Raises:
            OSError: the services cannot be started.
        """
        services = contextlib.ExitStack()
        self._serve_metadata(machine, services)
        return services

    def request_shutdown(self, process: Process) -> None:
        """Send SIGTERM to the process and its children."""
        process.signal_group(signal.SIGTERM)

    def discard(self, machine: Machine) -> None:
        """Remove what a machine leaves that has ended and will not start again; for subclasses."""

    def _serve_metadata(self, machine: Machine, services: contextlib.ExitStack) -> MetadataServer:
        listener = loopback_listener(machine.directory)
        metadata = MetadataServer(self._endpoint_url, machine.directory.name, machine.directory, listener)
        services.callback(metadata.close)
        return metadata


def prepare(machine: Machine, user_data: bytes) -> None:
    """Write the user data to the machine's directory, which must exist.

    Raises:
        BootFailedError: the user data is not a script.
    """
    if not user_data.startswith(b"#!"):
        found = f"begins with {user_data[:20]!r}" if user_data else "is empty"
        machine.fail(f"the user data {found}; a script that begins with #! is needed")
    script = machine.directory / "user-data"
    script.unlink(missing_ok=True)
    script.write_bytes(user_data)
    script.chmod(0o700)


def start(machine: Machine, metadata_endpoint: str) -> subprocess.Popen[bytes]:
    """Run the user data of a prepared machine.

    Raises:
        BootFailedError: the process could not be started.
    """
    return machine.start([str(machine.directory / "user-data")], environment_of(machine, metadata_endpoint))


def environment_of(machine: Machine, metadata_endpoint: str) -> dict[str, str]:
    """Return the variables of a machine's user data, besides PATH."""
    return {
        "HOME": str(machine.directory),
        "LANG": "C.UTF-8",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_endpoint,
    }
