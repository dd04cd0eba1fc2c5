"""Checks of this machine: Python and packages, settings, port, disk, memory and bundle."""

import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, ok, problem, warning
from scripts.home import is_this_machine

INSTALL: Final = "./scripts/setup.sh run"
INSTALL_AGAIN: Final = "rm -f .venv/.installed-run && ./scripts/setup.sh run"
"""Installs packages that are missing although the set-up has recorded that they are installed."""

PYTHON_SECONDS: Final = 20.0
"""The longest time that Python may take to print its version."""

INSTALLED_BYTES: Final = 700 * 10**6
"""Disk space that an installation needs, as in scripts/setup.sh."""

MIN_FREE_BYTES: Final = 100 * 10**6
LOW_FREE_BYTES: Final = 2 * 10**9
"""Free disk space below which logs cannot be written soon, and below which no model and no image can be built."""

MIN_FREE_FILES: Final = 10_000
"""Free inodes below which a file system with room may still refuse files."""

PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""

WEB_TIER: Final = "web_tier.app:create_app()"
"""The argument by which a process of the web tier is recognised."""

ENDPOINT_VARIABLE: Final = "FLEETSIGHT__AWS__ENDPOINT_URL"
"""The variable with which ./scripts/run.sh passes the address of the local cloud to its processes."""


def check_python(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check the Python of .venv; scripts/fleetsight has checked the version of the one that runs this."""
    if not system.venv_python.exists():
        yield problem(f"there is no .venv, and this is Python {sys.version.split()[0]}", INSTALL)
        return
    done = subprocess.run(
        [str(system.venv_python), "-c", "import sys; print(sys.version.split()[0])"],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=PYTHON_SECONDS,
        env={**system.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    if done.returncode:
        yield problem(f"the Python of .venv does not run: {done.stderr.strip()}", f"rm -rf .venv && {INSTALL}")
    elif tuple(map(int, re.findall(r"\d+", done.stdout)[:2])) < (3, 11):
        yield problem(f"{done.stdout.strip()} in .venv is older than 3.11", f"rm -rf .venv && {INSTALL}")
    else:
        yield ok(f"{done.stdout.strip()} in .venv")


def check_packages(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Compare the packages in .venv with those that requirements/run.txt pins for the system."""
    pinned = pinned_packages((system.root / "requirements" / "run.txt").read_text(encoding="utf-8"))
    folders = [str(path) for path in system.root.glob(".venv/lib*/python3*/site-packages")]
    installed = {
        _normal_name(each.metadata["Name"]): each.version
        for each in distributions(path=folders)
        if each.metadata["Name"]
    }
    missing = sorted(pinned.keys() - installed.keys())
    others = sorted(name for name in pinned.keys() & installed.keys() if pinned[name] != installed[name])
    if missing:
        yield problem(f"{len(missing)} of {len(pinned)} are missing: {', '.join(missing)}", INSTALL_AGAIN)
    if others:
        words = ", ".join(f"{name} {installed[name]} instead of {pinned[name]}" for name in others)
        yield warning(f"{len(others)} have another version: {words}", INSTALL_AGAIN)
    if not missing and not others:
        yield ok(f"all {len(pinned)} are installed")


def pinned_packages(requirements: str) -> dict[str, str]:
    """Return the versions of the packages in a file of requirements for all platforms, by name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; (?!.*sys_platform).+)? \\$", requirements, re.MULTILINE)
    return {_normal_name(name): version for name, version in found}


def _normal_name(name: str) -> str:
    """Return the name of a package as pip compares it.

    https://packaging.python.org/en/latest/specifications/name-normalization/
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def check_settings(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Validate the configuration."""
    from core.config import PREFIX, config_path
    from services.errors import FleetsightError

    try:
        config = system.config
    except FleetsightError as error:
        yield problem(str(error), "Correct what the message names.")
        return
    own = sum(name.startswith(PREFIX) for name in system.environment)
    overrides = f", with {own} of the environment's variables" if own else ""
    source = config_path(system.environment, system.root)
    yield ok(f"{source}{overrides}; sign-in {config.auth.mode}, model {config.worker.bundle}")


def check_sandbox(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Start a process of the kind that opens images."""
    from core.sandbox.pool import require_limits
    from core.sandbox.process import MissingLimitsError

    try:
        require_limits("required")
    except MissingLimitsError as error:
        kind = problem if system.config.sandbox.limits == "required" else warning
        yield kind(error.found, error.remedy)
    else:
        yield ok("processes that open images have all limits")


def check_port(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Find out who holds the port of the page."""
    host, port = system.address
    if system.given_url is not None and not is_this_machine(host):
        yield ok(f"not checked: {host} is not this machine")
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                yield problem(
                    f"cannot listen on {host}:{port}: {error.strerror}",
                    "Set web.host and web.port to an own address.",
                )
                return
        else:
            yield ok(f"{port} is free")
            return
    holder = port_holder(port)
    if holder is None:
        yield problem(f"{port} is held by a process that this user may not see", f"sudo ss -ltnp sport = :{port}")
    elif holder.is_web_tier and holder.endpoint == system.endpoint:
        yield ok(f"{port} is held by this system's web tier (process {holder.pid})")
    else:
        web = ", the web tier of another system" if holder.is_web_tier else ""
        yield problem(
            f"{port} is held by {holder.name}{web} (process {holder.pid})",
            f"Stop it (kill {holder.pid}), or use another port: ./scripts/run.sh --port {port + 1}",
        )


@dataclass(frozen=True)
class PortHolder:
    """A process that listens on a port, without its arguments and environment, which may contain secrets.

    Attributes:
        endpoint: of the cloud, if it is a web tier; None for AWS.
    """

    pid: int
    name: str
    is_web_tier: bool
    endpoint: str | None = None


def port_holder(port: int, proc: Path = PROC) -> PortHolder | None:
    """Return the process that listens on a TCP port, the oldest of several; None if it is not visible."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    if not sockets:
        return None
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdecimal()):
        folder = proc / str(pid)
        try:
            if any(str(each.readlink()) in sockets for each in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                name = (folder / "comm").read_text(errors="replace").strip()
                variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                urls = [each.partition("=")[2] for each in variables if each.startswith(f"{ENDPOINT_VARIABLE}=")]
                return PortHolder(pid, name, WEB_TIER in words, next(iter(urls), None))
        except OSError:  # it has ended, or belongs to another user
            continue
    return None


def _listening_inodes(port: int, proc: Path) -> set[str]:
    """Return the inodes of the sockets that listen on a port (man 5 proc_pid_net)."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(words[9])
    return inodes


def check_disk(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check that files can be written here and in the folder of temporary files, and that there is room."""
    needed = MIN_FREE_BYTES if system.venv_python.exists() else INSTALLED_BYTES
    # The system makes its folder in the checkout when it starts.
    written = system.home if system.home.exists() else system.root
    for folder in (written, Path(tempfile.gettempdir())):
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        has = f"{free / 1e9:.1f} GB are free in {folder}"
        if not os.access(folder, os.W_OK | os.X_OK):
            yield problem(f"this user may not write to {folder}", f"sudo chown -R $USER {folder}")
        elif free < needed:
            yield problem(f"{has}, and {needed / 1e9:.1f} GB are needed", "Free some space.")
        elif status.f_files and status.f_favail < MIN_FREE_FILES:
            yield problem(f"only {status.f_favail} files can be created in {folder}", "Delete files (df -i).")
        elif free < LOW_FREE_BYTES:
            yield warning(f"{has}: too little to build a model or a machine image", "Free some space.")
        else:
            yield ok(has)


def check_memory(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Compare the available memory with what a worker, and all that are started, take."""
    lines = (PROC / "meminfo").read_text().splitlines()
    figures = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    free = figures.get("MemAvailable", figures["MemFree"])
    try:
        from app_tier.sizing import fitting_workers, this_machine, worker_bytes
    except ImportError as error:
        yield warning(f"{free / 1e9:.1f} GB are available; how many workers fit is unknown: {error}", INSTALL)
        return

    machine, config = this_machine(), system.config.worker
    bundle = system.root / config.bundle
    weights = max((file.stat().st_size for file in bundle.glob("*.bin")), default=0) if bundle.is_dir() else 0
    each = worker_bytes(config.engine, weights)
    workers = fitting_workers(machine, each)
    has = (
        f"{free / 1e9:.1f} of {machine.memory_bytes / 1e9:.1f} GB are available; "
        f"{workers} worker{'' if workers == 1 else 's'} of {each / 1e9:.2f} GB fit this machine"
    )
    if free < each:
        yield problem(f"{has}, and there is no room for one now", "End other programs.")
    elif free < workers * each:
        yield warning(f"{has}, and there is no room for all of them now", "End other programs.")
    else:
        yield ok(has)


def check_bundle(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Compare the digest of each file of the model bundle with its manifest."""
    from app_tier.bundle import load_bundle, load_zip
    from core.bundle_manifest import BundleError

    where, pin = system.config.worker.bundle, system.config.worker.bundle_sha256
    remedy = "Restore it (git checkout -- app_tier/demo), or build one: ./scripts/fleetsight model build resnet18"
    if str(where).startswith("s3:"):
        yield ok("it is in S3, where ./scripts/fleetsight model verify s3://BUCKET/KEY checks it")
        return
    place = system.root / where
    try:
        with tempfile.TemporaryDirectory(prefix="fleetsight-doctor-") as scratch:
            is_zip = place.suffix.lower() == ".zip" and place.is_file()
            # A worker would unpack a zip into its cache, and this command changes nothing.
            bundle = load_zip(place, Path(scratch), pin) if is_zip else load_bundle(place, pin)
    except BundleError as error:
        yield problem(str(error), remedy)
    else:
        yield ok(f"{bundle.name}, {len(bundle.labels)} labels, digest {bundle.digest[:12]}; all files are as built")
