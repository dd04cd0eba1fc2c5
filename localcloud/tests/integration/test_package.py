"""The package of the local cloud can be built and installed alone; without a network."""

import email
import os
import socket
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import boto3
import pytest
from botocore.exceptions import BotoCoreError

import localcloud
from localcloud.access_keys import owner_key
from localcloud.launch import REGION
from localcloud.tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

PACKAGE = Path(localcloud.__file__).parent
BUILD = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: the build leaves files beside its source.
    source = folder / "localcloud"
    for file in PACKAGE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            target = source / file.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=source, check=True, timeout=DEADLINE_SECONDS)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_no_test(wheel: Path) -> None:
    with ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in content.namelist() if name.endswith("METADATA"))
        version = email.message_from_bytes(content.read(metadata))["Version"]
    modules = {file.relative_to(PACKAGE.parent) for file in PACKAGE.rglob("*.py") if "tests" not in file.parts}
    assert {name for name in names if name.endswith(".py")} == {file.as_posix() for file in modules}
    assert version == localcloud.__version__


def test_the_installed_cloud_stores_an_object_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    with ZipFile(wheel) as content:
        content.extractall(site)
    # Its dependencies, from this environment, but not the checkout that this environment may name.
    (site / "dependencies.pth").write_text(str(Path(boto3.__file__).parents[1]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("wb") as log:
        arguments = ["cloud", "--no-compute", "--fd", str(listener.fileno())]
        cloud = subprocess.Popen(
            [tmp_path / "venv" / "bin" / "python", "-m", "localcloud", *arguments],
            cwd=tmp_path,
            env=environment | owner_key().environment,
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=log,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        s3 = boto3.client("s3", REGION, endpoint_url=address)
        s3.create_bucket(Bucket="photos")
        s3.put_object(Bucket="photos", Key="a.jpg", Body=b"image")
        assert s3.get_object(Bucket="photos", Key="a.jpg")["Body"].read() == b"image"
    except BotoCoreError as error:
        raise AssertionError((tmp_path / "log").read_text()) from error
    finally:
        cloud.terminate()
        cloud.wait(DEADLINE_SECONDS)
