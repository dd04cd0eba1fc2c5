"""The commands fail with one clear line that says what to do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import venv
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scripts.model.built_once import ModelNotBuiltError
from scripts.run.__main__ import main as run_command
from scripts.run.model import model_setting
from scripts.run.supervisor import Supervisor
from scripts.run.system import free_port
from tests.support.forked_system import ForkingSupervisor
from tests.support.processes import run_python
from tests.support.waiting import DEADLINE_SECONDS

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.processes


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def start_in_this_process(*arguments: str, **environment: str) -> Result:
    """Run `./scripts/run.sh` with options that it refuses; this process keeps its handlers of signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return CliRunner().invoke(run_command, arguments, env=environment)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def clone_of_setup(tmp_path: Path) -> Path:
    """A folder with the set-up alone, so that nothing here is touched."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path / "scripts" / "setup.sh"


@pytest.mark.parametrize(
    ("arguments", "installed"),
    [
        ("model build resnet18", "run torch"),
        ("model build photos", "photos run"),
        ("up --region us-east-1 --demo", "photos run"),
        ("model build net.onnx --spec net.yaml", "run"),
        ("model build net.pt2 --spec net.yaml", "run torch"),
        ("model build net.onnx --spec net.yaml --precision int8 --images cats", "run torch"),
        ("model build resnet18 --help", "run"),
        ("model build -h", "run"),
        ("docs --serve", "run docs"),
        ("load-test --count 5", "run"),
        ("", "run"),
    ],
)
def test_help_installs_nothing_that_only_its_command_needs(arguments: str, installed: str, tmp_path: Path) -> None:
    for name in ("scripts/setup.sh", ".venv/bin/python"):
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/{program.name}.log\n')
        program.chmod(0o755)
    shutil.copy(ROOT / "scripts" / "fleetsight", tmp_path / "scripts")
    assert run(tmp_path / "scripts" / "fleetsight", *arguments.split()).returncode == 0
    assert (tmp_path / "setup.sh.log").read_text() == f"{installed}\n"
    assert (tmp_path / "python.log").read_text().split() == ["-P", "-m", "scripts.cli", *arguments.split()]


@pytest.mark.parametrize(("program", "module"), [("run.sh", "scripts.run"), ("fleetsight", "scripts.cli")])
def test_help_and_version_are_answered_without_an_installation(program: str, module: str, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / program, tmp_path / "scripts")
    (tmp_path / "scripts" / "help").symlink_to(ROOT / "scripts" / "help")
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    for questions in (("--help", "-h"), ("--version",)):
        installed = run(sys.executable, "-m", module, questions[0], COLUMNS="80").stdout
        for question in questions:
            ended = run(tmp_path / "scripts" / program, question)
            assert (ended.returncode, ended.stdout) == (0, installed), "run python -m scripts.documentation.help"


def test_commands_import_nothing_that_takes_longer_than_they_do() -> None:
    names = ("cli", "dead_letters", "logs", "model.catalog", "model.group", "users")
    program = "".join(f"import scripts.{name}; " for name in names) + "import sys; print(*sys.modules)"
    assert {"boto3", "core.config", "numpy"} & {*run_python(program).stdout.split()} == set()
    program = "import sys, scripts.fleet, scripts.fleet_status; print(*sys.modules)"
    assert {"boto3", "flask", "numpy"} & {*run_python(program).stdout.split()} == set()


SWITCH = "--once --switch count_factor=2 --switch "


@pytest.mark.parametrize(
    ("arguments", "environment", "reported"),
    [
        ("--no-batch --once", {}, "--no-batch classifies nothing: leave out --once"),
        ("--no-bach", {}, "Did you mean '--no-batch'?"),
        ("--model resnet1", {}, "--model resnet1: no bundle has this path"),
        ("--once --images /nowhere/at/all", {}, "/nowhere/at/all"),
        ("--once", {"WORKER__BUNDLE": "no/such/bundle"}, "no/such/bundle: it has no bundle.json"),
        ("--once", {"WORKER__BUNDLE": "s3://models/resnet18"}, "s3://models/resnet18 cannot be here"),
        (SWITCH + "speed=3", {}, "--switch: speed: there is no such switch; there are boot_delay_seconds, "),
    ],
)
def test_what_a_system_cannot_start_with_is_named_before_the_start(
    arguments: str, environment: dict[str, str], reported: str
) -> None:
    variables = {f"FLEETSIGHT__{key}": value for key, value in environment.items()}
    ended = start_in_this_process(*arguments.split(), **variables)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert reported in ended.stderr
    assert ended.stderr.count("\n") == 1 or ended.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("program", "reason"), [("false", "could not be built: do what the line above says"), ("sleep 60", "interrupted")]
)
def test_a_build_that_fails_or_is_stopped_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, reason: str
) -> None:
    said: list[str] = []
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("scripts.model.built_once.MODELS_FOLDER", tmp_path)
    stop = threading.Event()
    if "sleep" in program:
        stop.set()
    with pytest.raises(ModelNotBuiltError, match=f"photos.*{reason}"):
        model_setting("photos", said.append, stop)
    assert said == ["Building photos once: this takes a second."]


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = start_in_this_process("--once", "--port", str(port))
    assert ended.exit_code == 2
    assert ended.stderr.strip() == (
        f"fleetsight: port {port} is in use: stop what uses it, or choose another with --port {port + 1}"
    )


def test_a_part_that_ends_at_each_start_ends_the_command_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.run.system.FAILED_STARTS", 2)
    monkeypatch.setattr(Supervisor, "spawn", ForkingSupervisor.spawn)
    missing = tmp_path / "missing.pem"
    ended = start_in_this_process("--once", "--port", str(free_port()), GUNICORN_CMD_ARGS=f"--certfile={missing}")
    assert ended.exit_code == 2
    assert f'at last with status 1: ValueError: certfile "{missing}" does not exist; see' in ended.stderr


def test_a_wrong_key_of_the_configuration_is_named_with_its_value() -> None:
    ended = start_in_this_process("--once", FLEETSIGHT__FLEET__MAX_WORKERS="many")
    assert ended.exit_code == 2
    assert "fleet.max_workers (from FLEETSIGHT__FLEET__MAX_WORKERS) = 'many'" in ended.stderr


def test_setup_names_the_required_python(tmp_path: Path) -> None:
    setup = clone_of_setup(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "mkdir", "head", "awk", "env"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    ended = run(setup, "run", PATH=str(tools), PYTHON="")
    assert ended.returncode == 2
    assert "needs Python 3.11 or newer" in ended.stderr


def environment_with_pip(folder: Path) -> None:
    """Make `.venv` with pip, which is that of these tests: to install pip takes most of the time of the set-up."""
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    [installed] = {path.parent for path in Path(sys.prefix).glob("lib/python3*/site-packages/pip")}
    (packages / "pip").symlink_to(installed / "pip")
    (folder / "bin" / "pip").symlink_to(Path(sys.prefix) / "bin" / "pip")


@pytest.fixture(scope="module")
def setup_without_an_index(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """A folder in which the set-up could not install anything, and how it ended."""
    folder = tmp_path_factory.mktemp("setup")
    setup = clone_of_setup(folder)
    environment_with_pip(folder / ".venv")
    with socket.create_server(("127.0.0.1", 0)) as unanswered:
        port = unanswered.getsockname()[1]
    nowhere = {
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }
    return folder, run(setup, "run", **nowhere)


def test_setup_reports_a_missing_package_index(
    setup_without_an_index: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    _, ended = setup_without_an_index
    assert ended.returncode == 2
    assert "cannot reach the Python package index" in ended.stderr


def pin_of_wheel(folder: Path, name: str, source: str = "") -> str:
    """Write a wheel of a package with one module; return the line of requirements that pins it."""
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", f"{name}.py,,\n{name}-1.0.dist-info/RECORD,,\n")
    return f"{name}==1.0 --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"


def test_setup_installs_only_files_with_pinned_hashes(
    tmp_path: Path, setup_without_an_index: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    setup = clone_of_setup(tmp_path)
    shutil.copytree(setup_without_an_index[0] / ".venv", tmp_path / ".venv", symlinks=True)
    own = pin_of_wheel(tmp_path, "thing")
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    for pin, status in ((f"thing==1.0 --hash=sha256:{'0' * 64}\n", 2), (own, 0)):
        (tmp_path / "requirements" / "run.txt").write_text(pin)
        ended = run(setup, "run", **pip)
        assert ended.returncode == status, ended.stderr
        assert ("is not the file that requirements/run.txt names by its hash" in ended.stderr) is bool(status)
    assert list((tmp_path / ".venv").glob("lib/python3*/site-packages/thing.py"))


def test_setup_continues_without_the_optional_section_and_tries_it_again_only_alone(
    tmp_path: Path, setup_without_an_index: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    setup = clone_of_setup(tmp_path)
    shutil.copytree(setup_without_an_index[0] / ".venv", tmp_path / ".venv", symlinks=True)
    pinned = (tmp_path / "requirements" / "telemetry.txt").read_bytes()
    stamp = subprocess.run(["cksum"], input=pinned, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / ".venv" / ".installed-telemetry").write_bytes(stamp)
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    for sections, status, is_reported in (
        ("telemetry photos", 0, True),
        ("telemetry photos", 0, False),
        ("photos", 2, False),
    ):
        ended = run(setup, *sections.split(), **pip)
        assert ended.returncode == status, ended.stderr
        assert ("continuing without the model for photos" in ended.stderr) is is_reported
    assert "from versions: none" in (tmp_path / ".fleetsight" / "logs" / "setup-photos.log").read_text()
