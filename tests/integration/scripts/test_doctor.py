"""`fleetsight doctor` finds what is really broken: a port, a bundle, packages, a system that is not ready."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app_tier.bundle import DEMO_BUNDLE
from core.config import Config
from localcloud.launch import LocalCloud
from scripts.doctor import machine, running
from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, Verdict
from scripts.doctor.command import CHECKS
from scripts.home import HOME_VARIABLE
from scripts.run.system import free_port
from tests.conftest import ROOT
from tests.support.processes import other_machine
from tests.support.servers import served
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.app import create_app

pytestmark = pytest.mark.processes


def doctor(
    *arguments: str, folder: Path = ROOT, **environment: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, list[dict[str, str]]]]:
    """Run the command as a user does; return the process and its results by check."""
    done = subprocess.run(
        [str(folder / "scripts" / "fleetsight"), "doctor", "--json", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        env={**os.environ, "FLEETSIGHT__WEB__PORT": str(free_port()), **environment},
    )  # fmt: skip
    results: dict[str, list[dict[str, str]]] = {}
    for each in json.loads(done.stdout)["checks"]:
        results.setdefault(each["check"], []).append(each)
    return done, results


def only(diagnoses: Iterable[Diagnosis]) -> Diagnosis:
    [found] = diagnoses
    return found


def test_this_machine_is_well_and_every_check_reports() -> None:
    done, results = doctor()
    assert done.returncode == 0, done.stdout
    assert list(results) == list(CHECKS)
    assert all((each["remedy"] == "") == (each["verdict"] == "ok") for found in results.values() for each in found)
    assert re.fullmatch(
        r"nothing runs at http://127\.0\.0\.1:\d+; \./scripts/run\.sh starts it", results["system"][0]["found"]
    )


COPIED = ("app_tier", "scripts")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of which tests break copies; all else is links."""
    for entry in ROOT.iterdir():
        if entry.name not in {".fleetsight", ".git", ".venv", *COPIED}:
            (tmp_path / entry.name).symlink_to(entry)
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_before_the_set_up_the_packages_are_the_problem_and_the_machine_is_checked(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The Python on PATH has no package; the command writes nothing into the checkout."""
    python = tmp_path_factory.mktemp("bare") / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    before = sorted(checkout.rglob("*"))
    done, results = doctor(folder=checkout, PATH=f"{python.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert results["python"][0]["verdict"] == "problem"
    assert results["packages"][0]["verdict"] == "problem"
    assert "pydantic" in results["packages"][0]["found"]
    assert results["packages"][0]["remedy"].endswith("./scripts/setup.sh run")
    assert results["disk"][0]["verdict"] == "ok"
    assert "not checked" in results["settings"][0]["found"]
    assert "not checked" not in results["port"][0]["found"]
    assert list(results) == list(CHECKS)
    assert sorted(checkout.rglob("*")) == before


def test_without_any_python_that_is_new_enough_the_command_says_so(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    old = tmp_path_factory.mktemp("old")
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 15))]
    for name in names:
        (old / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
        (old / name).chmod(0o755)
    done = subprocess.run(
        [str(checkout / "scripts" / "fleetsight"), "doctor"],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        env={"PATH": f"{old}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith("problem  python    there is no Python 3.11 or newer; found Python 3.9.2\n")


def test_a_missing_package_and_one_of_another_version_are_named(checkout: Path) -> None:
    [real] = (Path(sys.prefix) / "lib").glob("python3*")
    packages = checkout / ".venv" / "lib" / real.name / "site-packages"
    packages.mkdir(parents=True)
    for entry in (real / "site-packages").glob("*.dist-info"):
        if not entry.name.startswith("pydantic-"):
            (packages / entry.name).symlink_to(entry)
    (packages / "click-1.dist-info").mkdir()
    (packages / "click-1.dist-info" / "METADATA").write_text("Name: click\nVersion: 1\n")
    for entry in packages.glob("click-8*"):
        entry.unlink()
    missing, other = machine.check_packages(CheckedSystem(checkout, {}))
    assert (missing.verdict, other.verdict) == (Verdict.PROBLEM, Verdict.WARNING)
    assert missing.found.endswith("are missing: pydantic")
    assert "click 1 instead of 8" in other.found


def test_a_python_that_does_not_run_is_a_problem(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho gone >&2; exit 127\n")
    python.chmod(0o755)
    found = only(machine.check_python(CheckedSystem(checkout, dict(os.environ))))
    assert (found.verdict, found.found) == (Verdict.PROBLEM, "the Python of .venv does not run: gone")


def test_a_wrong_setting_is_a_problem_and_checks_without_settings_still_report() -> None:
    done, results = doctor(FLEETSIGHT__FLEET__MAX_WORKERS="many")
    assert done.returncode == 1
    assert results["settings"][0]["verdict"] == "problem"
    assert "fleet.max_workers" in results["settings"][0]["found"]
    assert results["packages"][0]["verdict"] == results["disk"][0]["verdict"] == "ok"


def test_the_holder_of_the_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = only(machine.check_port(CheckedSystem(ROOT, dict(os.environ), f"http://127.0.0.1:{port}")))
    assert found.verdict is Verdict.PROBLEM
    assert f"(process {os.getpid()})" in found.found
    assert found.remedy == f"Stop it (kill {os.getpid()}), or use another port: ./scripts/run.sh --port {port + 1}"


def test_an_address_of_another_machine_is_a_problem() -> None:
    settings = {"FLEETSIGHT__WEB__HOST": "192.0.2.1", "FLEETSIGHT__AUTH__OPEN": "true"}
    found = only(machine.check_port(CheckedSystem(ROOT, settings)))
    assert found.verdict is Verdict.PROBLEM
    assert "cannot listen on 192.0.2.1:8000" in found.found


def test_one_flipped_bit_of_the_bundle_is_found_in_a_folder_and_in_a_zip(checkout: Path) -> None:
    system = CheckedSystem(checkout, {})
    assert only(machine.check_bundle(system)).verdict is Verdict.OK
    weights = checkout / DEMO_BUNDLE.relative_to(ROOT) / "model.bin"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    archive = shutil.make_archive(str(checkout / "own"), "zip", weights.parent)
    zipped = CheckedSystem(checkout, {"FLEETSIGHT__WORKER__BUNDLE": archive})
    for found in (only(machine.check_bundle(system)), only(machine.check_bundle(zipped))):
        assert found.verdict is Verdict.PROBLEM
        assert "model.bin" in found.found
        assert "has SHA-256" in found.found


def test_a_bundle_in_s3_is_checked_by_another_command() -> None:
    settings = {"FLEETSIGHT__WORKER__BUNDLE": "s3://models/resnet18"}
    found = only(machine.check_bundle(CheckedSystem(ROOT, settings)))
    assert found.verdict is Verdict.OK
    assert "./scripts/fleetsight model verify" in found.found


# The running system


def asked(app: Flask) -> Diagnosis:
    """Return the diagnosis of a system that is this app."""
    with served(app) as url:
        return only(running.check_system(CheckedSystem(ROOT, {}, url)))


@pytest.mark.parametrize(
    ("reply", "verdict", "words"),
    [
        (({"ready": True, "missing": {}}, 200), Verdict.OK, "is ready"),
        (
            ({"ready": False, "missing": {"queue": "does not exist", "table": "is away"}}, 503),
            Verdict.PROBLEM,
            "is not ready: queue: does not exist; table: is away",
        ),
        (({"other": "program"}, 200), Verdict.PROBLEM, "answers with the status 200, and not as Fleetsight does"),
        (("not found", 404), Verdict.PROBLEM, "answers with the status 404, and not as Fleetsight does"),
    ],
)
def test_the_readiness_of_a_system_is_told_with_what_is_missing(reply: Any, verdict: Verdict, words: str) -> None:
    app = Flask("checked")
    app.add_url_rule("/readyz", view_func=lambda: reply)
    found = asked(app)
    assert (found.verdict, words in found.found) == (verdict, True), found


def test_a_web_tier_whose_cloud_has_no_queue_is_a_problem(config: Config, cloud: LocalCloud) -> None:
    found = asked(create_app(config))
    assert found.verdict is Verdict.PROBLEM
    assert "is not ready: " in found.found
    assert "./scripts/fleetsight logs" in found.remedy


def test_a_system_that_does_not_answer_is_a_problem_and_nothing_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "REPLY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and reads nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = only(running.check_system(CheckedSystem(ROOT, {}, url)))
    assert found.verdict is Verdict.PROBLEM
    assert f"{url} does not answer" in found.found


def test_the_port_of_another_machine_is_not_checked() -> None:
    found = only(machine.check_port(CheckedSystem(ROOT, {}, "http://192.0.2.1:8000")))
    assert (found.verdict, found.found) == (Verdict.OK, "not checked: 192.0.2.1 is not this machine")


def test_the_web_tier_of_this_system_may_hold_its_port_and_that_of_another_one_not(tmp_path: Path) -> None:
    port, endpoint = free_port(), "http://127.0.0.1:9"
    system = CheckedSystem(tmp_path, {HOME_VARIABLE: str(tmp_path)}, f"http://127.0.0.1:{port}")
    system.run_folder.mkdir()
    (system.run_folder / "endpoint").write_text(f"{endpoint}\n")
    web = subprocess.Popen(
        [sys.executable, "-c", _WEB_TIER, str(port), machine.WEB_TIER],
        env={**os.environ, machine.ENDPOINT_VARIABLE: endpoint},
    )
    try:
        wait_until(lambda: machine.port_holder(port), "the web tier listens")
        assert only(machine.check_port(system)).verdict is Verdict.OK
        (system.run_folder / "endpoint").write_text("http://127.0.0.1:1\n")
        other = only(machine.check_port(system))
        assert (other.verdict, "the web tier of another system" in other.found) == (Verdict.PROBLEM, True)
    finally:
        web.send_signal(signal.SIGKILL)
        web.wait(DEADLINE_SECONDS)


_WEB_TIER = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Event().wait()
"""


def test_a_machine_without_process_limits_is_a_problem_unless_the_setting_allows_it() -> None:
    lax = {"FLEETSIGHT__SANDBOX__LIMITS": "best_effort", "FLEETSIGHT__AWS__ENDPOINT_URL": "http://127.0.0.1:1"}
    with other_machine():
        found = [only(machine.check_sandbox(CheckedSystem(ROOT, each))) for each in ({}, lax)]
    assert [each.verdict for each in found] == [Verdict.PROBLEM, Verdict.WARNING]
    assert "refuses seccomp" in found[0].found
