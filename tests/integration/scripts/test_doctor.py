"""`fleetsight doctor` finds what is really broken: a bundle, a full disk, a system that is not ready."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from app_tier.bundle import DEMO_BUNDLE
from core.config import Config, load_config
from localcloud.launch import LocalCloud
from scripts import doctor
from scripts.doctor import CHECKS, Diagnosis
from scripts.run.system import free_port
from tests.conftest import ROOT
from tests.support.processes import other_machine
from tests.support.servers import served
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.app import create_app

pytestmark = pytest.mark.processes

HERE = "http://127.0.0.1:9"


def run_doctor(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user does."""
    return subprocess.run(
        [str(ROOT / "scripts" / "fleetsight"), "doctor", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        env={**os.environ, "FLEETSIGHT__WEB__PORT": str(free_port()), **environment},
    )  # fmt: skip


def settings(**environment: str) -> Config:
    return load_config(environment=environment)


def only(diagnoses: Iterable[Diagnosis]) -> Diagnosis:
    [found] = diagnoses
    return found


def test_this_machine_is_well_and_every_check_reports() -> None:
    done = run_doctor("--json")
    assert done.returncode == 0, done.stdout
    checks = json.loads(done.stdout)["checks"]
    assert list(dict.fromkeys(each["check"] for each in checks)) == list(CHECKS)
    assert all((each["remedy"] == "") == (each["verdict"] == "ok") for each in checks)


def test_a_problem_is_shown_with_its_remedy_and_counted() -> None:
    with served(Flask("other")) as url:
        done = run_doctor("--url", url)
    assert done.returncode == 1
    assert f"problem  system  what answers at {url} is not Fleetsight\n" in done.stdout
    assert re.search(r"→ Find it with ss .+\n\n\d+ ok, \d+ warnings, 1 problems\n$", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (("--url", "nonsense"), {}, "is not an address such as http://127.0.0.1:8000"),
        ((), {"FLEETSIGHT__FLEET__MAX_WORKERS": "many"}, "fleet.max_workers"),
    ],
)
def test_an_invalid_address_or_setting_is_named(
    arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    done = run_doctor(*arguments, **variables)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_every_check_is_named_in_the_documents() -> None:
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8").partition("## Check a machine")[2]
    sentence = " ".join(page.split()).partition(" checks ")[2].partition(", and prints")[0]
    assert re.findall(r"`(\w+)`", sentence) == list(CHECKS)


def test_one_flipped_bit_of_the_bundle_is_found_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    def check(bundle: object) -> Diagnosis:
        return only(doctor.check_bundle(settings(FLEETSIGHT__WORKER__BUNDLE=str(bundle)), HERE))

    copy = shutil.copytree(DEMO_BUNDLE, tmp_path / "copy")
    assert check(copy).verdict == "ok"
    content = bytearray((copy / "model.bin").read_bytes())
    content[1000] ^= 1
    (copy / "model.bin").write_bytes(content)
    for found in (check(copy), check(shutil.make_archive(str(tmp_path / "own"), "zip", copy))):
        assert found.verdict == "problem"
        assert re.search("model.bin.*has SHA-256", found.found)


def test_a_bundle_in_s3_is_checked_by_another_command() -> None:
    found = only(doctor.check_bundle(settings(FLEETSIGHT__WORKER__BUNDLE="s3://models/resnet18"), HERE))
    assert found.verdict == "ok"
    assert "./scripts/fleetsight model verify" in found.found


@pytest.mark.parametrize(
    ("reply", "verdict", "words"),
    [
        (({"ready": True, "missing": {}}, 200), "ok", "is ready"),
        (
            ({"ready": False, "missing": {"queue": "does not exist", "table": "is away"}}, 503),
            "problem",
            "is not ready: queue: does not exist; table: is away",
        ),
        (({"other": "program"}, 200), "problem", "is not Fleetsight"),
        (("not found", 404), "problem", "is not Fleetsight"),
    ],
)
def test_the_readiness_of_a_system_is_told_with_what_is_missing(reply: Any, verdict: str, words: str) -> None:
    app = Flask("checked")
    app.add_url_rule("/readyz", view_func=lambda: reply)
    with served(app) as url:
        found = only(doctor.check_system(settings(), url))
    assert (found.verdict, words in found.found) == (verdict, True), found


def test_a_web_tier_whose_cloud_has_no_queue_is_a_problem(config: Config, cloud: LocalCloud) -> None:
    with served(create_app(config)) as url:
        found = only(doctor.check_system(config, url))
    assert (found.verdict, "is not ready: " in found.found) == ("problem", True), found
    assert "./scripts/fleetsight logs" in found.remedy


def test_a_system_that_does_not_answer_is_a_problem_and_nothing_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "REPLY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and reads nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = only(doctor.check_system(settings(), url))
    assert (found.verdict, f"{url} does not answer" in found.found) == ("problem", True)


def test_a_machine_without_process_limits_is_a_problem_unless_the_setting_allows_it() -> None:
    lax = {"FLEETSIGHT__SANDBOX__LIMITS": "best_effort", "FLEETSIGHT__AWS__ENDPOINT_URL": "http://127.0.0.1:1"}
    with other_machine():
        found = [only(doctor.check_sandbox(settings(**each), HERE)) for each in ({}, lax)]
    assert [each.verdict for each in found] == ["problem", "warning"]
    assert "refuses seccomp" in found[0].found


def disk(free: int, files: int = 10**6) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=10**7, f_favail=files)


@pytest.mark.parametrize(
    ("status", "may_write", "verdict"),
    [
        (disk(10**10), True, "ok"),
        (disk(10**9), True, "warning"),
        (disk(10**7), True, "problem"),
        (disk(10**10, files=10), True, "problem"),
        (disk(10**10), False, "problem"),
    ],
)
def test_a_full_disk_or_one_that_cannot_be_written_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, status: Any, may_write: bool, verdict: str
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _folder: status)
    monkeypatch.setattr(os, "access", lambda _folder, _mode: may_write)
    assert {each.verdict for each in doctor.check_disk(settings(), HERE)} == {verdict}


@pytest.mark.parametrize(("megabytes", "verdict"), [(64_000, "ok"), (300, "warning"), (200, "problem")])
def test_memory_for_no_worker_is_a_problem_and_for_some_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, megabytes: int, verdict: str
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: {megabytes * 1000} kB\n")
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("app_tier.sizing.this_machine", lambda: SimpleNamespace(cores=4, memory_bytes=64 * 10**9))
    found = only(doctor.check_memory(settings(), HERE))
    assert (found.verdict, "4 workers of " in found.found) == (verdict, True)
