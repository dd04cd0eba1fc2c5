"""The steps of a local build: commands with clear errors, in a container or not, and folders that are whole."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.errors import FleetsightError

TOOLS = ("debootstrap", "systemd-nspawn", "unshare")

OWN_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command with mounts and processes of its own, which end with the command, also when it is killed.

debootstrap mounts /proc in the folder that it fills. Without a namespace of its own, a killed debootstrap leaves that
mount behind, and deleting the folder as root walks through it.
"""


class ImageToolMissingError(FleetsightError):
    """Raised when this machine cannot make images; the message names what is missing and how to get it."""


class ImageBuildError(FleetsightError):
    """Raised when an image could not be made; the message ends with what the failed step said last."""


def need_tools() -> None:
    """Check that this machine can make images.

    Raises:
        ImageToolMissingError: it cannot.
    """
    if os.geteuid() != 0:
        raise ImageToolMissingError("only root can make an image: run this as root")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise ImageToolMissingError(
            f"there is no {' and no '.join(missing)}; "
            "on Debian and Ubuntu: apt install debootstrap systemd-container util-linux"
        )


def inside_of(root: Path, *options: str) -> tuple[str, ...]:
    """Return the beginning of a command that runs in the system in `root`, without a network.

    Args:
        root: of the file system.
        options: more of systemd-nspawn; `--volatile=overlay` keeps what is written from `root`.
    """
    # nspawn keeps notes in /run, which no other program needs: in a mount namespace of its own they go with it. And
    # nspawn that is killed leaves its container behind, but not in a process namespace that ends with this command.
    alone = 'mkdir -p /run/systemd/nspawn; mount -t tmpfs tmpfs /run/systemd/nspawn; exec "$@"'
    return (
        *(*OWN_NAMESPACES, "sh", "-ec", alone, "sh"),
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "--private-network"),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", f"--directory={root}", *options),
    )


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """Give a place for `folder` to be made in, and its name at the end: what is there is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".new-{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        yield new
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def run(failed: str, command: Sequence[str], seconds: float, why: Callable[[str], None] | None = None) -> None:
    """Run `command`; its output is shown only in the error.

    Raises:
        ImageBuildError: it failed, or took longer than `seconds`.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageBuildError(f"{failed}: {command[0]} was not done after {seconds:.0f} s") from error
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        if why is not None:
            why(said)
        raise ImageBuildError(f"{failed}: {command[0]} ended with {done.returncode}\n{said[-3_000:]}")
