"""The logs of a local system: private, kept over restarts, and bounded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.run import log_files


def instance(folder: Path, number: int, text: str) -> Path:
    """Return the console of a new instance."""
    console = folder / "instances" / f"i-{number:017x}" / "console.log"
    console.parent.mkdir(parents=True)
    console.write_text(text)
    return console


def test_a_start_keeps_logs_and_consoles_privately_and_removes_the_rest(tmp_path: Path) -> None:
    folder, logs = tmp_path / "run-8000", tmp_path / "run-8000" / "logs"
    logs.mkdir(parents=True, mode=0o755)
    (logs / "web.log").write_text("Traceback\n")
    (folder / "endpoint").touch()
    console = instance(folder, 1, "worker\n")
    log_files.prepare(folder, logs)
    assert (logs / "web.log").read_text() == "Traceback\n"
    assert (logs / f"{console.parent.name}.log").read_text() == "worker\n"
    assert [path.name for path in folder.iterdir()] == ["logs"]
    assert {path.stat().st_mode & 0o777 for path in (folder, logs)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in logs.iterdir()} == {0o600}


def test_the_logs_of_a_state_are_in_it_and_those_without_stay(tmp_path: Path) -> None:
    folder, kept = tmp_path / "run-8000", tmp_path / "state" / "logs"
    log_files.prepare(folder, folder / "logs")
    (folder / "logs" / "web.log").write_text("without")
    for _ in range(2):
        log_files.prepare(folder, kept)
        (kept / "web.log").write_text("with")
        assert {path.read_text() for path in folder.glob("*logs/web.log")} == {"with", "without"}
    log_files.prepare(folder, folder / "logs")
    assert [path.read_text() for path in folder.glob("*logs/web.log")] == ["without"]
    assert (kept / "web.log").read_text() == "with"


@pytest.mark.parametrize("make", [lambda folder: folder / "logs" / "web.log", lambda folder: instance(folder, 1, "")])
def test_a_full_log_is_rotated_while_a_process_writes_to_it(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 10)
    log_files.prepare(tmp_path, tmp_path / "logs")
    log = make(tmp_path)
    numbers = range(log_files.KEPT_FILES + 3)
    with log.open("ab", buffering=0) as inherited:
        for number in numbers:
            inherited.write(b"line %d of it\n" % number)
            log_files.bound(tmp_path, tmp_path / "logs")
            assert log.read_text() == ""
    files = log_files.older_files(log)
    assert [path.read_text() for path in files] == [f"line {each} of it\n" for each in numbers[3:]]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert not list(log.parent.glob("*.partial"))


def test_a_log_that_cannot_be_copied_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 1)
    monkeypatch.setattr("shutil.copyfile", lambda *_: os.open(tmp_path / "none", os.O_RDONLY))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "web.log").write_text("evidence")
    (tmp_path / "logs" / "web.log.1").write_text("older")
    log_files.bound(tmp_path, tmp_path / "logs")
    found = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert found == {"web.log": "evidence", "web.log.1": "older"}


def test_only_the_newest_consoles_of_ended_instances_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "KEPT_CONSOLES", 2)
    log_files.prepare(tmp_path, tmp_path / "logs")
    consoles = [instance(tmp_path, number, "x") for number in range(5)]
    for age, console in enumerate(reversed(consoles)):
        os.utime(console, (1e9 - age, 1e9 - age))
    stat = Path("/proc/self/stat").read_text()
    (consoles[0].parent / "process").write_text(stat)  # this one runs
    log_files.bound(tmp_path, tmp_path / "logs")
    assert [console.exists() for console in consoles] == [True, False, False, True, True]
