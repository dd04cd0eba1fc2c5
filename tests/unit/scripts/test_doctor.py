"""`fleetsight doctor`: what each check says about what it has found; `tests/integration` breaks real things."""

import argparse
import json
import os
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import parse_config
from scripts.cli import fleetsight
from scripts.doctor import __main__ as stdlib_command
from scripts.doctor import machine
from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, Verdict, as_json, as_text, ok, problem, run_checks
from scripts.doctor.cloud import clock_ahead, lifecycle_faults, queue_faults
from scripts.doctor.command import CHECKS, OPTIONS
from scripts.home import HOME_VARIABLE
from tests.conftest import ROOT, shipped_values

CONFIG = parse_config(shipped_values())
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


def test_the_report_has_each_remedy_and_the_counts_and_foreign_text_controls_no_terminal() -> None:
    results = [("port", problem("held by \x1b[31mevil\nname", "kill 1")), ("disk", ok("1 GB"))]
    assert as_text(results).splitlines() == [
        "problem  port held by ?[31mevil name",
        "              → kill 1",
        "ok       disk 1 GB",
        "",
        "1 ok, 0 warnings, 1 problem",
    ]
    reply = json.loads(as_json(results))
    assert reply["counts"] == {"ok": 1, "warning": 0, "problem": 1}
    assert reply["checks"][1] == {"check": "disk", "verdict": "ok", "found": "1 GB", "remedy": ""}


def test_both_forms_of_the_command_have_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of the standard library runs; the one of click is in the help and the completions."""
    of_click = {option for each in fleetsight.commands["doctor"].params for option in each.opts}
    given_options: list[str] = []
    add = argparse.ArgumentParser.add_argument

    def record(self: argparse.ArgumentParser, *names: str, **more: Any) -> Any:
        given_options.extend(name for name in names if name.startswith("--") and name != "--help")
        return add(self, *names, **more)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", record)
    with pytest.raises(SystemExit):
        stdlib_command.main(["--port", "0"])
    assert set(given_options) == of_click == set(OPTIONS)


def test_every_check_is_named_in_the_documents() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").partition("## Check a machine")[2]
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert rows[: len(CHECKS)] == list(CHECKS)


def test_pinned_packages_are_those_for_every_platform() -> None:
    text = (
        "Boot_strap.Flask==2.6.0 \\\n    --hash=sha256:00\n"
        "pywin32==312 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
        "cffi==2.1.1 ; platform_python_implementation != 'PyPy' \\\n    --hash=sha256:00\n"
    )
    assert machine.pinned_packages(text) == {"boot-strap-flask": "2.6.0", "cffi": "2.1.1"}
    assert len(machine.pinned_packages((ROOT / "requirements" / "run.txt").read_text(encoding="utf-8"))) > 30


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


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / {tmp_path} rw shared:1 - ext4 /dev/vda rw\n"
        f"3 2 0:3 / {tmp_path}/owner rw - tmpfs tmpfs rw\n"
    )
    assert machine.filesystem_kind(tmp_path / "own", mounts) == "ext4"
    assert machine.filesystem_kind(Path("/nowhere"), mounts) == "overlay"


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


def test_each_tool_that_booted_machines_lack_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"debootstrap", "systemd-nspawn"}
    monkeypatch.setattr("shutil.which", lambda name, path=None: None if name in lacking else f"/usr/bin/{name}")
    found = next(iter(machine.check_machines(SYSTEM)))
    assert found.verdict is Verdict.WARNING
    assert "systemd-nspawn, debootstrap" in found.found
    assert found.remedy == "apt install systemd-container debootstrap"


NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@given(
    skew=st.floats(-10_000, 10_000),
    fraction=st.floats(0, 0.999),
    there=st.floats(0, 5),
    back=st.floats(0, 5),
)
def test_no_skew_is_seen_where_none_is_and_never_more_than_there_is(
    skew: float, fraction: float, there: float, back: float
) -> None:
    """The server's clock is right. `there` and `back` are how long the request and the reply travel, in seconds."""
    answered = NOW.timestamp() + fraction
    date = datetime.fromtimestamp(int(answered), UTC)
    seen = clock_ahead(date, answered - there + skew, answered + back + skew)
    assert abs(seen) <= abs(skew) + 1e-3
    assert seen * skew >= 0
    assert abs(seen) >= abs(skew) - there - back - 1.001
    if skew == 0:
        assert seen == 0


REQUESTS, RESPONSES = CONFIG.names.request_queue, CONFIG.names.response_queue
ARN = "arn:aws:sqs:us-east-1:123456789012"
RIGHT = {
    "QueueArn": f"{ARN}:{REQUESTS}",
    "VisibilityTimeout": "30",
    "MaximumMessageSize": "1048576",
    "RedrivePolicy": json.dumps({"deadLetterTargetArn": f"{ARN}:fleetsight-dead-letters", "maxReceiveCount": 5}),
}


def test_a_queue_with_the_configured_settings_has_no_fault() -> None:
    assert queue_faults(CONFIG, REQUESTS, RIGHT) == ({}, [])
    assert queue_faults(CONFIG, RESPONSES, {**RIGHT, "RedrivePolicy": ""}) == ({}, [])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"VisibilityTimeout": "5"}, "the visibility timeout is 5 s"),
        ({"MaximumMessageSize": "1024"}, "messages have at most 1024 bytes"),
        ({"RedrivePolicy": ""}, "its dead letters go to no queue"),
        (
            {"RedrivePolicy": json.dumps({"deadLetterTargetArn": f"{ARN}:other", "maxReceiveCount": 5})},
            f"its dead letters go to {ARN}:other",
        ),
        (
            {"RedrivePolicy": RIGHT["RedrivePolicy"].replace("5}", "50}")},
            "images fail after 50 receives",
        ),
    ],
)
def test_a_wrong_setting_of_a_queue_is_named_and_the_repair_makes_it_right(
    changes: dict[str, str], fault: str
) -> None:
    wanted, faults = queue_faults(CONFIG, REQUESTS, RIGHT | changes)
    assert [each[: len(fault)] for each in faults] == [fault]
    assert queue_faults(CONFIG, REQUESTS, RIGHT | changes | wanted) == ({}, [])


def test_a_response_queue_that_loses_messages_to_another_queue_is_wrong() -> None:
    wanted, [fault] = queue_faults(CONFIG, RESPONSES, RIGHT)
    assert "takes messages away from the controller" in fault
    assert wanted == {"RedrivePolicy": ""}


def rule(days: int, **place: Any) -> dict[str, Any]:
    return {"ID": "own", "Status": "Enabled", "Expiration": {"Days": days}, "Filter": place}


UNFINISHED = {"ID": "parts", "Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}
NOT_KEPT = {"Tag": {"Key": "kept", "Value": "no"}}


@pytest.mark.parametrize(
    ("bucket", "rules", "faults"),
    [
        (CONFIG.names.input_bucket, [UNFINISHED, rule(30, **NOT_KEPT)], []),
        (CONFIG.names.output_bucket, [UNFINISHED], []),
        (CONFIG.names.input_bucket, [], ["no rule deletes the parts", "no rule deletes images"]),
        (
            CONFIG.names.input_bucket,
            [UNFINISHED, rule(3, **NOT_KEPT)],
            ["the rule 'own' deletes images after 3"],
        ),
        (CONFIG.names.input_bucket, [UNFINISHED, rule(30)], ["the rule 'own' deletes objects after 30 days"]),
        (CONFIG.names.output_bucket, [UNFINISHED, rule(30, **NOT_KEPT)], ["the rule 'own' deletes objects"]),
    ],
)
def test_lifecycle_rules_delete_what_no_user_keeps_and_nothing_else(
    bucket: str, rules: list[Any], faults: list[str]
) -> None:
    found = lifecycle_faults(CONFIG, bucket, rules, is_on_aws=True)
    assert [each[: len(fault)] for each, fault in zip(found, faults, strict=True)] == faults


def test_the_local_cloud_needs_no_lifecycle_rules() -> None:
    assert lifecycle_faults(CONFIG, CONFIG.names.input_bucket, [], is_on_aws=False) == []


def test_the_skew_of_a_reply_is_measured_in_both_directions() -> None:
    ahead = NOW + timedelta(minutes=10)
    assert clock_ahead(NOW, ahead.timestamp(), ahead.timestamp()) == pytest.approx(599)
    assert clock_ahead(ahead, NOW.timestamp(), NOW.timestamp()) == pytest.approx(-600)


@pytest.mark.parametrize(("variables", "home"), [({}, "checkout/.fleetsight"), ({HOME_VARIABLE: "/own"}, "/own")])
def test_the_running_system_is_looked_for_where_its_files_are(variables: dict[str, str], home: str) -> None:
    system = CheckedSystem(Path("checkout"), variables, port=8123)
    assert system.home == Path(home)
