"""`fleetsight status` and `down` of a stack on ministack, as a person types them."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from scripts.aws.context import AwsAccount
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.status import read_status
from scripts.cli import fleetsight
from tests.support.aws_stage import IMAGE, Stage, launch_workers


@pytest.fixture
def stage(account: AwsAccount) -> Stage:
    return Stage(account)


@pytest.fixture(scope="module")
def deployed(account: AwsAccount) -> Iterator[Stage]:
    """A stack with a setting and two workers."""
    stage = Stage(account)
    stage.up(settings=StackSettings({}, {"fleet.max_workers": "5"}))
    launch_workers(stage, 2)
    yield stage
    stage.down(delete_data=True)


def where(stage: Stage) -> list[str]:
    return ["--region", "us-east-1", "--endpoint-url", stage.account.endpoint_url or "", "--prefix", stage.prefix]


def typed(stage: Stage, command: str, *arguments: str, answer_typed: str | None = None) -> Result:
    with pytest.MonkeyPatch.context() as patch:  # the clients are shared, since making them takes longer than a test
        patch.setattr("scripts.aws.context.AwsAccount", lambda *_: stage.account)
        patch.setattr("scripts.aws.commands.Waiter", lambda: stage.time.waiter)
        return CliRunner().invoke(fleetsight, [command, *where(stage), *arguments], input=answer_typed)


def test_status_shows_stack_page_instances_queues_alarms_and_images(deployed: Stage) -> None:
    stage = deployed
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
    addresses = [each["PublicIp"] for each in stage.account.ec2.describe_addresses()["Addresses"]]
    assert reported["page"].removeprefix("https://") in addresses
    assert reported["workers"] == {"running": 2}
    assert reported["queues"]["requests"] == {"visible": 2, "in_flight": 1}
    assert reported["alarms"] == [alarm]
    assert reported["images"] == {"worker": IMAGE, "web": IMAGE}
    assert reported["settings"] == {"fleet.max_workers": "5"}
    shown = " ".join(typed(stage, "status").stdout.split())
    for text in (
        "create complete",
        "2 running",
        "2 messages waiting, 1 in flight",
        "DeadLetters",
        "fleet.max_workers=5",
    ):
        assert text in shown


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
