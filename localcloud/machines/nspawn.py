"""The kind of machine that boots its image: a root file system, under systemd-nspawn, with a network of its own.

Everything that a machine holds in the kernel hangs on the one process that its directory names: that is `unshare`,
which keeps the process namespace with systemd-nspawn as its first process. When it is killed, so is everything in it,
the image's own init too, and with the last process go the mounts, which no other process sees, and the network.
"""

import contextlib
import os
import shlex
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localcloud.machines import cgroups
from localcloud.machines.machine import PATH, Machine, Process, RunningMachine, children_of
from localcloud.machines.netns import in_new_network
from localcloud.machines.network import listen_in
from localcloud.machines.relay import Relay
from localcloud.metadata_server import MetadataServer

TOOLS = {"systemd-nspawn": "systemd-container", "unshare": "util-linux", "mount": "mount", "ip": "iproute2"}
"""Commands that this needs, and the package of Debian and Ubuntu that each is in."""

TIME_NAMESPACE = Path("/proc/self/ns/time")
"""There where a machine's clock can begin when it does: a timer that counts from boot would be due at once."""

_POWER_OFF = signal.SIGRTMIN + 4  # of systemd as a machine's init (man 1 systemd)


class NspawnMissingError(RuntimeError):
    """Raised when this machine cannot boot images; the message says what is missing."""


def check_tools() -> None:
    """Make sure that images can be booted here.

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


@dataclass(frozen=True)
class _Served:
    """What is served in a machine's network: its metadata, and the cloud."""

    metadata: MetadataServer
    relay: Relay

    def close(self) -> None:
        self.metadata.close()
        self.relay.close()


class Nspawn:
    """Boots each instance's image, a folder of `images` with the image's id as its name.

    The image is only read: what an instance writes lies in its own directory until it is terminated. In its network
    there is nothing but its metadata service at 169.254.169.254, and the cloud at the address that it has here. Its
    user data is the affair of the image's cloud-init.

    Args:
        endpoint_url: of the cloud, on 127.0.0.1.
        images: folder of root file systems.

    Raises:
        NspawnMissingError: machines cannot be booted here.
    """

    grace_seconds = 6.0
    ask_again_seconds = 0.1  # nspawn, and an init that has just begun, lose the signal

    def __init__(self, endpoint_url: str, images: Path) -> None:
        check_tools()
        parts = urlsplit(endpoint_url)
        self._endpoint_url, self._images = endpoint_url, images.absolute()
        self._cloud = parts.hostname or "127.0.0.1", parts.port or 80

    def boot(self, machine: Machine, identity: Mapping[str, Any]) -> RunningMachine:
        """Boot the image; raises as `Kind.boot` does, also where there is no such image."""
        image = self._image(machine, identity["image_id"])
        for name in ("upper", "work", "root"):
            (machine.disk / name).mkdir(parents=True, exist_ok=True)
        (machine.disk / "uuid").write_text(hypervisor_uuid(machine.directory.name))

        child = in_new_network(lambda: machine.start(command(machine, image), {"LANG": "C.UTF-8"}))
        try:
            return RunningMachine(child, self._serve(machine, child.pid))
        except OSError:
            os.killpg(child.pid, signal.SIGKILL)  # it leads its group, and is not reaped before this
            child.wait()
            raise

    def surround(self, machine: Machine, process: Process) -> _Served:
        """Serve in the network of a machine that runs; raises as `Kind.surround` does."""
        return self._serve(machine, process.pid)

    def ask_to_end(self, process: Process) -> None:
        """Ask the image's init to power off, once it is there; other than systemd-nspawn it may be asked often."""
        for nspawn in children_of(process.pid):
            for init in children_of(nspawn):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(init, _POWER_OFF)

    def _image(self, machine: Machine, image_id: str) -> Path:
        there = sorted(path.name for path in self._images.glob("*") if (path / "usr").is_dir())
        if image_id not in there:
            machine.fail(f"there is no image {image_id} in {self._images}; there are: {', '.join(there) or 'none'}")
        return self._images / image_id

    def _serve(self, machine: Machine, pid: int) -> _Served:
        metadata, cloud = listen_in(pid, self._cloud)
        server = MetadataServer(self._endpoint_url, machine.directory.name, machine.directory, metadata)
        return _Served(server, Relay(cloud, self._cloud))


def hypervisor_uuid(instance_id: str) -> str:
    """Return what ``/sys/hypervisor/uuid`` says on EC2: by its beginning cloud-init knows where it is."""
    digits = f"ec2{instance_id.removeprefix('i-'):0>29}"[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) + "\n"


def command(machine: Machine, image: Path) -> list[str]:
    """Return the command that boots an image over the machine's disk and ends with it."""
    return [
        *("/bin/sh", "-ec", _IN_GROUP, "sh", *map(str, cgroups.folders(machine.directory.name)), "--"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("--time", f"--monotonic={_back(time.CLOCK_MONOTONIC)}", f"--boottime={_back(time.CLOCK_BOOTTIME)}"),
        *("/bin/sh", "-ec", _script(machine, image)),
    ]


def _back(clock: int) -> int:
    """Return the whole seconds by which a machine's clock differs from this one's, so that its time begins now."""
    return 1 - int(time.clock_gettime(clock))


# Before its first `--`: the control groups to make and to be in. After it: the command.
_IN_GROUP = 'while [ "$1" != -- ]; do mkdir -p "$1"; echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"'


def _script(machine: Machine, image: Path) -> str:
    """Return what runs as the first process of the machine's own process and mount namespaces."""
    disk, quote = machine.disk, shlex.quote
    layers = f"lowerdir={image},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    # systemd-nspawn keeps its notes in /run; those of this machine go with it.
    return f"""
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o {quote(layers)} {quote(str(disk / "root"))}
exec env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network {shlex.join(_nspawn(machine))}
"""


def _nspawn(machine: Machine) -> list[str]:
    return [
        *("systemd-nspawn", "--quiet", "--boot", "--settings=no"),
        *(f"--directory={machine.disk / 'root'}", f"--machine={machine.directory.name}"),
        *("--register=no", "--keep-unit"),  # the host's systemd, if there is one, has no part in it
        "--network-namespace-path=/proc/self/ns/net",
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"),
        f"--bind-ro={machine.disk / 'uuid'}:/sys/hypervisor/uuid",
        "ci.ds=Ec2",  # to its init, which is where cloud-init in a container looks for the kernel's command line
    ]
