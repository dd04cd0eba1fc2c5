"""``fleetsight status``, and what of all commands is typed, on a local cloud."""

import json

import pytest
from click.testing import CliRunner, Result

from localcloud.launch import LocalCloud
from scripts.aws.commands import parse_network
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.status import read_status
from scripts.cli import fleetsight
from tests.support.aws_resources import launch_workers
from tests.support.aws_stage import IMAGE, Stage, account_at


@pytest.fixture
def stage(cloud: LocalCloud) -> Stage:
    return Stage(account_at(cloud.endpoint_url))


def typed(stage: Stage, command: str, *arguments: str, said: str | None = None) -> Result:
    where = ["--region", "us-east-1", "--endpoint-url", stage.account.endpoint_url or "", "--prefix", stage.prefix]
    return CliRunner().invoke(fleetsight, [command, *where, *arguments], input=said)


def test_status_tells_of_stack_page_instances_queues_alarms_and_images(stage: Stage) -> None:
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
    told = json.loads(typed(stage, "status", "--json").stdout)
    assert (told["stack"], told["failure"], told["template"]) == ("CREATE_COMPLETE", "", [1, 1])
    (address,) = stage.account.ec2.describe_addresses(Filters=[{"Name": "tag:fleetsight", "Values": [stage.prefix]}])[
        "Addresses"
    ]
    assert told["page"] == f"https://{address['PublicIp']}"
    assert told["workers"] == {"running": 2}
    assert told["queues"]["requests"] == {"visible": 2, "in_flight": 1}
    assert told["alarms"] == [alarm]
    assert told["images"] == {"worker": IMAGE, "web": IMAGE}
    assert told["settings"] == {"fleet.max_workers": "5"}
    shown = " ".join(typed(stage, "status").stdout.split())
    for words in ("create complete", "2 running", "2 waiting, 1 in flight", "DeadLetters", "fleet.max_workers=5"):
        assert words in shown
    stage.down(delete_data=True)


def test_without_a_stack_it_says_what_makes_one_and_fails(stage: Stage) -> None:
    assert read_status(stage.context) is None
    told = typed(stage, "status")
    assert told.exit_code == 1
    assert "`fleetsight up` makes it" in told.output
    assert typed(stage, "status", "--json").stdout == "null\n"


def test_down_is_typed_with_the_prefix_and_anything_else_deletes_nothing(stage: Stage) -> None:
    stage.store_images()
    refused = typed(stage, "down", said="yes\n")
    assert refused.exit_code == 1
    assert "nothing was deleted" in refused.output
    done = typed(stage, "down", said=f"{stage.prefix}\n")
    assert done.exit_code == 0, done.output
    assert f"deleted the parameter /{stage.prefix}/image/web" in done.output
    assert "There is nothing" in typed(stage, "down", "--yes").output


def test_a_dry_run_of_up_is_typed_with_all_that_it_takes(stage: Stage) -> None:
    stage.store_images()
    told = typed(
        stage, "up", "--dry-run", "--open-to", "everybody", "--budget", "70", "--email", "ops@example.org",
        "--set", "ScaleIn=stop", "--config", "fleet.max_workers=5",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "AlertsByMail" in told.output, "a subscription for the address"


def test_what_aws_refuses_is_one_line_and_status_1(stage: Stage) -> None:
    stage.store_images()
    told = typed(stage, "up", "--yes", "--set", "ScaleIn=sometimes")
    assert told.exit_code == 1
    assert told.output.splitlines()[-1].startswith("Error: ")
    assert "ScaleIn" in told.output.splitlines()[-1]


def test_ssh_says_what_it_would_run_and_what_there_is(stage: Stage) -> None:
    (worker,) = launch_workers(stage, 1)
    told = typed(stage, "ssh", "--dry-run")
    assert told.output == f"aws ssm start-session --target {worker} --region us-east-1\n"
    assert worker in typed(stage, "ssh", "web").output
    stage.account.ec2.terminate_instances(InstanceIds=[worker])


@pytest.mark.parametrize(("value", "cidr"), [("everybody", "0.0.0.0/0"), ("198.51.100.7/32", "198.51.100.7/32")])
def test_whom_the_page_is_open_to_is_a_network(value: str, cidr: str) -> None:
    assert parse_network(None, None, value) == cidr  # type: ignore[arg-type]
