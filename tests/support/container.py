"""The container image: the instructions of its Dockerfile as data, and Docker's command by podman."""

import fcntl
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.conftest import ROOT
from tests.support.booted.images import ImageToolMissingError, debian, need_tools, wheels

DOCKERFILE = ROOT / "Dockerfile"

_CONTINUED = re.compile(r"\\\n\s*")


@dataclass(frozen=True)
class Stage:
    """A stage of a Dockerfile: the name and the digest of its base, and its instructions with their arguments."""

    base: str
    digest: str
    instructions: tuple[tuple[str, str], ...]

    def of(self, name: str) -> list[str]:
        """Return the arguments of the instructions of a kind."""
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def command(self, name: str) -> list[str]:
        """Return the words of the only instruction of a kind that has a JSON array."""
        [arguments] = self.of(name)
        return [str(word) for word in json.loads(arguments[arguments.index("[") :])]

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The variables that ENV sets."""
        words = [word for arguments in self.of("ENV") for word in shlex.split(arguments)]
        return dict(word.split("=", 1) for word in words)

    @cached_property
    def copies(self) -> list[tuple[list[str], str]]:
        """The sources and the target of each COPY from the checkout."""
        lines = [shlex.split(arguments) for arguments in self.of("COPY")]
        return [(words[:-1], words[-1]) for words in lines if not words[0].startswith("--")]


def ignored_patterns() -> list[str]:
    """Return the patterns of files that the build context leaves out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def stages() -> list[Stage]:
    """Return the stages of the Dockerfile, the last of which is the image."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    found: list[tuple[tuple[str, str, str], list[tuple[str, str]]]] = []
    for line in filter(None, map(str.strip, _CONTINUED.sub("", text).splitlines())):
        instruction, arguments = line.split(None, 1)
        if instruction == "FROM":
            found.append((arguments.split()[0].partition("@"), []))
        else:
            found[-1][1].append((instruction, arguments))
    return [Stage(base, digest, tuple(instructions)) for (base, _, digest), instructions in found]


def copy_context(folder: Path, *, has_bases: bool) -> None:
    """Make a folder with the files of this checkout that the image is built of, and no others.

    Unless `has_bases`, other images have the names of the bases, and cannot have their digests.
    """
    folder.mkdir()
    sources = [source for stage in stages() for sources, _ in stage.copies for source in sources]
    for name in ("Dockerfile", "compose.yaml", ".dockerignore", *sources):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    if not has_bases:
        text = DOCKERFILE.read_text()
        for stage in stages():
            text = text.replace(f"@{stage.digest}", "")
        (folder / DOCKERFILE.name).write_text(text)


def has_docker() -> bool:
    """Return whether a Docker engine answers."""
    command = shutil.which("docker")
    return command is not None and not subprocess.run([command, "info"], capture_output=True, check=False).returncode


PODMAN = """#!/bin/sh
# Without systemd podman cannot repeat a health check, and waits for systemd in vain.
case $1 in
  build) options="--pull=never --volume {wheels}:/wheels:ro --volume {folder}/pip.conf:/etc/pip.conf:ro" ;;
  run | create) options="--pull=never --no-healthcheck" ;;
  *) exec {podman} "$@" ;;
esac
verb=$1
shift
exec {podman} "$verb" $options "$@"
"""

DOCKER = """#!/bin/sh
if [ "$1" = compose ]; then
  shift
  exec {python} -m podman_compose --podman-path {folder}/bin/podman "$@"
fi
exec {folder}/bin/podman "$@"
"""

BASE = """FROM localhost/debian
RUN python3 -m venv /usr/local/python
ENV PATH=/usr/local/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
"""Stands for Docker Hub's image of Python, which is Debian with a Python that has pip."""


MAX_LIMIT = 16_384
"""Open files and processes of a container: enough for the system, and less than most machines allow."""


@contextmanager
def docker_by_podman(cache: Path) -> Iterator[Mapping[str, str]]:
    """Yield an environment in which `docker` is podman, with the Dockerfile's base, and with nothing of other users.

    Neither a registry nor a daemon is needed: the base is made of Debian's packages, and Python's packages come from
    a folder, with the same hashes. All that podman stores is below `cache`, and removed at the end. What a run that
    was killed has left is removed at the beginning.

    Args:
        cache: has Debian and the packages.

    Raises:
        ImageToolMissingError: a tool is missing, or the user is not root.
    """
    need_tools()
    podman = shutil.which("podman")
    if podman is None or shutil.which("runc") is None:
        raise ImageToolMissingError("there is no podman or no runc; on Debian and Ubuntu: apt install podman runc")
    root, packages = debian(cache / "base", print), wheels(cache / "wheels", print)
    folder = cache.resolve() / "containers"
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    # podman's own limits are higher than what this process may set.
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    limits = {name: min(resource.getrlimit(kind)[1] % 2**63, MAX_LIMIT) for name, kind in kinds.items()}
    ulimits = [f"{name}={limit}:{limit}" for name, limit in limits.items()]
    (folder / "containers.conf").write_text(
        f"[containers]\ndefault_ulimits = {json.dumps(ulimits)}\n"
        f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        f'tmp_dir = "{folder}/engine"\n'
        f'[network]\nnetwork_config_dir = "{folder}/networks"\n'
    )
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    for name, text in (("podman", PODMAN), ("docker", DOCKER)):
        script = folder / "bin" / name
        script.write_text(text.format(folder=folder, podman=podman, wheels=packages.resolve(), python=sys.executable))
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BUILDAH_FORMAT": "docker",  # the only format with health checks
        "BUILDAH_ISOLATION": "chroot",
    }

    def run(*command: str, stdin: str = "") -> None:
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("podman", "system", "reset", "--force")
        try:
            unused = " ".join(f"--exclude=./usr/share/{name}" for name in ("doc", "i18n", "locale", "man"))
            run("sh", "-c", f'tar -C "{root}" {unused} -c . | podman import - localhost/debian')
            run("podman", "build", "--tag", f"docker.io/library/{stages()[0].base}", "-", stdin=BASE)
            yield environment
        finally:
            run("podman", "system", "reset", "--force")
            shutil.rmtree(folder)
