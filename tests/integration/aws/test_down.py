"""``fleetsight down`` on ministack: what is deleted, and what is kept."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from scripts.aws import down
from scripts.aws.context import TAG, AwsAccount, DeclinedError
from scripts.aws.deploy.kept_settings import begin_adoption
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.deploy.stack import find_stack
from scripts.aws.down import ResourcesLeftError
from scripts.aws.instances import instances_named, web_name, worker_name
from scripts.aws.resources import RESOURCE_TYPES
from services.metadata import DRAIN_TAG
from tests.support.aws_stage import (
    WITH_SITE,
    CrashError,
    Stage,
    data_buckets,
    launch_workers,
    left,
    make_belongings,
)
from tests.support.stack_template import RESOURCES


@pytest.fixture
def stage(account: AwsAccount) -> Stage:
    return Stage(account)


WITH_NAME = {"SiteName": "www.example.org", "SiteCertificateArn": WITH_SITE["CertificateArn"]}


@pytest.fixture
def whole(stage: Stage) -> Iterator[Stage]:
    """A stack with a site, workers, data, and everything that the commands make beside it."""
    stage.up(settings=StackSettings({**WITH_SITE, **WITH_NAME}))
    launch_workers(stage, 2)
    make_belongings(stage)
    for bucket in data_buckets(stage):
        stage.account.s3.put_object(Bucket=bucket, Key="job/image.jpg", Body=b"image")
    yield stage
    stage.crash_at = None
    stage.down(delete_data=True)


def test_a_down_that_dies_after_every_step_leaves_only_data(whole: Stage) -> None:
    before = left(whole)
    assert {kind.name for kind in RESOURCE_TYPES} == before, "there is one of each to be deleted"
    whole.crash_at, crashes = 1, 0
    for _ in range(60):
        try:
            whole.down()
        except CrashError:
            crashes += 1
        else:
            break
    assert crashes >= 12
    assert find_stack(whole.account, whole.prefix) is None
    assert left(whole) == {"bucket of data", "job table", "user pool"}
    shown = whole.seen
    assert "is left, but data." in shown
    assert "A GB of objects costs $0.023 a month" in shown
    for bucket in data_buckets(whole):
        assert f"bucket of data {bucket}" in shown
        assert whole.account.s3.get_object(Bucket=bucket, Key="job/image.jpg")["Body"].read() == b"image"


def test_delete_data_deletes_everything_and_repeats_harmlessly(whole: Stage) -> None:
    bucket = data_buckets(whole)[0]
    whole.account.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(2):
        whole.account.s3.put_object(Bucket=bucket, Key="old", Body=b"1")
    whole.account.s3.delete_object(Bucket=bucket, Key="old")
    whole.account.s3.create_multipart_upload(Bucket=bucket, Key="unfinished")
    stack = find_stack(whole.account, whole.prefix)
    assert stack is not None
    assert stack.outputs["PageAddress"] == "https://images.example.org"
    assert "Fleetsight is at https://www.example.org" in whole.seen
    site = stack.outputs["SiteBucketName"]
    files = whole.account.s3.list_objects_v2(Bucket=site)["KeyCount"]
    assert b"https://www.example.org" in whole.account.s3.get_object(Bucket=site, Key="api")["Body"].read()
    whole.down(delete_data=True)
    assert not left(whole)
    distributions = whole.account.cloudfront.list_distributions()["DistributionList"].get("Items", [])
    assert stack.outputs["SiteDistributionId"] not in {each["Id"] for each in distributions}
    assert f"emptied the bucket {site} of {files} objects" in whole.steps
    assert "deleted for good" in whole.seen
    steps = len(whole.steps)
    whole.down(delete_data=True)
    assert f"There is nothing of {whole.prefix} to delete." in whole.seen
    assert len(whole.steps) == steps


@contextmanager
def change_sets(stage: Stage) -> Iterator[list[Any]]:
    """Yield the requests of change sets, as they are made."""
    events, requests = stage.account.cloudformation.meta.events, list[Any]()
    event = "provide-client-params.cloudformation.CreateChangeSet"
    events.register(event, lambda params, **_: requests.append(params))
    yield requests
    events.unregister(event)


def parameters(stage: Stage) -> dict[str, str]:
    stack = find_stack(stage.account, stage.prefix)
    assert stack is not None
    return dict(stack.parameters)


def test_the_next_stack_has_the_settings_of_the_deleted_one_unless_others_are_given(stage: Stage) -> None:
    given = {"WebCidr": "10.0.0.0/8", "UnkeptDays": "60", "MonthlyBudget": "70"}
    stage.up(settings=StackSettings(given, {"fleet.max_workers": "5"}))
    before = parameters(stage)
    for _ in range(2):
        stage.down()
        stage.up(settings=StackSettings({"MonthlyBudget": "80"}))
        after = parameters(stage)
        assert after == {**before, "MonthlyBudget": "80", "KeptUserPool": after["KeptUserPool"]}
    assert {"WebCidr": "10.0.0.0/8", "UnkeptDays": "60"}.items() <= after.items()
    assert "MAX_WORKERS='5'" in after["WebSettings"]
    assert "The settings that the last `down` kept are used again" in stage.seen


def test_adopted_tables_and_buckets_get_the_settings_of_the_template(stage: Stage) -> None:
    """An import does not apply the template; a drift-aware change set "brings actual resource states in line with
    template definitions": https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/drift-aware-change-sets.html
    """

    def modes() -> list[tuple[str | None, bool | None]]:
        with change_sets(stage) as requests:
            stage.up()
        return [(each.get("DeploymentMode"), each.get("ImportExistingResources")) for each in requests]

    as_usual, reverts_drift = (None, True), ("REVERT_DRIFT", None)
    assert modes() == [as_usual]
    stage.account.s3.put_object(Bucket=data_buckets(stage)[0], Key="kept", Body=b"image")
    table = stage.account.dynamodb.describe_table(TableName=f"{stage.prefix}-jobs")["Table"]["TableId"]
    stage.down()
    assert modes() == [as_usual, reverts_drift]
    assert stage.account.s3.get_object(Bucket=data_buckets(stage)[0], Key="kept")["Body"].read() == b"image"
    assert stage.account.dynamodb.describe_table(TableName=f"{stage.prefix}-jobs")["Table"]["TableId"] == table
    assert modes() == [as_usual]
    begin_adoption(stage.context)  # and the run died while CloudFormation imported
    assert modes() == [as_usual, reverts_drift], "the next run continues"
    assert modes() == [as_usual], "once"


def test_a_restored_table_stays_in_use_after_down_and_is_deleted_as_the_stacks_own(stage: Stage) -> None:
    own = f"{stage.prefix}-jobs"
    restored, foreign = f"{own}-restored-1", f"{own}-restored-by-hand"
    for table, owner in ((restored, stage.prefix), (foreign, "another")):
        stage.account.dynamodb.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
            Tags=[{"Key": TAG, "Value": owner}],
        )
    stage.up(settings=StackSettings({"RestoredJobTable": restored}))
    stage.down()
    stage.up()
    assert parameters(stage)["RestoredJobTable"] == restored
    stage.down(delete_data=True)
    tables = stage.account.dynamodb.list_tables()["TableNames"]  # other tests use the same cloud
    assert {name for name in tables if name.startswith(own)} == {foreign}


def test_a_declined_or_dry_run_deletes_nothing_and_lists_everything(stage: Stage) -> None:
    stage.up()
    steps, there = len(stage.steps), left(stage)
    stage.down(dry_run=True)
    with pytest.raises(DeclinedError, match="nothing was deleted"):
        stage.down(says_yes=False)
    shown = stage.seen
    assert f"/{stage.prefix}/image/worker" in shown
    assert len(re.findall(r"(?:bucket of data|job table|user pool) .*kept", shown)) == 10
    assert (len(stage.steps), left(stage)) == (steps, there)


def test_workers_drain_and_the_remaining_ones_are_terminated(stage: Stage) -> None:
    stage.up()
    one, two = launch_workers(stage, 2)
    request: list[bool] = []
    really_sleep = stage.time.sleep

    def sleep(seconds: float) -> None:
        really_sleep(seconds)
        workers = instances_named(stage.account, worker_name(stage.prefix))
        if workers and all(each.draining for each in workers) and not request:
            request.append(True)
            stage.account.ec2.terminate_instances(InstanceIds=[one])  # it has finished

    stage.time.sleep = sleep  # type: ignore[method-assign]
    stage.down(drain_seconds=60)
    assert request
    assert "ended 1 workers" in stage.steps
    assert "asked 2 workers to finish what they have and end" in stage.steps
    assert stage.time.now >= 60
    (found,) = stage.account.ec2.describe_instances(InstanceIds=[two])["Reservations"][0]["Instances"]
    assert found["State"]["Name"] == "terminated"
    assert DRAIN_TAG in {each["Key"] for each in found["Tags"]}


def test_an_up_restores_the_web_tier_after_an_unfinished_down(stage: Stage) -> None:
    stage.up()
    stage.crash_at = 1
    with pytest.raises(CrashError, match="scaled the web tier to 0"):
        stage.down()
    stage.crash_at = None
    assert stage.up()
    assert instances_named(stage.account, web_name(stage.prefix), states=["running"])
    (group,) = stage.account.autoscaling.describe_auto_scaling_groups(
        Filters=[{"Name": f"tag:{TAG}", "Values": [stage.prefix]}]
    )["AutoScalingGroups"]
    largest = int(RESOURCES["WebGroup"]["Properties"]["MaxSize"])
    assert (group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) == (1, 1, largest)


def test_resources_of_others_stay(stage: Stage) -> None:
    account = stage.account
    others = Stage(account, f"{stage.prefix[:-2]}zz")
    account.s3.create_bucket(Bucket=f"{stage.prefix}-photos-us-east-1")
    account.ssm.put_parameter(Name=f"/{stage.prefix}/tls", Value="secret", Type="SecureString")
    stage.up()
    others.up()
    theirs = left(others)
    stage.down(delete_data=True)
    assert account.s3.head_bucket(Bucket=f"{stage.prefix}-photos-us-east-1")
    assert account.ssm.get_parameter(Name=f"/{stage.prefix}/tls")
    assert find_stack(account, others.prefix)
    assert left(others) == theirs


def test_the_command_fails_and_names_resources_that_are_left(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.up()
    make_belongings(stage)
    monkeypatch.setattr(down, "_delete_all", lambda *_: None)
    with pytest.raises(ResourcesLeftError, match="run this again; if it stays, delete it by hand") as refused:
        stage.down()
    named = {line.strip().rpartition(" ")[0] for line in str(refused.value).splitlines()[1:-1]}
    assert named >= {"instance", "image", "snapshot", "volume", "security group", f"stack {stage.prefix},"}
