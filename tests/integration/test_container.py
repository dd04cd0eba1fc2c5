"""The image's command runs without rights, with a file system that it may only read, a state and a /tmp.

`tests/image/test_container.py` builds and runs the image, which needs Docker, or podman and root. This does what the
image does with the same files, variables, command and health check, as an unprivileged user.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import free_port
from tests.conftest import ROOT
from tests.support.container import ignored_patterns, stages
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

USER = 10001


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A copy of what the image has, which no user may write, below a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="fleetsight-image-") as scratch:
        Path(scratch).chmod(0o755)
        folder = Path(scratch) / "opt"
        folder.mkdir()
        for sources, target in (copy for stage in stages() for copy in stage.copies):
            for source in sources:
                if (ROOT / source).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, folder / target, ignore=ignore)
                else:
                    shutil.copy(ROOT / source, folder / target)
        packages = folder / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        subprocess.run([base_python(), "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
        packages.rmdir()
        packages.symlink_to(sysconfig.get_path("purelib"))
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222 | (0o555 if path.is_dir() else 0o444))
        yield folder
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def unprivileged() -> list[str]:
    """Return the words before a command that run it as another user without rights, or nothing if this is one."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is missing: this test must not run as root")
    return [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]


def base_python() -> str:
    """Return a Python of this version that the user without rights can run: that of this .venv may be in a home."""
    name = f"python3.{sys.version_info.minor}"
    for candidate in (str(Path(sys.executable).resolve()), shutil.which(name, path="/usr/local/bin:/usr/bin")):
        command = [*unprivileged(), "sh", "-c", 'exec "$0" -c "import venv"', str(candidate)]
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return str(candidate)
    pytest.skip(f"there is no {name} that the user {USER} can run")


@contextmanager
def command(root: Path, state: Path, port: int) -> Iterator[dict[str, str]]:
    """Run the image's command until the block ends; yield its environment."""
    image = stages()[-1]
    environment = {
        **image.environment,
        "PATH": f"{root}/.venv/bin:/usr/local/bin:/usr/bin:/bin",
        "FLEETSIGHT_HOME": str(state.parent / "home"),
        "FLEETSIGHT__WEB__PORT": str(port),
        "FLEETSIGHT__AUTH__OPEN": "true",
        "FLEETSIGHT__FLEET__MAX_WORKERS": "1",
    }
    words = [*image.command("ENTRYPOINT"), *image.command("CMD")]
    words = [str(state) if word == "/state" else word for word in words]
    log = state.parent / "log"
    with (
        log.open("a") as output,
        subprocess.Popen(
            [*unprivileged(), *words], cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            check = [*unprivileged(), *image.command("HEALTHCHECK")]

            def is_healthy() -> bool:
                assert process.poll() is None, log.read_text()
                return not subprocess.run(
                    check, cwd=root, env=environment, capture_output=True, check=False
                ).returncode

            wait_until(is_healthy, "the health check succeeds", details=log.read_text)
            yield environment
        finally:
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0, log.read_text()


def classify(api: ApiClient, seed: int) -> str:
    """Classify an image in a job of its own; return the job."""
    [sample] = samples(1, seed=seed)
    job_id = api.create_job("container")
    api.add_images(job_id, [(sample.filename, sample.data)])
    wait_until(lambda: api.status(job_id)["done"] == 1, "the image is classified")
    return job_id


def test_the_command_runs_read_only_and_its_state_outlives_it(root: Path) -> None:
    port, state = free_port(), root.parent / "data" / "state"
    state.mkdir(parents=True)
    if not os.geteuid():
        for path in (state.parent, state):
            os.chown(path, USER, USER)
    before = sorted(path for path in root.rglob("*"))
    with command(root, state, port) as environment:
        with closing(ApiClient(f"http://127.0.0.1:{port}")) as api:
            job_id = classify(api, seed=71)
        shown = subprocess.run(
            [*unprivileged(), "python", "-m", "scripts.cli", "fleet", "status"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
    with command(root, state, port), closing(ApiClient(f"http://127.0.0.1:{port}")) as api:
        assert [result["status"] for result in api.results(job_id)] == ["done"]
        classify(api, seed=72)
    assert sorted(path for path in root.rglob("*")) == before


def test_every_source_of_a_copy_is_in_git_and_in_the_build_context() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    known = [Path(line) for line in listed.stdout.splitlines()]
    sources = [source for stage in stages() for sources, _ in stage.copies for source in sources]
    assert sources
    for source in sources:
        assert any(path == Path(source) or Path(source) in path.parents for path in known), source
        assert not any(fnmatchcase(source.rstrip("/"), pattern) for pattern in ignored_patterns()), source
