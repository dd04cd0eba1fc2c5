"""Bakes on ministack with instances that compute nothing; the test plays the builders."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from core.ids import new_id
from localcloud.launch import REGION
from scripts.aws.bake.bake import bake
from scripts.aws.bake.builders import MAX_LIFE_MINUTES
from scripts.aws.bake.images import list_images
from scripts.aws.bake.spec import ROLES, BakeError, BaseImage, base_image
from scripts.aws.commands import bake_command
from scripts.aws.context import TAG, AwsAccount, Waiter
from tests.support.aws_builders import Bakery, Killed, MortalAccount, instances, user_data

STEPS = range(1, 15)
"""What the bake of one image reports, in a bucket that is made for it."""


@pytest.fixture
def bakery(accounts: tuple[MortalAccount, AwsAccount], tmp_path: Path) -> Bakery:
    accounts[0].reborn()
    return Bakery(*accounts, f"t{new_id().lower()[-12:]}", tmp_path, ("worker",))


@pytest.fixture(scope="module")
def base(accounts: tuple[MortalAccount, AwsAccount]) -> BaseImage:
    return base_image(accounts[1].ec2, "c7a.large", "openvino", ROLES)


@dataclass
class Baked:
    """A bake of the workers' image, the request that launched its builder, and what its builder was while it ran."""

    bakery: Bakery
    image_id: str
    launch: dict[str, Any] = field(default_factory=dict)
    groups: list[Any] = field(default_factory=list)
    script: str = ""


@pytest.fixture(scope="module")
def baked(
    accounts: tuple[MortalAccount, AwsAccount], base: BaseImage, tmp_path_factory: pytest.TempPathFactory
) -> Baked:
    accounts[0].reborn()
    prefix = f"t{new_id().lower()[-12:]}"
    done = Baked(Bakery(*accounts, prefix, tmp_path_factory.mktemp("baked"), ("worker",)), "")
    bakery = done.bakery

    def observe() -> None:
        for builder in instances(bakery.observer, bakery.prefix, "running"):
            groups = [each["GroupId"] for each in builder["SecurityGroups"]]
            done.groups = bakery.observer.ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]
            done.script = user_data(bakery.observer, builder["InstanceId"])
        bakery.builders.work()

    events, event = bakery.account.ec2.meta.events, "provide-client-params.ec2.RunInstances"
    events.register(event, note := lambda params, **_: done.launch.update(params))
    bakery.clock.work = observe
    done.image_id = bake(bakery.context, bakery.options(), bakery.source(), base)["worker"]
    events.unregister(event, note)
    return done


def test_workers_and_web_tier_have_their_images_in_the_parameter_store(bakery: Bakery, base: BaseImage) -> None:
    bakery.roles = ROLES
    made = bake(bakery.context, bakery.options(), bakery.source(), base)
    assert set(made) == {"worker", "web"}
    for role, image_id in made.items():
        parameter = bakery.observer.ssm.get_parameter(Name=f"/{bakery.prefix}/image/{role}")["Parameter"]
        assert (parameter["Value"], parameter["Type"], parameter["DataType"]) == (image_id, "String", "aws:ec2:image")
    assert bakery.left() == {}


def test_a_builder_has_no_rights_no_way_in_and_an_encrypted_disk(baked: Baked, base: BaseImage) -> None:
    launch, (group,) = baked.launch, baked.groups
    assert not {"IamInstanceProfile", "KeyName"} & launch.keys()
    assert launch["ImageId"] == base.image_id
    assert launch["MetadataOptions"]["HttpTokens"] == "required"
    tags = {each["ResourceType"]: each["Tags"] for each in launch["TagSpecifications"]}
    assert {"Key": "Name", "Value": f"{baked.bakery.prefix}-bake-worker"} in tags["instance"]
    assert {"Key": TAG, "Value": baked.bakery.prefix} in tags["volume"]
    assert group["IpPermissions"] == []
    assert [(each["IpProtocol"], each["FromPort"], each["ToPort"]) for each in group["IpPermissionsEgress"]] == [
        ("tcp", 443, 443)
    ]
    (disk,) = [each["Ebs"] for each in launch["BlockDeviceMappings"]]
    assert (disk["VolumeType"], disk["VolumeSize"], disk["Encrypted"]) == ("gp3", 8, True)
    assert launch["InstanceInitiatedShutdownBehavior"] == "stop"
    assert "def main(" in baked.script


def test_the_bucket_is_private_encrypted_tls_only_and_forgets_within_a_day(baked: Baked) -> None:
    bakery = baked.bakery
    s3, bucket = bakery.observer.s3, bakery.context.bake_bucket
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["Expiration"]["Days"] == 1
    refused = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert {"Bool": {"aws:SecureTransport": "false"}} in [
        each["Condition"] for each in refused if each["Effect"] == "Deny" and each["Action"] == "s3:*"
    ]
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": TAG, "Value": bakery.prefix}]


@pytest.mark.parametrize("step", STEPS)
def test_a_bake_that_is_killed_is_finished_by_the_next(step: int, bakery: Bakery, base: BaseImage) -> None:
    bakery.die_after = step
    with pytest.raises(Killed):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    again = bakery.again()
    made = bake(again.context, again.options(), again.source(), base)
    assert sum("launched" in line for line in bakery.reported + again.reported) == 1
    assert made == {"worker": bakery.stored()}
    assert [image.image_id for image in list_images(bakery.observing, "worker")] == [made["worker"]]
    assert bakery.left() == {}


@pytest.mark.parametrize("step", STEPS)
def test_a_bake_that_is_interrupted_leaves_nothing_that_costs(step: int, bakery: Bakery, base: BaseImage) -> None:
    bakery.fail_after = (step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    interrupted_while_cleaning = step > STEPS[-1] - 5
    if interrupted_while_cleaning:
        again = bakery.again()
        bake(again.context, again.options(), again.source(), base)
    assert bakery.left() == {}


def test_there_is_a_kill_for_each_step(baked: Baked) -> None:
    assert len(baked.bakery.reported) == STEPS[-1], baked.bakery.reported


def test_what_a_killed_bake_has_left_is_undone_by_that_of_another_source(bakery: Bakery, base: BaseImage) -> None:
    bakery.die_after = 7
    with pytest.raises(Killed):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    again = bakery.again()
    bake(again.context, again.options(), again.source("changed"), base)
    assert sum("launched" in line for line in again.reported) == 1
    assert sum("ended the builder" in line for line in again.reported) == 2
    assert bakery.left() == {}


def test_an_image_of_the_same_source_and_base_is_not_baked_again(bakery: Bakery, base: BaseImage) -> None:
    made = bake(bakery.context, bakery.options(), bakery.source(), base)
    again = bakery.again()
    assert bake(again.context, again.options(), again.source(), base) == made
    assert again.reported == []
    assert f"{made['worker']} is the worker's image of this source and base already" in again.said


def test_a_failed_builder_is_reported_with_its_log_and_the_other_image_is_made(
    bakery: Bakery, base: BaseImage
) -> None:
    bakery.roles = ROLES
    bakery.builders.says["web"] = {"ok": False, "problem": "nginx is missing", "log_tail": ["E: no nginx"]}
    with pytest.raises(BakeError, match=r"(?s)the web's builder has failed: nginx is missing.*E: no nginx"):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    assert (bakery.folder / "logs" / "bake-web.log").read_text() == "line 1\nline 2\n"
    assert bakery.stored("worker") == list_images(bakery.observing, "worker")[0].image_id
    assert list_images(bakery.observing, "web") == []
    assert bakery.left() == {}


ORDERED = {"version": "0.1.0", "commit": "c0ffee", "role": "worker", "bundle": "b" * 64, "engine": "openvino"}


@pytest.mark.parametrize(
    ("otherwise", "named"),
    [
        ({"archive": "0" * 64}, "source archive '000"),
        ({"image": {**ORDERED, "role": "web"}}, "role 'web'"),
        ({"image": {**ORDERED, "bundle": "0"}}, "bundle '0'"),
        ({"image": None}, "role ''"),
        ({"seconds": "soon"}, "has reported"),
    ],
    ids=["archive", "role", "bundle", "nothing", "nonsense"],
)
def test_an_image_that_is_not_what_was_ordered_is_not_made(
    otherwise: dict[str, Any], named: str, bakery: Bakery, base: BaseImage
) -> None:
    bakery.builders.says["worker"] = otherwise
    with pytest.raises(BakeError, match=named):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    assert list_images(bakery.observing, "worker") == []


def test_a_builder_that_never_reports_is_given_up(bakery: Bakery, base: BaseImage) -> None:
    bakery.builders.says["worker"], bakery.builders.stops = None, False
    bakery.clock.pace = 20
    with pytest.raises(BakeError, match=r"in vain for i-\w+, which builds the worker's image"):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    assert MAX_LIFE_MINUTES * 60 < bakery.clock.now < (MAX_LIFE_MINUTES + 15) * 60
    assert (bakery.folder / "logs" / "bake-worker.log").exists()
    assert bakery.left() == {}


def test_a_builder_that_stops_without_a_report_is_an_error_at_once(bakery: Bakery, base: BaseImage) -> None:
    bakery.builders.says["worker"] = None
    with pytest.raises(BakeError, match="has ended without a report"):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    assert bakery.clock.now < 60


def test_an_image_is_used_once_ec2_has_it(bakery: Bakery, base: BaseImage) -> None:
    bakery.account.states[:] = ["pending"] * 3
    bake(bakery.context, bakery.options(), bakery.source(), base)
    assert bakery.account.states == []
    assert bakery.left() == {}


def test_an_image_that_ec2_cannot_make_is_taken_away(bakery: Bakery, base: BaseImage) -> None:
    bakery.account.states[:] = ["pending", "failed", "failed"]
    with pytest.raises(BakeError, match=r"could not make ami-\w+: it is failed"):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    assert list_images(bakery.observing, "worker") == []
    assert bakery.left() == {}


def test_the_last_three_images_stay_and_those_that_are_still_launched(bakery: Bakery, base: BaseImage) -> None:
    made = [bake(bakery.context, bakery.options(), bakery.source("0"), base)["worker"]]
    ec2, name = bakery.observer.ec2, f"{bakery.prefix}-worker"
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": made[0]})
    made += [bake(bakery.context, bakery.options(), bakery.source(number), base)["worker"] for number in "1234"]
    assert {image.image_id for image in list_images(bakery.observing, "worker")} == {made[0], *made[2:]}
    assert bakery.left() == {}
    ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"ImageId": made[4]})
    ec2.modify_launch_template(LaunchTemplateName=name, DefaultVersion="2")
    bake(bakery.context, bakery.options(), bakery.source("4"), base)
    assert {image.image_id for image in list_images(bakery.observing, "worker")} == set(made[2:])


def test_a_zone_without_room_is_left_for_the_next(bakery: Bakery, base: BaseImage) -> None:
    bakery.account.refusals["RunInstances"] = ["InsufficientInstanceCapacity", "Unsupported"]
    assert bake(bakery.context, bakery.options(), bakery.source(), base)["worker"] == bakery.stored()


def test_a_quota_for_one_builder_makes_both_images_one_after_the_other(bakery: Bakery, base: BaseImage) -> None:
    """EC2 "measures usage towards each limit based on the total number of vCPUs that are assigned to the running
    On-Demand instances": https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
    """
    bakery.roles, at_once = ROLES, list[int]()

    def limit(**_: Any) -> Any:
        at_once.append(len(instances(bakery.observer, bakery.prefix, "pending", "running", "stopping")))
        refusal = {"Error": {"Code": "VcpuLimitExceeded", "Message": "more than your current vCPU limit of 5 allows"}}
        return (SimpleNamespace(status_code=400), refusal) if at_once[-1] else None

    events = bakery.account.ec2.meta.events
    events.register("before-call.ec2.RunInstances", limit)
    try:
        assert set(bake(bakery.context, bakery.options(), bakery.source(), base)) == set(ROLES)
    finally:
        events.unregister("before-call.ec2.RunInstances", limit)
    assert at_once == [0, 1, 0]
    assert bakery.left() == {}


@pytest.mark.parametrize(
    "call", ["CreateBucket", "PutBucketPolicy", "CreateSecurityGroup", "RunInstances", "CreateImage", "PutParameter"]
)
def test_what_aws_denies_is_named_and_nothing_is_left(call: str, bakery: Bakery, base: BaseImage) -> None:
    bakery.account.refusals[call] = ["UnauthorizedOperation"]
    with pytest.raises(ClientError, match=f"UnauthorizedOperation.*{call}"):
        bake(bakery.context, bakery.options(), bakery.source(), base)
    assert bakery.left() == {}


def typed(bakery: Bakery, *arguments: str) -> Result:
    where = ("--region", REGION, "--endpoint-url", str(bakery.observer.endpoint_url), "--prefix", bakery.prefix)
    return CliRunner().invoke(bake_command, [*arguments, *where])


def test_the_command_bakes_this_source_with_the_bundle_and_prints_the_images(
    bakery: Bakery, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = Waiter(bakery.clock)
    monkeypatch.setattr("scripts.aws.commands.Waiter", lambda: waiter)
    bakery.builders.honest = True
    ran = typed(bakery, "--demo", "--role", "worker")
    assert ran.exit_code == 0, ran.output
    assert ran.output.splitlines()[-1] == f"worker  {bakery.stored()}"
    assert "debian-12-amd64-20250316-2053" in ran.output
    planned = typed(bakery, "--demo", "--dry-run")
    assert f"worker  {bakery.stored()} is this already" in planned.output
    assert "web     would be built on a c7a.large in us-east-1" in planned.output


def test_the_command_reports_a_denial_in_one_line(bakery: Bakery, monkeypatch: pytest.MonkeyPatch) -> None:
    bakery.account.refusals["DescribeImages"] = ["UnauthorizedOperation"]
    monkeypatch.setattr("scripts.aws.context.AwsAccount", lambda *_: bakery.account)
    ran = typed(bakery, "--demo", "--dry-run")
    assert ran.exit_code == 1, ran.exception
    assert ran.output.splitlines()[-1].startswith("Error: AWS does not allow you to call DescribeImages: ")
