"""The kind of machine that is only a process of this one: it runs the instance's user data, and has no image.

Beside what every machine has, its directory holds ``user-data`` (the script) and ``port`` (its metadata service).
"""

import math
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from localcloud.machines.machine import Machine, Process, RunningMachine
from localcloud.metadata_server import MetadataServer, loopback_listener


class Processes:
    """Runs each instance's user data as a process, with a metadata service on a port of the loopback.

    Args:
        endpoint_url: of the cloud.
    """

    grace_seconds = 2.0
    ask_again_seconds = math.inf

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url

    def boot(self, machine: Machine, identity: Mapping[str, Any]) -> RunningMachine:
        """Start the process; raises as `Kind.boot` does, also where the user data is no script."""
        prepare(machine, identity["user_data"].encode("latin-1"))
        metadata = self._metadata(machine)
        return RunningMachine(start(machine, metadata.url), metadata)

    def surround(self, machine: Machine, process: Process) -> MetadataServer:  # noqa: ARG002 - the kind's interface
        """Serve the metadata again, on the same port; raises as `Kind.surround` does."""
        return self._metadata(machine)

    def ask_to_end(self, process: Process) -> None:
        """Send SIGTERM to the process and its children."""
        process.signal_group(signal.SIGTERM)

    def _metadata(self, machine: Machine) -> MetadataServer:
        listener = loopback_listener(machine.directory)
        return MetadataServer(self._endpoint_url, machine.directory.name, machine.directory, listener)


def prepare(machine: Machine, user_data: bytes) -> None:
    """Write the user data where it will be run from, in the machine's directory, which must be there.

    Raises:
        BootFailedError: it is no script.
    """
    if not user_data.startswith(b"#!"):
        found = f"begins with {user_data[:20]!r}" if user_data else "is empty"
        machine.fail(f"the user data {found}; a script that begins with #! is needed")
    script = machine.directory / "user-data"
    script.unlink(missing_ok=True)
    script.write_bytes(user_data)
    script.chmod(0o700)


def start(machine: Machine, metadata_endpoint: str) -> subprocess.Popen[bytes]:
    """Run the user data.

    Args:
        machine: where it was prepared.
        metadata_endpoint: URL of the instance's metadata service.

    Raises:
        BootFailedError: the process could not be started.
    """
    environment = {
        "HOME": str(machine.directory),
        "LANG": "C.UTF-8",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_endpoint,
    }
    return machine.start([str(machine.directory / "user-data")], environment)
