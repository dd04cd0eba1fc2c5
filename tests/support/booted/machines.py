"""Machines that boot an image by systemd-nspawn: instances of the local cloud, and the workers of a system.

All kernel resources of a booted image belong to the one process that its directory names. This is `unshare`, which
holds a process namespace with systemd-nspawn as its first process. When it is killed, the kernel kills all processes
in the namespace, the image's init included, and then releases their mounts, which no other process sees, and the
network.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.config import PATH_VARIABLE
from localcloud.launch import LocalCloud
from localcloud.machines.backends import ProcessBackend
from localcloud.machines.machine import PATH, Machine, Process
from localcloud.machines.metadata import MetadataServer
from scripts.run.system import System
from tests.support.booted.images import LocalImage
from tests.support.booted.leftovers import cgroup_folders, discard, disk_of
from tests.support.booted.network import ConnectionRelay, in_new_network, listen_in
from tests.support.processes import children_of

TOOLS = {"systemd-nspawn": "systemd-container", "unshare": "util-linux", "mount": "mount", "ip": "iproute2"}
"""The commands that nspawn machines need, with their packages of Debian and Ubuntu."""

TIME_NAMESPACE = Path("/proc/self/ns/time")
"""Exists if a machine's clock can begin at its boot. Otherwise a timer that counts from boot would expire at once."""

POWER_OFF_SECONDS = 0.1
"""Interval between requests to power off; unlike systemd-nspawn, init accepts repeated ones."""

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


class NspawnBackend(ProcessBackend):
    """Boots each instance's image, the folder in `images` that has the image's id as its name.

    The image is only read: files that an instance writes are in its own directory until it is terminated. Its network
    contains only its metadata service at 169.254.169.254, and the cloud at the address that it has on the host. The
    image's cloud-init runs the user data.

    Raises:
        NspawnMissingError: this host cannot boot images.
    """

    grace_seconds = 6.0

    def __init__(self, endpoint_url: str, images: Path) -> None:
        check_tools()
        super().__init__(endpoint_url)
        parts, self._images = urlsplit(endpoint_url), images.absolute()
        self._cloud = parts.hostname or "127.0.0.1", parts.port or 80

    def boot(
        self, machine: Machine, identity: Mapping[str, Any]
    ) -> tuple[subprocess.Popen[bytes], contextlib.ExitStack]:
        """Boot the image; raises as `ProcessBackend.boot` does, also if the image does not exist."""
        image_id = identity["image_id"]
        found = sorted(path.name for path in self._images.glob("*") if (path / "usr").is_dir())
        if image_id not in found:
            machine.fail(f"there is no image {image_id} in {self._images}; there are: {', '.join(found) or 'none'}")
        for name in ("upper", "work", "root"):
            (disk_of(machine) / name).mkdir(parents=True, exist_ok=True)
        (disk_of(machine) / "uuid").write_text(hypervisor_uuid(machine.directory.name))

        child = in_new_network(lambda: machine.start(command(machine, self._images / image_id), {"LANG": "C.UTF-8"}))
        try:
            return child, self._serve(machine, child.pid)
        except OSError:
            os.killpg(child.pid, signal.SIGKILL)  # it leads its group, and has not been reaped yet
            child.wait()
            raise

    def attach(self, machine: Machine, process: Process) -> contextlib.ExitStack:
        """Start the services in the network of a running machine; raises as `ProcessBackend.attach` does."""
        return self._serve(machine, process.pid)

    def request_shutdown(self, process: Process) -> None:
        """Make the image's init power off."""
        threading.Thread(target=_power_off, args=(process,), daemon=True).start()

    def discard(self, machine: Machine) -> None:
        """Remove the disk and the control groups of a machine that has ended and will not start again."""
        discard(machine)

    def _serve(self, machine: Machine, pid: int) -> contextlib.ExitStack:
        metadata, cloud = listen_in(pid, self._cloud)
        services = contextlib.ExitStack()
        services.callback(ConnectionRelay(cloud, self._cloud).close)
        server = MetadataServer(self._endpoint_url, machine.directory.name, machine.directory, metadata)
        services.callback(server.close)
        return services


def _power_off(process: Process) -> None:
    """Signal the image's init until the machine has ended: one that just started loses signals, as nspawn does."""
    while process.alive():
        for nspawn in children_of(process.pid):
            for init in children_of(nspawn):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(init, _POWER_OFF)
        time.sleep(POWER_OFF_SECONDS)


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
    disk, quote = disk_of(machine), shlex.quote
    layers = f"lowerdir={image},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    nspawn = [
        *("systemd-nspawn", "--quiet", "--boot", "--settings=no"),
        *(f"--directory={disk / 'root'}", f"--machine={machine.directory.name}"),
        *("--register=no", "--keep-unit"),  # independent of the host's systemd
        "--network-namespace-path=/proc/self/ns/net",
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"),
        f"--bind-ro={disk / 'uuid'}:/sys/hypervisor/uuid",
        "ci.ds=Ec2",  # argument of its init, where cloud-init in a container looks for the kernel's command line
    ]
    # systemd-nspawn stores its state in /run; this machine's state must end with the machine.
    return f"""
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o {quote(layers)} {quote(str(disk / "root"))}
exec env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network {shlex.join(nspawn)}
"""


class BootedCloud(LocalCloud):
    """A local cloud with instances that boot the images in a folder, each in a folder of its id."""

    def __init__(self, state_dir: Path, images: Path, **options: Any) -> None:
        super().__init__(state_dir, **options)
        self.program = booted_program(images)


@dataclass
class BootedSystem(System):
    """A system with instances that boot `image`."""

    image: LocalImage = field(kw_only=True)

    def _start(self, name: str, *arguments: str) -> None:
        if name == "hypervisor":
            arguments = (*booted_program(self.image.root.parent), *arguments[2:])
        super()._start(name, *arguments)

    def _environment(self) -> dict[str, str]:
        # The image has a configuration and a bundle of its own, and a start script, as on AWS.
        excluded = {PATH_VARIABLE, "FLEETSIGHT__WORKER__BUNDLE"}
        settings = sorted((name, value) for name, value in self._settings.items() if name not in excluded)
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings)
        script = f"#!/bin/sh\n{exports}exec /opt/fleetsight/start worker\n"
        image_id = self.image.image_id
        own = {"FLEETSIGHT__FLEET__USER_DATA": json.dumps(script), "FLEETSIGHT__FLEET__IMAGE_ID": image_id}
        return super()._environment() | own


def booted_program(images: Path) -> tuple[str, ...]:
    """Return the arguments of Python for ``python -m localcloud`` with instances that boot these images."""
    return ("-m", "tests.support.booted", str(images.absolute()))
