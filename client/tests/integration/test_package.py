"""The package of the client can be built and installed alone; without a network."""

import email
import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import click
import pytest

import fleetsight_client
from client.tests.support.results_api import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

PACKAGE = Path(__file__).parents[2]

BUILD = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: the build leaves files beside its source.
    source = folder / "client"
    for file in PACKAGE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            target = source / file.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    run(sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", BUILD, folder, cwd=source)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_says_what_it_needs(wheel: Path) -> None:
    with ZipFile(wheel) as content:
        names = set(content.namelist())
        metadata = email.message_from_bytes(content.read(next(name for name in names if name.endswith("METADATA"))))
    ours = {f"fleetsight_client/{file.name}" for file in (PACKAGE / "fleetsight_client").glob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == ours | {"fleetsight_client/py.typed"}
    needs = {line.partition(">")[0] for line in metadata.get_all("Requires-Dist", []) if "extra" not in line}
    assert needs == {"click", "rich", "urllib3"}
    assert metadata["Version"] == fleetsight_client.__version__


def test_the_installed_command_answers_help_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    # Its dependencies, from this environment: only they are needed.
    for name in ("click", "rich", "urllib3", "pygments", "markdown_it", "mdurl"):
        (site / name).symlink_to(Path(click.__file__).parents[1] / name)
    shown = run(tmp_path / "venv" / "bin" / "fleetsight", "classify", "--help", cwd=tmp_path, PYTHONPATH="")
    assert "fleetsight classify [OPTIONS] FOLDER..." in shown
    assert run(tmp_path / "venv" / "bin" / "fleetsight", "--version", cwd=tmp_path, PYTHONPATH="").startswith(
        f"fleetsight-client {fleetsight_client.__version__}"
    )
