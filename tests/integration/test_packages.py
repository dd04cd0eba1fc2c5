"""`client` and `localcloud` are built, installed alone and used without a network; files of the container image."""

import ast
import email
import os
import re
import signal
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from shutil import copytree, ignore_patterns
from zipfile import ZipFile

import boto3
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fleetsight_client
import localcloud
from client.tests.support.results_api import ResultsApi, served
from tests.conftest import ROOT
from tests.support.container import ignored_patterns, stages
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

BUILD = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
VERSIONS = {"fleetsight_client": fleetsight_client.__version__, "localcloud": localcloud.__version__}
FOR_MOTO = {"flask", "flask-cors"}
"""What moto's server imports and moto does not require, so the local cloud does."""


@dataclass(frozen=True)
class Package:
    """A package, and the folder of its project."""

    project: Path
    folder: Path

    @property
    def modules(self) -> set[str]:
        """The names of the package's modules, without its tests."""
        paths = (path.relative_to(self.folder.parent) for path in self.folder.rglob("*.py"))
        return {str(path) for path in paths if "tests" not in path.parts}

    @property
    def needs(self) -> list[Requirement]:
        """What is installed with the package, without its extras."""
        described = tomllib.loads((self.project / "pyproject.toml").read_text(encoding="utf-8"))
        return list(filter(is_needed, map(Requirement, described["project"]["dependencies"])))


PACKAGES = {
    "client": Package(ROOT / "client", ROOT / "client" / "fleetsight_client"),
    "localcloud": Package(ROOT / "localcloud", ROOT / "localcloud"),
}
EACH_PACKAGE = pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)


@dataclass(frozen=True)
class Wheel:
    """A wheel, and the package that it was built of."""

    path: Path
    package: Package

    def install(self, folder: Path) -> Path:
        """Install the wheel in an empty environment with what it requires; return the folder of programs."""
        venv.create(folder, with_pip=False)
        programs = folder / "bin"
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", programs / "python")
        run(*pip, "install", "--no-index", "--no-deps", self.path, cwd=folder)
        [site] = (folder / "lib").glob("python3*/site-packages")
        for entry in {entry for need in self.package.needs for entry in files_of(need)}:
            (site / entry.name).symlink_to(entry)
        return programs


def files_of(requirement: Requirement) -> set[Path]:
    """Return the files and folders of a requirement, and of all that it requires, in this environment."""
    found, left, seen = set[Path](), [requirement], set[tuple[str, str]]()
    while left:
        need = left.pop()
        for extra in {"", *need.extras} - {extra for name, extra in seen if name == need.name}:
            seen.add((need.name, extra))
            installed = distribution(need.name)
            tops = {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}
            found |= {Path(str(installed.locate_file(top))) for top in tops}
            left += [each for each in map(Requirement, installed.requires or []) if is_needed(each, extra)]
    return found


def is_needed(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """Return the wheels of both packages. Each is built of a copy, since the build leaves files beside its source."""
    made = {}
    for name, package in PACKAGES.items():
        folder = tmp_path_factory.mktemp("wheel")
        ignored = ignore_patterns("__pycache__", "build", "*.egg-info")
        copy = copytree(package.project, folder / name, ignore=ignored)
        run(sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", BUILD, folder, cwd=copy)
        [path] = folder.glob("*.whl")
        made[name] = Wheel(path, package)
    return made


@pytest.mark.thorough
@pytest.mark.parametrize("name", PACKAGES)
def test_the_wheel_has_every_module_and_no_test(name: str, wheels: dict[str, Wheel]) -> None:
    with ZipFile(wheels[name].path) as content:
        modules = {name for name in content.namelist() if name.endswith(".py")}
        [described] = [name for name in content.namelist() if name.endswith("METADATA")]
        metadata = email.message_from_bytes(content.read(described))
    assert modules == wheels[name].package.modules
    assert metadata["Version"] == VERSIONS[wheels[name].package.folder.name]


@EACH_PACKAGE
def test_a_package_requires_what_its_modules_import(package: Package) -> None:
    imported = set[str]()
    for name in package.modules:
        for node in ast.walk(ast.parse((package.folder.parent / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    others = imported - sys.stdlib_module_names - {package.folder.name}
    found = packages_distributions()
    extras = {"pillow", "pillow-heif", "pyarrow"} if package.folder.name == "fleetsight_client" else FOR_MOTO
    assert {canonicalize_name(found[name][0]) for name in others} ^ {need.name for need in package.needs} == extras


@EACH_PACKAGE
def test_the_requirements_hold_for_the_pinned_versions(package: Package) -> None:
    pinned = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^ \n]+)", pinned, re.MULTILINE))
    assert [str(need) for need in package.needs if not need.specifier.contains(versions[need.name])] == []


@pytest.mark.thorough
def test_the_installed_client_classifies(wheels: dict[str, Wheel], tmp_path: Path) -> None:
    programs = wheels["client"].install(tmp_path / "venv")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"cat")
    own = {"PYTHONPATH": "", "XDG_STATE_HOME": str(tmp_path / "state")}
    with served(ResultsApi().app()) as url:
        run(programs / "fleetsight", "classify", "photos", "--url", url, "--out", "r.csv", cwd=tmp_path, **own)
    assert "a.jpg,done,cat" in (tmp_path / "r.csv").read_text(encoding="utf-8")
    shown = run(programs / "fleetsight", "--version", cwd=tmp_path, PYTHONPATH="")
    assert shown.startswith(f"fleetsight-client {fleetsight_client.__version__}")


@pytest.mark.thorough
def test_the_installed_local_cloud_stores_an_object(wheels: dict[str, Wheel], tmp_path: Path) -> None:
    programs = wheels["localcloud"].install(tmp_path / "venv")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHONPATH"))}
    command = [str(programs / "python"), "-m", "localcloud"]
    with subprocess.Popen(command, cwd=tmp_path, env=inherited, stdout=subprocess.PIPE, text=True) as cloud:
        assert cloud.stdout is not None
        printed = dict(cloud.stdout.readline().strip().split("=", 1) for _ in range(5))
        s3 = boto3.client(
            "s3",
            endpoint_url=printed["AWS_ENDPOINT_URL"],
            aws_access_key_id=printed["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=printed["AWS_SECRET_ACCESS_KEY"],
            region_name=printed["AWS_DEFAULT_REGION"],
        )
        s3.create_bucket(Bucket="photos")
        s3.put_object(Bucket="photos", Key="a", Body=b"content")
        assert s3.get_object(Bucket="photos", Key="a")["Body"].read() == b"content"
        cloud.send_signal(signal.SIGTERM)
    assert cloud.returncode == 0


def test_each_file_of_the_container_image_is_in_git_and_in_the_build_context() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    known = [Path(line) for line in listed.stdout.splitlines()]
    sources = [source for stage in stages() for sources, _ in stage.copies for source in sources]
    assert sources
    for source in sources:
        assert any(path == Path(source) or Path(source) in path.parents for path in known), source
        assert not any(fnmatchcase(source.rstrip("/"), pattern) for pattern in ignored_patterns()), source
