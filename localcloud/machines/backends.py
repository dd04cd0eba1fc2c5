"""The two machine backends: a process that runs the user data, and an image that systemd-nspawn boots.

The directory of a process also holds ``user-data`` (the script) and ``port`` (of its metadata service).

All kernel resources of a booted image belong to the one process that its directory names. This is `unshare`, which
holds a process namespace with systemd-nspawn as its first process. When it is killed, the kernel kills all processes
in the namespace, the image's init included, and then releases their mounts, which no other process sees, and the
network.
"""

import contextlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localcloud.machines.machine import PATH, Machine, Process, cgroup_folders, children_of
from localcloud.machines.metadata import MetadataServer, loopback_listener
from localcloud.machines.network import ConnectionRelay, in_new_network, listen_in


class ProcessBackend:
    """Runs each instance's user data as a process, with a metadata service on a port of the loopback."""

    grace_seconds = 2.0
    shutdown_retry_seconds = math.inf

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url

    def boot(
        self, machine: Machine, identity: Mapping[str, Any]
    ) -> tuple[subprocess.Popen[bytes], contextlib.ExitStack]:
        """Start the process; raises as `MachineBackend.boot` does, also if the user data is not a script."""
        prepare(machine, identity["user_data"].encode("latin-1"))
        metadata = self._metadata(machine)
        return start(machine, metadata.url), _closing(metadata)

    def attach(self, machine: Machine, process: Process) -> contextlib.ExitStack:  # noqa: ARG002 - the interface
        """Serve the metadata on the same port again; raises as `MachineBackend.attach` does."""
        return _closing(self._metadata(machine))

    def request_shutdown(self, process: Process) -> None:
        """Send SIGTERM to the process and its children."""
        process.signal_group(signal.SIGTERM)

    def _metadata(self, machine: Machine) -> MetadataServer:
        listener = loopback_listener(machine.directory)
        return MetadataServer(self._endpoint_url, machine.directory.name, machine.directory, listener)


def _closing(*services: MetadataServer | ConnectionRelay) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for service in services:
        stack.callback(service.close)
    return stack


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


TOOLS = {"systemd-nspawn": "systemd-container", "unshare": "util-linux", "mount": "mount", "ip": "iproute2"}
"""The commands that nspawn machines need, with their packages of Debian and Ubuntu."""

TIME_NAMESPACE = Path("/proc/self/ns/time")
"""Exists if a machine's clock can begin at its boot. Otherwise a timer that counts from boot would expire at once."""

_POWER_OFF = signal.SIGRTMIN + 4  # of systemd as a machine's init (man 1 systemd)


class NspawnMissingError(RuntimeError):
    """Raised when this host cannot boot images; the message names the missing requirement."""


def check_tools() -> None:
    """Check that this host can boot images.

    Raises:
        NspawnMissingError: this process is not root, a command is not installed, or the kernel is too old.
    """
    if os.geteuid() != 0:
        raise NspawnMissingError("machines of kind nspawn need root: run this as root, or leave them out")
    missing = {name: package for name, package in TOOLS.items() if shutil.which(name, path=PATH) is None}
    if missing:
        raise NspawnMissingError(
            f"machines of kind nspawn need {', '.join(missing)}: apt install {' '.join(missing.values())}"
        )
    if not TIME_NAMESPACE.exists():
        raise NspawnMissingError("machines of kind nspawn need time namespaces: Linux 5.6 or newer")


class NspawnBackend:
    """Boots each instance's image, the folder in `images` that has the image's id as its name.

    The image is only read: files that an instance writes are in its own directory until it is terminated. Its network
    contains only its metadata service at 169.254.169.254, and the cloud at the address that it has on the host. The
    image's cloud-init runs the user data.

    Raises:
        NspawnMissingError: this host cannot boot images.
    """

    grace_seconds = 6.0
    shutdown_retry_seconds = 0.1  # nspawn, and an init that has just started, lose the signal

    def __init__(self, endpoint_url: str, images: Path) -> None:
        check_tools()
        parts = urlsplit(endpoint_url)
        self._endpoint_url, self._images = endpoint_url, images.absolute()
        self._cloud = parts.hostname or "127.0.0.1", parts.port or 80

    def boot(
        self, machine: Machine, identity: Mapping[str, Any]
    ) -> tuple[subprocess.Popen[bytes], contextlib.ExitStack]:
        """Boot the image; raises as `MachineBackend.boot` does, also if the image does not exist."""
        image_id = identity["image_id"]
        found = sorted(path.name for path in self._images.glob("*") if (path / "usr").is_dir())
        if image_id not in found:
            machine.fail(f"there is no image {image_id} in {self._images}; there are: {', '.join(found) or 'none'}")
        for name in ("upper", "work", "root"):
            (machine.disk / name).mkdir(parents=True, exist_ok=True)
        (machine.disk / "uuid").write_text(hypervisor_uuid(machine.directory.name))

        child = in_new_network(lambda: machine.start(command(machine, self._images / image_id), {"LANG": "C.UTF-8"}))
        try:
            return child, self._serve(machine, child.pid)
        except OSError:
            os.killpg(child.pid, signal.SIGKILL)  # it leads its group, and has not been reaped yet
            child.wait()
            raise

    def attach(self, machine: Machine, process: Process) -> contextlib.ExitStack:
        """Start the services in the network of a running machine; raises as `MachineBackend.attach` does."""
        return self._serve(machine, process.pid)

    def request_shutdown(self, process: Process) -> None:
        """Make the image's init, if it runs, power off; unlike systemd-nspawn, init accepts repeated requests."""
        for nspawn in children_of(process.pid):
            for init in children_of(nspawn):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(init, _POWER_OFF)

    def _serve(self, machine: Machine, pid: int) -> contextlib.ExitStack:
        metadata, cloud = listen_in(pid, self._cloud)
        server = MetadataServer(self._endpoint_url, machine.directory.name, machine.directory, metadata)
        return _closing(ConnectionRelay(cloud, self._cloud), server)


def hypervisor_uuid(instance_id: str) -> str:
    """Return the content of ``/sys/hypervisor/uuid``; its prefix makes cloud-init detect EC2."""
    digits = f"ec2{instance_id.removeprefix('i-'):0>29}"[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) + "\n"


def command(machine: Machine, image: Path) -> list[str]:
    """Return the command that boots an image over the machine's disk, and ends when the machine does."""
    return [
        *("/bin/sh", "-ec", _IN_GROUP, "sh", *map(str, cgroup_folders(machine.directory.name)), "--"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("--time", f"--monotonic={_back(time.CLOCK_MONOTONIC)}", f"--boottime={_back(time.CLOCK_BOOTTIME)}"),
        *("/bin/sh", "-ec", _script(machine, image)),
    ]


def _back(clock: int) -> int:
    """Return the offset in whole seconds with which a machine's clock begins now."""
    return 1 - int(time.clock_gettime(clock))


# Arguments before the first `--` are control groups to create and to enter, those after it are the command.
_IN_GROUP = 'while [ "$1" != -- ]; do mkdir -p "$1"; echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"'


def _script(machine: Machine, image: Path) -> str:
    """Return the script of the first process in the machine's own process and mount namespaces."""
    disk, quote = machine.disk, shlex.quote
    layers = f"lowerdir={image},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    nspawn = [
        *("systemd-nspawn", "--quiet", "--boot", "--settings=no"),
        *(f"--directory={machine.disk / 'root'}", f"--machine={machine.directory.name}"),
        *("--register=no", "--keep-unit"),  # independent of the host's systemd
        "--network-namespace-path=/proc/self/ns/net",
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"),
        f"--bind-ro={machine.disk / 'uuid'}:/sys/hypervisor/uuid",
        "ci.ds=Ec2",  # argument of its init, where cloud-init in a container looks for the kernel's command line
    ]
    # systemd-nspawn stores its state in /run; this machine's state must end with the machine.
    return f"""
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o {quote(layers)} {quote(str(disk / "root"))}
exec env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network {shlex.join(nspawn)}
"""
