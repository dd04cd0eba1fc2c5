"""``fleetsight up`` on an embedded cloud."""

import base64
import re
from typing import Any

import pytest
from click.testing import CliRunner

from scripts.aws.account import TAG
from scripts.aws.deploy import page
from scripts.aws.deploy.settings import SettingError, Wishes
from scripts.aws.deploy.stacks import StackError, find
from scripts.aws.deploy.up import NotWantedError
from scripts.aws.waiting import TimedOutError
from scripts.cli import fleetsight
from services.embedded.launch import EmbeddedCloud
from tests.unit.scripts.aws.stage import CrashError, Stage, account_at


@pytest.fixture
def stage(cloud: EmbeddedCloud) -> Stage:
    return Stage(account_at(cloud.endpoint_url))


def stack(stage: Stage) -> Any:
    found = find(stage.account, stage.prefix)
    assert found is not None
    return found


def test_an_up_that_dies_at_any_step_goes_on_when_it_is_run_again(stage: Stage) -> None:
    crashes = 0
    for step in range(1, 20):
        stage.crash_at = step
        try:
            address = stage.up(wishes=Wishes({"WebCidr": "0.0.0.0/0"}))
        except CrashError:
            crashes += 1
            continue
        break
    assert crashes >= 3
    assert re.fullmatch(r"https://[\d.]+", address or "")
    assert stack(stage).status == "CREATE_COMPLETE"
    left = stage.account.cloudformation.list_change_sets(StackName=stage.prefix)["Summaries"]
    assert not [each for each in left if each.get("ExecutionStatus") == "AVAILABLE"]


def test_a_no_changes_nothing_and_leaves_no_stack(stage: Stage) -> None:
    stage.store_images()
    with pytest.raises(NotWantedError, match="nothing was done"):
        stage.up(says_yes=False)
    assert find(stage.account, stage.prefix) is None
    assert "costs: an instance" in stage.seen


def test_a_dry_run_shows_what_would_be_and_what_it_would_cost_and_leaves_nothing(stage: Stage) -> None:
    stage.store_images()
    buckets = stage.account.s3.list_buckets()["Buckets"]
    assert stage.up(dry_run=True) is None
    shown = stage.seen
    assert "WebGroup" in shown
    assert "load balancer" not in shown
    assert "public addresses, 1" in shown
    assert find(stage.account, stage.prefix) is None
    assert stage.account.s3.list_buckets()["Buckets"] == buckets


def test_a_dry_run_without_images_says_that_they_would_be_baked(stage: Stage) -> None:
    assert stage.up(dry_run=True) is None
    assert "no image for worker and web: it would be baked first" in stage.seen
    assert not stage.steps


def test_without_images_and_without_leave_to_bake_it_says_what_to_run(stage: Stage) -> None:
    with pytest.raises(NotWantedError, match="fleetsight bake"):
        stage.up(bake=False)


def test_a_setting_that_cannot_be_stops_it_before_anything_is_made(stage: Stage) -> None:
    for wishes in (Wishes({}, {"fleet.max_workers": "-1"}), Wishes({"UnkeptDays": "5"})):
        with pytest.raises(SettingError):
            stage.up(wishes=wishes)
    assert not stage.steps
    assert "baked" not in stage.seen


def test_a_creation_that_fails_names_the_reason_and_the_next_one_starts_afresh(stage: Stage) -> None:
    stage.store_images()
    name = f"{stage.prefix}-requests"
    taken = stage.account.sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "7"})["QueueUrl"]
    with pytest.raises(StackError, match=r"ROLLBACK_COMPLETE:\n  RequestQueue \(AWS::SQS::Queue\) create failed: \w"):
        stage.up()
    stage.account.sqs.delete_queue(QueueUrl=taken)
    stage.up()
    assert "was never complete (ROLLBACK_COMPLETE)" in stage.seen
    assert stack(stage).status == "CREATE_COMPLETE"


def test_what_was_said_once_stays_until_it_is_said_otherwise(stage: Stage) -> None:
    stage.store_images()
    said = {"fleet.max_workers": "5", "retention.unkept_days": "14"}
    stage.up(wishes=Wishes({"WebCidr": "10.0.0.0/8", "MonthlyBudget": "70"}, said))
    assert stack(stage).parameters["UnkeptDays"] == "37"
    stage.up(wishes=Wishes({"MonthlyBudget": "80"}, {"worker.top_k": "3", "retention.unkept_days": ""}))
    now = stack(stage)
    assert now.parameters["UnkeptDays"] == "30"
    assert (now.parameters["WebCidr"], now.parameters["MonthlyBudget"]) == ("10.0.0.0/8", "80")
    line = "export FLEETSIGHT__FLEET__MAX_WORKERS='5' FLEETSIGHT__WORKER__TOP_K='3'"
    assert now.parameters["WebSettings"] == line
    version = stage.account.ec2.describe_launch_template_versions(
        LaunchTemplateName=f"{stage.prefix}-web", Versions=["$Latest"]
    )["LaunchTemplateVersions"][0]
    assert line in base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
    assert "version 1 of their template; 2 is the newest: `fleetsight roll`" in stage.seen
    steps = len(stage.steps)
    stage.up()
    assert "is as it should be" in stage.seen
    assert "CloudFormation has begun" not in stage.steps[steps:]
    assert {"Key": TAG, "Value": stage.prefix} in stage.account.cloudformation.describe_stacks(
        StackName=stage.prefix
    )["Stacks"][0]["Tags"]


def test_a_page_that_never_answers_is_given_up_with_where_to_look(
    stage: Stage,
) -> None:
    stage.store_images()
    stage.up(wishes=Wishes({"WebCidr": "198.51.100.7/32"}))
    stage.time.pause = 0
    with pytest.raises(
        TimedOutError, match=r"open to 198.51.100.7/32 \(are you there\?\); look at `fleetsight status"
    ):
        page.wait_for_page(stage.operation, stack(stage), lambda _: False)


def test_a_page_that_is_open_to_nobody_is_not_asked(stage: Stage) -> None:
    stage.store_images()
    stage.up()
    assert "open to nobody yet" in stage.seen

    def never(_: str) -> bool:
        raise AssertionError

    page.wait_for_page(stage.operation, stack(stage), never)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--open-to", "me"], "Fleetsight asks nobody on the internet"),
        (["--open-to", "1.2.3.4/40"], "give a network such as"),
        (["--open-to", "10.0.0.1/8"], "has host bits set"),
        (["--set", "ScaleIn"], "write NAME=VALUE"),
        (["--prefix", "Fleet"], "3 to 16 small letters"),
    ],
    ids=["me", "no-network", "host-bits", "no-value", "prefix"],
)
def test_what_cannot_be_meant_is_refused_with_what_can(options: list[str], told: str) -> None:
    result = CliRunner().invoke(fleetsight, ["up", *options])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())
