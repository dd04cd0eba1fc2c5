"""`fleetsight status` and `fleetsight logs` of a stack on the local cloud."""

import json
import time

import pytest
from click.testing import CliRunner, Result

from localcloud.launch import LocalCloud
from scripts.aws.commands import parse_network
from scripts.aws.context import Waiter
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.logs import LogError, LogReader, follow_logs, format_line, parse_duration, strip_control
from scripts.aws.status import read_status
from scripts.cli import fleetsight
from tests.support.aws_resources import launch_workers
from tests.support.aws_stage import IMAGE, Stage, account_at


@pytest.fixture
def stage(cloud: LocalCloud) -> Stage:
    return Stage(account_at(cloud.endpoint_url))


def typed(stage: Stage, command: str, *arguments: str, answer_typed: str | None = None) -> Result:
    where = ["--region", "us-east-1", "--endpoint-url", stage.account.endpoint_url or "", "--prefix", stage.prefix]
    return CliRunner().invoke(fleetsight, [command, *where, *arguments], input=answer_typed)


def test_status_shows_stack_page_instances_queues_alarms_and_images(stage: Stage) -> None:
    stage.up(settings=StackSettings({}, {"fleet.max_workers": "5"}))
    launch_workers(stage, 2)
    url = stage.account.sqs.get_queue_url(QueueName=f"{stage.prefix}-requests")["QueueUrl"]
    for _ in range(3):
        stage.account.sqs.send_message(QueueUrl=url, MessageBody="x")
    stage.account.sqs.receive_message(QueueUrl=url)
    cloudwatch, alarm = stage.account.cloudwatch, f"{stage.prefix}-DeadLetters"
    cloudwatch.put_metric_alarm(
        AlarmName=alarm, Namespace="AWS/SQS", MetricName="NumberOfMessagesReceived", Statistic="Sum", Period=60,
        EvaluationPeriods=1, Threshold=0, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a test")
    reported = json.loads(typed(stage, "status", "--json").stdout)
    assert (reported["stack"], reported["failure"], reported["template"]) == ("CREATE_COMPLETE", "", [1, 1])
    (address,) = stage.account.ec2.describe_addresses(Filters=[{"Name": "tag:fleetsight", "Values": [stage.prefix]}])[
        "Addresses"
    ]
    assert reported["page"] == f"https://{address['PublicIp']}"
    assert reported["workers"] == {"running": 2}
    assert reported["queues"]["requests"] == {"visible": 2, "in_flight": 1}
    assert reported["alarms"] == [alarm]
    assert reported["images"] == {"worker": IMAGE, "web": IMAGE}
    assert reported["settings"] == {"fleet.max_workers": "5"}
    shown = " ".join(typed(stage, "status").stdout.split())
    for words in ("create complete", "2 running", "2 waiting, 1 in flight", "DeadLetters", "fleet.max_workers=5"):
        assert words in shown
    stage.down(delete_data=True)


def test_status_without_a_stack_fails_with_the_remedy(stage: Stage) -> None:
    assert read_status(stage.context) is None
    reported = typed(stage, "status")
    assert reported.exit_code == 1
    assert "`fleetsight up` makes it" in reported.output
    assert typed(stage, "status", "--json").stdout == "null\n"


def test_down_is_confirmed_by_the_prefix_only(stage: Stage) -> None:
    stage.store_images()
    refused = typed(stage, "down", answer_typed="yes\n")
    assert refused.exit_code == 1
    assert "nothing was deleted" in refused.output
    done = typed(stage, "down", answer_typed=f"{stage.prefix}\n")
    assert done.exit_code == 0, done.output
    assert f"deleted the parameter /{stage.prefix}/image/web" in done.output
    assert "There is nothing" in typed(stage, "down", "--yes").output


def test_a_dry_run_of_up_accepts_all_options(stage: Stage) -> None:
    stage.store_images()
    reported = typed(
        stage, "up", "--dry-run", "--open-to", "everybody", "--budget", "70", "--email", "ops@example.org",
        "--set", "ScaleIn=stop", "--config", "fleet.max_workers=5",
    )  # fmt: skip
    assert reported.exit_code == 0, reported.output
    assert "AlertsByMail" in reported.output, "a subscription for the address"


def test_an_error_of_aws_is_one_line_and_status_1(stage: Stage) -> None:
    stage.store_images()
    reported = typed(stage, "up", "--yes", "--set", "ScaleIn=sometimes")
    assert reported.exit_code == 1
    assert reported.output.splitlines()[-1].startswith("Error: ")
    assert "ScaleIn" in reported.output.splitlines()[-1]


def test_ssh_dry_run_prints_the_command_and_the_instances(stage: Stage) -> None:
    (worker,) = launch_workers(stage, 1)
    reported = typed(stage, "ssh", "--dry-run")
    assert reported.output == f"aws ssm start-session --target {worker} --region us-east-1\n"
    assert worker in typed(stage, "ssh", "web").output
    stage.account.ec2.terminate_instances(InstanceIds=[worker])


@pytest.mark.parametrize(("value", "cidr"), [("everybody", "0.0.0.0/0"), ("198.51.100.7/32", "198.51.100.7/32")])
def test_open_to_accepts_networks_only(value: str, cidr: str) -> None:
    assert parse_network(None, None, value) == cidr  # type: ignore[arg-type]


LINE = {
    "at": "2026-03-01T12:00:00.123+00:00",
    "level": "warning",
    "process": "worker",
    "logger": "app_tier",
    "message": "slow",
}


def write(stage: Stage, role: str, *lines: str, ago: float = 1.0) -> None:
    group, logs = f"/{stage.prefix}/{role}", stage.account.logs
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="i-1")
    at = int((time.time() - ago) * 1_000)
    events = [{"timestamp": at, "message": each} for each in lines]
    logs.put_log_events(logGroupName=group, logStreamName="i-1", logEvents=events)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7_200), ("1d", 86_400)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1.5h", "10 m"])
def test_an_invalid_duration_is_rejected_with_examples(text: str) -> None:
    with pytest.raises(LogError, match="such as 90s, 10m"):
        parse_duration(text)


def test_a_json_line_shows_time_level_role_message_and_fields() -> None:
    line = format_line(json.dumps({**LINE, "image_id": "01M7", "seconds": 3}), "worker")
    assert line == "01 Mar 12:00:00 warning worker     slow  image_id=01M7 seconds=3"


def test_an_exception_follows_its_line() -> None:
    line = format_line(json.dumps({**LINE, "exception": "Traceback\n  boom"}), "worker")
    assert line.splitlines()[1:] == ["    Traceback", "      boom"]


@pytest.mark.parametrize("line", ["GET / 200", '"text"', "[1]", '{"other": 1}'])
def test_other_lines_are_unchanged(line: str) -> None:
    assert format_line(f"{line}\n", "web") == f"web        {line}"


def test_log_lines_contain_no_control_characters() -> None:
    assert "\x1b" not in format_line(json.dumps({**LINE, "message": "\x1b[2J", "name": "\x1b]0;x\x07"}), "web")
    assert strip_control("a\u202eb\x9bc") == "abc"


def test_lines_of_all_roles_are_sorted_by_time_and_unique(stage: Stage) -> None:
    write(stage, "worker", "second", ago=20)
    write(stage, "web", "first", ago=30)
    write(stage, "web", "too old", ago=900)
    reader = LogReader(stage.account, stage.prefix)
    assert [each.split()[1] for each in reader.since(time.time() - 600)] == ["first", "second"]
    write(stage, "web", "third")
    assert [each.split()[1] for each in reader.since(time.time() - 600)] == ["third"]


def test_logs_are_filtered_by_role_and_text(stage: Stage) -> None:
    write(stage, "worker", "an apple", "a pear")
    write(stage, "web", "an apple too")
    assert LogReader(stage.account, stage.prefix, ["worker"], "apple").since(time.time() - 60) == [
        "worker     an apple"
    ]


def test_missing_logs_are_an_error(stage: Stage) -> None:
    with pytest.raises(LogError, match="is there a stack"):
        LogReader(stage.account, stage.prefix).since(0)


def test_follow_shows_new_lines_until_it_is_interrupted(stage: Stage) -> None:
    write(stage, "web", "before")
    reader, naps = LogReader(stage.account, stage.prefix), iter(["during", "", None])
    shown: list[str] = []
    reader.since(time.time() - 60)

    def sleep(_: float) -> None:
        printed = next(naps)
        if printed is None:
            raise KeyboardInterrupt
        if printed:
            write(stage, "web", printed)

    follow_logs(reader, shown.append, Waiter(sleep=sleep))
    assert shown == ["web        during"]
