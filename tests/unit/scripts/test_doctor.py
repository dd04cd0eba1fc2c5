"""`fleetsight doctor`: what each check says about what it has found; `tests/integration` breaks real things."""

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.cli import doctor
from scripts.doctor import machine
from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, Verdict, as_json, as_text, ok, problem, run_checks
from scripts.doctor.command import CHECKS, main, parser
from tests.conftest import ROOT

SYSTEM = CheckedSystem(ROOT, {})


def verdicts(results: Iterable[Diagnosis]) -> list[Verdict]:
    return [each.verdict for each in results]


def test_a_check_that_hangs_and_one_that_fails_hide_no_other() -> None:
    never = threading.Event()

    def hangs() -> Iterator[Diagnosis]:
        never.wait()
        yield ok("never")

    def fails() -> Iterator[Diagnosis]:
        yield problem("found before the failure", "repair it")
        raise RuntimeError("broken\nbadly")

    def lacks_a_package() -> Iterator[Diagnosis]:
        yield from ()
        raise ImportError("No module named 'pydantic'")

    checks = {"hangs": hangs, "fails": fails, "lacks": lacks_a_package, "works": lambda: [ok("fine")]}
    results = run_checks(checks, seconds=1.0)
    assert [(name, each.verdict) for name, each in results] == [
        ("hangs", Verdict.WARNING),
        ("fails", Verdict.PROBLEM),
        ("fails", Verdict.WARNING),
        ("lacks", Verdict.WARNING),
        ("works", Verdict.OK),
    ]
    found = [each.found for _, each in results]
    assert found[0] == "not checked: there was no result within 1 s"
    assert found[2].startswith("not checked: RuntimeError: broken")
    assert results[3][1].remedy == "./scripts/setup.sh run"
    never.set()


def test_the_report_has_remedies_and_counts_and_removes_control_characters() -> None:
    results = [("port", problem("held by \x1b[31mevil\nname", "kill 1")), ("disk", ok("1 GB"))]
    assert as_text(results).splitlines() == [
        "problem  port held by \ufffd[31mevil name",
        "              → kill 1",
        "ok       disk 1 GB",
        "",
        "1 ok, 0 warnings, 1 problem",
    ]
    reply = json.loads(as_json(results))
    assert reply["counts"] == {"ok": 1, "warning": 0, "problem": 1}
    assert reply["checks"][1] == {"check": "disk", "verdict": "ok", "found": "1 GB", "remedy": ""}


@pytest.mark.parametrize(
    "url", ["nonsense", "127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://"]
)
def test_an_invalid_address_is_wrong_usage(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--url", url])
    assert ended.value.code == 2
    assert "is not an address such as http://127.0.0.1:8000" in capsys.readouterr().err


def test_both_forms_of_the_command_have_the_same_options() -> None:
    """The one of the standard library runs; the one of click is in the help and the reference."""
    of_click = {option for each in doctor.params for option in each.opts}
    assert {f"--{name}" for name in vars(parser().parse_args([]))} == of_click


def test_every_check_is_named_in_the_documents() -> None:
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8").partition("## Check a machine")[2]
    sentence = " ".join(page.split()).partition(" checks ")[2].partition(", and prints")[0]
    assert re.findall(r"`(\w+)`", sentence) == list(CHECKS)


def process(proc: Path, pid: int, words: list[str], inode: int | None, environment: str = "") -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{words[0]}\n")
    (folder / "cmdline").write_bytes("\0".join([*words, ""]).encode())
    (folder / "environ").write_bytes(environment.encode())
    if inode is not None:
        (folder / "fd" / "5").symlink_to(f"socket:[{inode}]")


def test_the_holder_of_a_port_is_the_oldest_process_with_its_socket(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    rows = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1",
        "   1: 0100007F:1F41 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1",
    ]
    (tmp_path / "net" / "tcp").write_text("\n".join(rows) + "\n")
    process(tmp_path, 300, ["gunicorn", machine.WEB_TIER], 4711)
    process(tmp_path, 200, ["gunicorn", machine.WEB_TIER], 4711, f"A=1\0{machine.ENDPOINT_VARIABLE}=http://here\0")
    process(tmp_path, 100, ["nginx", "--password=secret"], None)
    assert machine.port_holder(8000, tmp_path) == machine.PortHolder(200, "gunicorn", True, "http://here")
    assert machine.port_holder(8001, tmp_path) is None  # it is connected, and does not listen
    assert machine.port_holder(8002, tmp_path) is None


def disk(free: int, files: int = 10**6) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=10**7, f_favail=files)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (disk(10**10), Verdict.OK),
        (disk(10**9), Verdict.WARNING),
        (disk(10**7), Verdict.PROBLEM),
        (disk(10**10, files=10), Verdict.PROBLEM),
    ],
)
def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, status: Any, verdict: Verdict) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _folder: status)
    assert set(verdicts(machine.check_disk(SYSTEM))) == {verdict}


def test_a_folder_without_the_right_to_write_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _folder, _mode: False)
    assert set(verdicts(machine.check_disk(SYSTEM))) == {Verdict.PROBLEM}


@pytest.mark.parametrize(
    ("megabytes", "verdict"), [(64_000, Verdict.OK), (200, Verdict.WARNING), (50, Verdict.PROBLEM)]
)
def test_memory_for_no_worker_is_a_problem_and_for_some_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, megabytes: int, verdict: Verdict
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: {megabytes * 1000} kB\n")
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr("app_tier.sizing.this_machine", lambda: SimpleNamespace(cores=4, memory_bytes=64 * 10**9))
    [found] = machine.check_memory(SYSTEM)
    assert found.verdict is verdict
    assert "4 workers of " in found.found
