"""The supervisor keeps real processes running, and leaves none behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.run.supervisor import ManagedProcess, Supervisor
from tests.support.processes import has_ended
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.controller.previous_end import PREVIOUS_END, SUPERVISOR

pytestmark = pytest.mark.processes

FOREVER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.stop(grace_seconds=0.2)


def service(tmp_path: Path, code: str, *, essential: bool = False) -> ManagedProcess:
    return ManagedProcess("it", (sys.executable, "-c", code), os.environ, tmp_path / "it.log", essential)


def test_a_killed_process_is_restarted(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(service(tmp_path, FOREVER))
    wait_until(lambda: supervisor.pid("it"), "it runs")
    first = supervisor.pid("it")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.pid("it") not in {None, first}, "it runs again")
    assert not supervisor.failed.is_set()


def test_a_restarted_process_gets_how_the_one_before_ended_under_the_same_supervisor(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    shown = f"import os, sys; print(repr([os.environ[{SUPERVISOR!r}], os.environ[{PREVIOUS_END!r}]]), flush=True)"
    supervisor.start(service(tmp_path, f"{shown}; sys.exit('no queue')"))
    log = tmp_path / "it.log"
    wait_until(lambda: log.exists() and log.read_text().count("no queue") > 2, "it has ended twice")
    first, _, second, *_ = log.read_text().splitlines()
    assert first == repr([supervisor.name, ""])
    assert second == repr([supervisor.name, "status 1: no queue"])
    assert Supervisor().name != supervisor.name


def test_a_log_and_what_a_process_writes_can_be_read_by_their_owner_only(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    written, log = tmp_path / "written", tmp_path / "it.log"
    supervisor.start(service(tmp_path, f"open({str(written)!r}, 'w').close(); {FOREVER}"))
    wait_until(written.exists, "it has written a file")
    assert [path.stat().st_mode & 0o777 for path in (log, written)] == [0o600, 0o600]


def line(level: str, message: str) -> str:
    return json.dumps({"at": "2026-11-30T01:02:03.000+00:00", "level": level, "message": message})


AT = "at 01:02:03 UTC"
CLOUD = "01:02:03,4 cloud CRITICAL free space"
KILL = "os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("lines", "end", "words"),
    [
        ([line("critical", "no room"), "OSError: late"], "sys.exit(4)", f"status 4: critical {AT}: no room"),
        ([line("error", "no\x1b[2J"), line("warning", "slow")], "sys.exit(1)", f"status 1: error {AT}: no [2J"),
        ([line("warning", "slow"), line("info", "[]")], "sys.exit(1)", "status 1"),
        ([CLOUD, "[9] [INFO] Master"], "sys.exit(3)", f"status 3: {CLOUD}"),
        ([line("warning", "slow"), "ValueError: gone"], KILL, "signal 9 (SIGKILL)"),
        ([line("error", "no queue")], KILL, f"signal 9 (SIGKILL): error {AT}: no queue"),
    ],
)
def test_an_end_is_printed_with_its_status_and_the_last_error_of_that_process(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str], end: str, words: str
) -> None:
    first = tmp_path / "first"
    printed = f"print({chr(10).join(lines)!r}, flush=True)"
    code = f"import os, sys\nif not os.path.exists({str(first)!r}):\n open({str(first)!r}, 'w')\n {printed}\n {end}"
    supervisor.start(service(tmp_path, f"{code}\n{FOREVER}"))
    wait_until(lambda: caplog.messages, "the end is printed")
    [printed] = caplog.messages
    assert re.fullmatch(
        rf"it ended at \d\d:\d\d:\d\d UTC with {re.escape(words)}; it starts again; see {tmp_path / 'it.log'}",
        printed,
    )
    assert supervisor.ends("it") == (1, words)
    os.kill(wait_until(lambda: supervisor.pid("it"), "it runs again"), signal.SIGKILL)
    wait_until(lambda: supervisor.ends("it")[0] == 2, "it has ended again")
    assert supervisor.ends("it")[1] == "signal 9 (SIGKILL)", "the lines before are of another process"


def test_the_children_of_a_killed_process_are_killed_before_its_restart(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(service(tmp_path, f"import os; os.fork(); print(os.getpid(), flush=True); {FOREVER}"))
    log = tmp_path / "it.log"
    wait_until(lambda: log.exists() and len(log.read_text().split()) == 2, "it runs, and what it has started")
    first = supervisor.pid("it")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: all(has_ended(int(pid)) for pid in log.read_text().split()[:2]), "both have ended")


def test_the_end_of_an_essential_process_is_told_with_its_last_words_and_log(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(service(tmp_path, "raise SystemExit('no memory')", essential=True))
    assert supervisor.failed.wait(DEADLINE_SECONDS)
    words = re.escape(f"status 1: no memory; see {tmp_path / 'it.log'}")
    assert re.fullmatch(rf"it ended at \d\d:\d\d:\d\d UTC with {words}", supervisor.failure)


def test_stop_ends_a_process_that_ignores_sigterm(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(service(tmp_path, STUBBORN))
    wait_until(
        lambda: "deaf" in (tmp_path / "it.log").read_text() if (tmp_path / "it.log").exists() else False, "it is deaf"
    )
    pid = supervisor.pid("it")
    assert pid is not None
    supervisor.stop(grace_seconds=0.2)
    assert has_ended(pid)


def test_no_process_is_restarted_after_stop(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(service(tmp_path, FOREVER))
    wait_until(lambda: supervisor.pid("it"), "it runs")
    supervisor.stop()
    assert supervisor.pid("it") is None


def test_processes_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from scripts.run.supervisor import ManagedProcess, Supervisor
supervisor = Supervisor()
arguments = (sys.executable, "-c", {FOREVER!r})
supervisor.start(ManagedProcess("it", arguments, os.environ, Path({str(tmp_path / "log")!r})))
while supervisor.pid("it") is None:
    time.sleep(0.01)
print(supervisor.pid("it"), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # The signal is asked for by the child itself, a moment after it has a process id.
        wait_until(
            lambda: "prctl" not in Path(f"/proc/{child}/cmdline").read_text(), "the child has become the command"
        )
        parent.kill()
        wait_until(lambda: has_ended(child), "the child has ended")
