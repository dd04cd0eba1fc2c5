"""Logs: what is read of CloudWatch, and how a line is told."""

import json
import time

import pytest

from localcloud.launch import LocalCloud
from scripts.aws.context import Waiter
from scripts.aws.logs import LogError, LogReader, follow_logs, format_line, parse_duration, strip_control
from tests.support.aws_stage import Stage, account_at

LINE = {
    "at": "2026-03-01T12:00:00.123+00:00",
    "level": "warning",
    "process": "worker",
    "logger": "app_tier",
    "message": "slow",
}


@pytest.fixture
def stage(cloud: LocalCloud) -> Stage:
    return Stage(account_at(cloud.endpoint_url))


def write(stage: Stage, role: str, *lines: str, ago: float = 1.0) -> None:
    group, logs = f"/{stage.prefix}/{role}", stage.account.logs
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="i-1")
    at = int((time.time() - ago) * 1_000)
    events = [{"timestamp": at, "message": each} for each in lines]
    logs.put_log_events(logGroupName=group, logStreamName="i-1", logEvents=events)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7_200), ("1d", 86_400)])
def test_a_length_of_time_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1.5h", "10 m"])
def test_any_other_length_is_refused_with_examples(text: str) -> None:
    with pytest.raises(LogError, match="such as 90s, 10m"):
        parse_duration(text)


def test_a_line_of_ours_is_told_by_time_level_role_and_message_and_then_the_rest() -> None:
    line = format_line(json.dumps({**LINE, "image_id": "01M7", "seconds": 3}), "worker")
    assert line == "01 Mar 12:00:00 warning worker     slow  image_id=01M7 seconds=3"


def test_an_exception_stands_below_its_line() -> None:
    line = format_line(json.dumps({**LINE, "exception": "Traceback\n  boom"}), "worker")
    assert line.splitlines()[1:] == ["    Traceback", "      boom"]


@pytest.mark.parametrize("line", ["GET / 200", '"text"', "[1]", '{"other": 1}'])
def test_a_line_of_others_is_told_as_it_is(line: str) -> None:
    assert format_line(f"{line}\n", "web") == f"web        {line}"


def test_nothing_that_is_logged_moves_the_terminals_cursor() -> None:
    assert "\x1b" not in format_line(json.dumps({**LINE, "message": "\x1b[2J", "name": "\x1b]0;x\x07"}), "web")
    assert strip_control("a\u202eb\x9bc") == "abc"


def test_lines_of_all_roles_come_in_the_order_of_time_and_each_once(stage: Stage) -> None:
    write(stage, "worker", "second", ago=20)
    write(stage, "web", "first", ago=30)
    write(stage, "web", "too old", ago=900)
    reader = LogReader(stage.account, stage.prefix)
    assert [each.split()[1] for each in reader.since(time.time() - 600)] == ["first", "second"]
    write(stage, "web", "third")
    assert [each.split()[1] for each in reader.since(time.time() - 600)] == ["third"]


def test_one_role_is_read_and_only_what_holds_the_text(stage: Stage) -> None:
    write(stage, "worker", "an apple", "a pear")
    write(stage, "web", "an apple too")
    assert LogReader(stage.account, stage.prefix, ["worker"], "apple").since(time.time() - 60) == [
        "worker     an apple"
    ]


def test_where_there_are_no_logs_it_is_asked_whether_there_is_a_stack(stage: Stage) -> None:
    with pytest.raises(LogError, match="is there a stack"):
        LogReader(stage.account, stage.prefix).since(0)


def test_following_shows_what_comes_until_it_is_interrupted(stage: Stage) -> None:
    write(stage, "web", "before")
    reader, naps = LogReader(stage.account, stage.prefix), iter(["during", "", None])
    shown: list[str] = []
    reader.since(time.time() - 60)

    def sleep(_: float) -> None:
        said = next(naps)
        if said is None:
            raise KeyboardInterrupt
        if said:
            write(stage, "web", said)

    follow_logs(reader, shown.append, Waiter(sleep=sleep))
    assert shown == ["web        during"]
