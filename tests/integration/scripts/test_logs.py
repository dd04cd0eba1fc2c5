"""`fleetsight logs`: the lines of files on this machine, and the path of an image."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from core.ids import new_id
from scripts.cli import fleetsight
from scripts.logs import LocalLogs, LogError, LogQuery, follow_logs, format_line, parse_duration
from scripts.run import log_files
from scripts.run.system import System
from services.clock import Clock
from tests.support.jobs import picture
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

LINE = {
    "at": "2026-03-01T12:00:00.123+00:00",
    "level": "warning",
    "process": "worker",
    "logger": "app_tier",
    "message": "slow",
}
WORKER, OTHER = "i-0123456789abcdef0", "i-00000000000000001"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7_200), ("1d", 86_400)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1.5h", "10 m"])
def test_an_invalid_duration_is_rejected_with_examples(text: str) -> None:
    with pytest.raises(LogError, match="such as 90s, 10m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("line", "role", "shown"),
    [
        (
            json.dumps({**LINE, "image_id": "01M7", "seconds": 3}),
            "worker",
            "01 Mar 12:00:00.123 warning worker     slow  image_id=01M7 seconds=3",
        ),
        (
            json.dumps({**LINE, "exception": "Traceback\n  boom"}),
            "worker",
            "01 Mar 12:00:00.123 warning worker     slow\n    Traceback\n      boom",
        ),
        (json.dumps({**LINE, "at": "then"}), "web", "then warning web        slow"),
        *[(line, "web", f"web        {line}") for line in ("GET / 200", '"text"', "[1]", '{"other": 1}')],
    ],
)
def test_a_json_line_shows_its_fields_and_other_lines_are_unchanged(line: str, role: str, shown: str) -> None:
    assert format_line(f"{line}\n", role) == shown


def test_log_lines_contain_no_control_characters() -> None:
    assert "\x1b" not in format_line(json.dumps({**LINE, "message": "\x1b[2J", "name": "\x1b]0;x\x07"}), "web")
    assert format_line("GET /a\u202eb\x9bc", "web") == "web        GET /a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({**LINE, "level": None}),
        json.dumps({**LINE, "level": ["x"]}),
        json.dumps({**LINE, "at": "0001-01-01T00:00:00+01:00"}),
        json.dumps({**LINE, "message": "\ud800", "field": "\udfff"}),
        "[" * 5_000,
    ],
    ids=["no level", "a list as level", "before the calendar", "half of a pair", "deep"],
)
def test_no_line_of_an_instance_ends_the_command(line: str) -> None:
    format_line(line, "worker").encode()
    LogQuery(level="warning").selects(line, "i-0123456789abcdef0")


def test_of_a_batch_only_the_images_that_are_asked_for_are_shown() -> None:
    line = json.dumps({**LINE, "images": [{"image": "A", "job": "J"}, {"image": "B", "job": "J"}]})
    assert format_line(line, "worker", texts=["A"]).endswith('images=[{"image": "A", "job": "J"}]')
    assert '"B"' in format_line(line, "worker", texts=["J"])
    assert '"B"' in format_line(line, "worker")


@dataclass
class FileStore:
    """Log files as a system on this machine writes them."""

    folder: Path

    def write(self, role: str, *lines: str, writer: str = WORKER) -> None:
        path = self.folder / (f"instances/{writer}/console.log" if role == "worker" else f"logs/{role}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        with path.open("a") as log:
            log.writelines(f"{line}\n" for line in lines)

    def reader(self, query: LogQuery) -> Callable[[float], list[str]]:
        return LocalLogs(self.folder, query).since


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "run-8000")


def write(store: FileStore, role: str, message: str, *, ago: float, writer: str = WORKER, **fields: Any) -> None:
    at = datetime.fromtimestamp(time.time() - ago, UTC).isoformat(timespec="milliseconds")
    line = {"at": at, "level": "info", "process": role, "logger": "x", "message": message} | fields
    store.write(role, json.dumps(line), writer=writer)


def message_of(line: str) -> str:
    """Return the message of a line that is shown, without its fields."""
    return re.split(r" (?:web|controller|worker) +", line, maxsplit=1)[1].split("  ")[0]


def messages(store: FileStore, since_seconds: float = 600, **query: Any) -> list[str]:
    """Return the messages of the lines that a query shows."""
    lines = store.reader(LogQuery(**query))(time.time() - since_seconds)
    return [message_of(line) for line in lines]


def test_lines_of_all_roles_are_sorted_by_time_and_each_is_read_once(store: FileStore) -> None:
    write(store, "worker", "second", ago=20)
    write(store, "web", "first", ago=30)
    write(store, "controller", "third", ago=10)
    read, since = store.reader(LogQuery()), time.time() - 600
    assert [message_of(line) for line in read(since)] == ["first", "second", "third"]
    assert read(since) == []
    write(store, "web", "fourth", ago=1)
    assert [message_of(line) for line in read(since)] == ["fourth"]


def test_older_lines_are_not_shown(store: FileStore) -> None:
    write(store, "web", "too old", ago=900)
    write(store, "web", "young enough", ago=300)
    assert messages(store) == ["young enough"]


def test_lines_are_selected_by_role_and_by_every_text(store: FileStore) -> None:
    write(store, "worker", "an apple of ann", ago=30)
    write(store, "worker", "an apple", ago=29)
    write(store, "worker", "a pear of ann", ago=28)
    write(store, "web", "an apple of ann", ago=27)
    assert messages(store, roles=["worker"], texts=["apple", "of ann"]) == ["an apple of ann"]


def test_lines_are_selected_by_their_level_and_all_above(store: FileStore) -> None:
    for ago, level in enumerate(("critical", "error", "warning", "info", "debug"), 10):
        write(store, "web", level, ago=ago, level=level)
    store.write("web", "a line of another program")
    assert messages(store, level="warning") == ["warning", "error", "critical"]
    assert messages(store, level="error", texts=["message"]) == ["error", "critical"]
    assert messages(store, level="debug")[0] == "debug"


def test_lines_of_an_instance_are_its_own_and_those_that_name_it(store: FileStore) -> None:
    write(store, "worker", "its own", ago=30)
    write(store, "worker", "of another", ago=29, writer=OTHER)
    write(store, "controller", "about it", ago=28, writer=OTHER, instances=[WORKER])
    write(store, "controller", "about another", ago=27, writer=OTHER, instances=[OTHER])
    assert messages(store, instance=WORKER) == ["its own", "about it"]
    assert messages(store, instance=WORKER, texts=["about"]) == ["about it"]


def test_lines_of_other_programs_are_shown_as_they_are(store: FileStore) -> None:
    store.write("worker", "Segmentation fault")
    assert store.reader(LogQuery())(time.time() - 60) == ["worker     Segmentation fault"]


def test_missing_logs_are_an_error_that_says_what_to_do(store: FileStore) -> None:
    with pytest.raises(LogError, match="give the --url"):
        store.reader(LogQuery())(0)


def test_follow_shows_lines_and_new_ones_until_it_is_interrupted(store: FileStore) -> None:
    write(store, "web", "before", ago=2)
    since, naps = store.reader(LogQuery()), iter(["during", "", None])
    shown: list[str] = []

    class Naps(Clock):
        def sleep(self, seconds: float) -> None:
            printed = next(naps)
            if printed is None:
                raise KeyboardInterrupt
            if printed:
                write(store, "web", printed, ago=1)

    follow_logs(since, time.time() - 60, shown.append, Naps())
    assert [message_of(line) for line in shown] == ["before", "during"]


def test_a_line_that_is_being_written_is_shown_once_it_is_complete(tmp_path: Path) -> None:
    files = FileStore(tmp_path)
    files.write("web", "first")
    path, read = tmp_path / "logs" / "web.log", files.reader(LogQuery())
    with path.open("a") as log:
        log.write("sec")
    assert read(0) == ["web        first"]
    with path.open("a") as log:
        log.write("ond\n")
    assert read(0) == ["web        second"]
    path.write_text("new\n")  # a new system has replaced the file
    assert read(0) == ["web        new"]


def test_rotated_lines_are_read_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 1)
    files, read = FileStore(tmp_path), LocalLogs(tmp_path, LogQuery()).since
    for number in range(3):
        files.write("web", f"line {number}")
        log_files.bound(tmp_path, tmp_path / "logs")
    assert read(0) == [f"web        line {number}" for number in range(3)]
    files.write("web", "line 3", "line 4")
    assert read(0) == ["web        line 3", "web        line 4"]
    files.write("web", "line 5")
    log_files.bound(tmp_path, tmp_path / "logs")
    assert read(0) == ["web        line 5"]
    assert read(0) == []
    assert LocalLogs(tmp_path, LogQuery()).since(time.time() + 60) == []


def test_the_logs_of_an_earlier_run_and_of_a_state_are_read(tmp_path: Path) -> None:
    folder, files = tmp_path / "run-8000", FileStore(tmp_path / "run-8000")
    files.write("worker", "worker of the first run")
    files.write("web", "first run")
    log_files.prepare(folder, tmp_path / "state" / "logs")
    FileStore(tmp_path / "state").write("web", "second run")
    expected = ["web        first run", "web        second run", "worker     worker of the first run"]
    assert sorted(LocalLogs(folder, LogQuery()).since(0)) == expected
    assert LocalLogs(folder, LogQuery(instance=WORKER)).since(0) == expected[2:]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(fleetsight, ["logs", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--job", "../../etc"),
        ("--image", '{ $.level = "info" }'),
        ("--image", "01k8z3t7q0w5v9n2m4x6y8b1cd"),
        ("--instance", "i-1; rm"),
        ("--trace", "0" * 32),
        ("--trace", "4bf92f3577b34da6a3ce929d0e0e4736\n"),
        ("--level", "loud"),
    ],
)
def test_an_invalid_id_or_level_is_wrong_usage(arguments: tuple[str, str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, "Invalid value" in result.output) == (2, True), result.output


def test_logs_of_a_job_begin_when_it_was_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.logs.HOME", tmp_path)
    old, files = f"01K5{new_id()[4:]}", FileStore(tmp_path / "run-8000")
    write(files, "web", "accepted", ago=86_400, job=old)
    assert "accepted" in run("--job", old).output
    assert run("--job", old, "--since", "1h").output == ""
    assert "run-8000" not in (missing := run("--url", "http://127.0.0.1:1")).output.replace("run-1:", "")
    assert "there are logs of port 8000" in missing.output


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("home"), {"FLEETSIGHT__FLEET__MAX_WORKERS": "1"}) as system:
        yield system


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.processes
def test_one_trace_leads_from_the_browsers_request_to_the_recorded_result(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = system.api()
    job = client.create_job("traced")
    answer = requests.post(
        f"{system.url}/api/v1/jobs/{job}/images",
        files=[("images", (f"{shade}.jpg", picture(shade=shade))) for shade in (1, 2)],
        headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"},
        timeout=DEADLINE_SECONDS,
    )
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    image, other = (each["image_id"] for each in answer.json()["accepted"])
    client.add_images(job, [("3.jpg", picture(shade=3))])
    wait_until(lambda: client.status(job)["state"] == "finished", "the images are classified")

    monkeypatch.setattr("scripts.logs.HOME", system.home)

    def lines_of_image() -> list[str] | None:
        """Return the lines once all three processes have written theirs."""
        lines = run("--url", system.url, "--image", image).output.splitlines()
        return lines if len(lines) == 3 else None

    # The worker writes its line after it has published the result, which the controller may already have recorded.
    first, *others = lines = wait_until(lines_of_image, "each process has logged the image")
    assert first.split()[4:6] == ["web", "accepted"]
    assert sorted(line.split()[4:6] for line in others) == [["controller", "recorded"], ["worker", "answered"]]
    assert all(TRACE in line and other not in line for line in lines), lines
    of_trace = run("--url", system.url, "--trace", TRACE).output
    assert {"POST 200", "accepted", "answered", "recorded"} <= {message_of(line) for line in of_trace.splitlines()}
    of_job = run("--url", system.url, "--job", job, "controller").output
    assert "closed a finished job" in of_job or "recorded" in of_job


def test_a_running_system_rotates_its_logs(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 0)
    wait_until((system.logs / "web.log.1").exists, "the log of the web tier was rotated")
