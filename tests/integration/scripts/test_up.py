"""``fleetsight up`` on a local cloud."""

import base64
import json
import re
from dataclasses import replace
from typing import Any, Literal

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from localcloud.launch import LocalCloud
from scripts.aws.account import TAG, Account
from scripts.aws.deploy import page
from scripts.aws.deploy import up as ups
from scripts.aws.deploy.places import PlaceError
from scripts.aws.deploy.session_keys import renew
from scripts.aws.deploy.settings import SettingError, StackSettings
from scripts.aws.deploy.sign_in import complete_kept_pool, kept_accounts
from scripts.aws.deploy.stacks import Stack, find
from scripts.aws.deploy.up import NotReadyError, NotWantedError
from scripts.aws.waiting import TimedOutError
from scripts.cli import fleetsight
from tests.support.aws_resources import left
from tests.support.aws_stage import CrashError, Stage, account_at
from web_tier.auth.session_keys import SessionKeys

DOMAIN = "arn:aws:ses:us-east-1:123456789012:identity/example.org"
ZONE = "us-east-1a"
"""A subnet without a zone is put into any, and us-east-1e does not offer all instance types."""


@pytest.fixture
def stage(cloud: LocalCloud) -> Stage:
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
            address = stage.up(wishes=StackSettings({"WebCidr": "0.0.0.0/0"}))
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


def test_a_dry_run_without_images_says_that_they_would_be_baked_and_shows_the_stack(stage: Stage) -> None:
    buckets = stage.account.s3.list_buckets()["Buckets"]
    assert stage.up(dry_run=True) is None
    shown = stage.seen
    assert "no image for worker and web: it would be baked first" in shown
    assert "WebGroup" in shown
    assert "public addresses, 1" in shown
    assert not stage.builders
    assert find(stage.account, stage.prefix) is None
    assert stage.account.s3.list_buckets()["Buckets"] == buckets


def test_images_are_baked_where_the_stack_goes_on_instances_of_the_web_tiers_type(stage: Stage) -> None:
    ec2 = stage.account.ec2
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.1.0/24", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    with pytest.raises(PlaceError, match="no subnet that gives instances a public address"):
        stage.up(vpc_id=vpc)
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    with pytest.raises(NotReadyError):
        stage.up(vpc_id=vpc)
    assert f"stop     network: {subnet}: no route to the internet" in stage.seen
    assert not stage.builders, "the place is looked at first, since a bake takes minutes"
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    with pytest.raises(NotWantedError, match="nothing was done"):
        stage.up(vpc_id=vpc, wishes=StackSettings({"WebInstanceType": "c7i-flex.large"}), says_yes=False)
    [machines] = stage.builders
    assert (machines.subnet_ids, machines.instance_type) == ((subnet,), "c7i-flex.large")


def test_workers_of_another_architecture_get_an_image_that_is_baked_on_their_own_type(stage: Stage) -> None:
    graviton = StackSettings({}, {"fleet.instance_types": "[c7g.large]"})
    with pytest.raises(NotWantedError, match="nothing was done"):
        stage.up(wishes=graviton, says_yes=False)
    assert sorted(each.instance_type for each in stage.builders) == ["c7a.large", "c7g.large"]


def test_an_image_of_another_architecture_is_found_before_anything_is_made(stage: Stage) -> None:
    stage.store_images()  # for x86_64
    with pytest.raises(NotReadyError):
        stage.up(wishes=StackSettings({}, {"fleet.instance_types": "[c7g.large]"}))
    shown = stage.seen
    assert "stop     images: c7g.large is arm64" in shown
    assert "`fleetsight bake --role worker --instance-type c7g.large`" in shown


def test_without_images_and_without_leave_to_bake_it_says_what_to_run(stage: Stage) -> None:
    with pytest.raises(NotWantedError, match="fleetsight bake"):
        stage.up(bake=False)


def test_a_setting_that_cannot_be_stops_it_before_anything_is_made(stage: Stage) -> None:
    for wishes in (
        StackSettings({}, {"fleet.max_workers": "-1"}),
        StackSettings({"UnkeptDays": "5"}),
        StackSettings({"SenderArn": DOMAIN}),
        StackSettings({"WebInstances": "2"}),
    ):
        with pytest.raises(SettingError):
            stage.up(wishes=wishes)
    assert not stage.steps
    assert "baked" not in stage.seen


def requested(stage: Stage, wishes: StackSettings) -> dict[str, str]:
    """Return the parameters that the next `up` asks CloudFormation for; the local cloud plays no updates."""
    asked: list[Any] = []
    events = stage.account.cloudformation.meta.events
    events.register("provide-client-params.cloudformation.CreateChangeSet", lambda params, **_: asked.append(params))
    with pytest.raises(ClientError, match="plays no updates"):
        stage.up(wishes=wishes)
    events.unregister("provide-client-params.cloudformation.CreateChangeSet")
    [parameters] = [each["Parameters"] for each in asked]
    return {each["ParameterKey"]: each.get("ParameterValue", "as before") for each in parameters}


def test_what_the_account_lacks_stops_it_before_anything_is_made_and_is_told_by_a_dry_run_too(stage: Stage) -> None:
    taken = stage.account.sqs.create_queue(QueueName=f"{stage.prefix}-requests")["QueueUrl"]
    buckets = stage.account.s3.list_buckets()["Buckets"]
    for dry_run in (False, True):
        with pytest.raises(NotReadyError, match="nothing was made"):
            stage.up(dry_run=dry_run)
        shown = stage.seen
        assert f"stop     names: {stage.prefix}-requests (AWS::SQS::Queue) exists" in shown
        assert "warning  quota: cannot tell" in shown
        assert ("ok       launch: EC2 would launch c7a.large" in shown) == dry_run
    assert not stage.steps
    assert not stage.builders
    assert find(stage.account, stage.prefix) is None
    assert stage.account.s3.list_buckets()["Buckets"] == buckets
    stage.account.sqs.delete_queue(QueueUrl=taken)


def test_the_check_by_itself_shows_each_finding_and_its_status_says_whether_up_would_stop(
    stage: Stage, cloud: LocalCloud
) -> None:
    def checked(*options: str) -> Result:
        account = ["--region", "us-east-1", "--prefix", stage.prefix, "--endpoint-url", cloud.endpoint_url]
        return CliRunner().invoke(fleetsight, ["aws", "check", *account, *options])

    result = checked()
    assert result.exit_code == 0, result.output
    for name in ("network", "types", "launch", "region", "disk key", "names"):
        assert f"ok       {name}: " in result.output
    instances = ["--config", "fleet.instance_types=[c7a.large, g4dn.xlarge]"]
    assert "EC2 would launch c7a.large, g4dn.xlarge" in checked(*instances).output
    result = checked("--vpc", stage.account.ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"])
    assert result.exit_code == 1
    assert "no subnet that gives instances a public address" in result.output
    assert "ok       names: " in result.output, "what can be found out without a place is"
    result = checked("--policy")
    assert {each["Effect"] for each in json.loads(result.output)["Statement"]} == {"Allow"}
    assert find(stage.account, stage.prefix) is None


def test_what_was_said_once_stays_until_it_is_said_otherwise(stage: Stage) -> None:
    stage.store_images()
    said = {"fleet.max_workers": "5", "retention.unkept_days": "14"}
    stage.up(wishes=StackSettings({"WebCidr": "10.0.0.0/8", "MonthlyBudget": "70"}, said))
    first = stack(stage).parameters
    assert (first["UnkeptDays"], first["WebCidr"], first["MonthlyBudget"]) == ("37", "10.0.0.0/8", "70")
    version = stage.account.ec2.describe_launch_template_versions(LaunchTemplateName=f"{stage.prefix}-web")[
        "LaunchTemplateVersions"
    ][0]
    script = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
    assert "export FLEETSIGHT__FLEET__MAX_WORKERS='5' FLEETSIGHT__RETENTION__UNKEPT_DAYS='14'" in script
    assert {"Key": TAG, "Value": stage.prefix} in stage.account.cloudformation.describe_stacks(
        StackName=stage.prefix
    )["Stacks"][0]["Tags"]

    wishes = StackSettings({"MonthlyBudget": "80"}, {"worker.top_k": "3", "retention.unkept_days": ""})
    asked = requested(stage, wishes)
    assert (asked["UnkeptDays"], asked["WebCidr"], asked["MonthlyBudget"]) == ("30", "as before", "80")
    assert asked["WebSettings"] == "export FLEETSIGHT__FLEET__MAX_WORKERS='5' FLEETSIGHT__WORKER__TOP_K='3'"


def test_a_second_up_changes_nothing_and_names_the_command_that_leads_to_the_newest_version(stage: Stage) -> None:
    stage.store_images()
    address = stage.up()
    steps, worker = len(stage.steps), f"{stage.prefix}-worker"
    stage.account.ec2.create_launch_template_version(LaunchTemplateName=worker, LaunchTemplateData={})
    assert stage.up() == address
    shown = stage.seen
    assert "is as it should be" in shown
    assert "version 1 of their template; 2 is the newest: `fleetsight roll`" in shown
    assert "CloudFormation has begun" not in stage.steps[steps:]


def key_of(stage: Stage) -> str:
    """Return the keys of sessions."""
    name = f"/{stage.prefix}/session-keys"
    return str(stage.account.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])


def pool_of(stage: Stage) -> str:
    return str(stack(stage).outputs["UserPoolId"])


def test_sessions_get_a_key_that_nobody_sees_and_that_stays_until_somebody_deletes_it_or_the_stack(
    stage: Stage,
) -> None:
    stage.store_images()
    stage.up()
    key = key_of(stage)
    assert SessionKeys([key]).sign("x")
    assert len(key) >= 64
    (told,) = [at for at, step in enumerate(stage.steps) if "made a key for sessions" in step]
    assert told < stage.steps.index("CloudFormation has begun")
    (listed,) = stage.account.ssm.describe_parameters(
        ParameterFilters=[{"Key": "Name", "Values": [f"/{stage.prefix}/session-keys"]}]
    )["Parameters"]
    assert listed["Type"] == "SecureString"
    stage.up()
    assert key_of(stage) == key
    assert key not in "".join([*stage.steps, stage.seen])
    stage.account.ssm.delete_parameter(Name=f"/{stage.prefix}/session-keys")
    stage.up()
    assert key_of(stage) != key
    stage.down()
    assert not stage.account.ssm.get_parameters(Names=[f"/{stage.prefix}/session-keys"])["Parameters"]


def test_renewed_the_new_key_is_first_and_of_the_others_the_last_one_is_taken_still(stage: Stage) -> None:
    renew(stage.operation)
    first = key_of(stage)
    renew(stage.operation)
    second, kept = key_of(stage).splitlines()
    assert kept == first
    renew(stage.operation)
    third, kept = key_of(stage).splitlines()
    assert (kept, len({first, second, third})) == (second, 3)
    assert not [step for step in stage.steps if any(key in step for key in (first, second, third))]


def test_how_the_first_operator_is_made_is_told_until_there_is_one_and_the_pool_renews_what_lasts_longer(
    stage: Stage,
) -> None:
    stage.store_images()
    stage.up(wishes=StackSettings({}, {"auth.session_hours": "100.5"}))
    command = f"`./scripts/fleetsight users operator EMAIL --prefix {stage.prefix} --region us-east-1`"
    assert command in " ".join(stage.seen.split())
    cognito, pool = stage.account.cognito, pool_of(stage)
    client = cognito.describe_user_pool_client(UserPoolId=pool, ClientId=stack(stage).outputs["UserPoolClientId"])
    assert client["UserPoolClient"]["RefreshTokenValidity"] == 101
    cognito.admin_create_user(UserPoolId=pool, Username="ops@example.org", MessageAction="SUPPRESS")
    cognito.admin_add_user_to_group(UserPoolId=pool, Username="ops@example.org", GroupName="operators")
    stage.up()
    assert "No account may steer the fleet" not in stage.seen


def test_without_sign_in_there_are_neither_pool_nor_keys_and_everybody_is_told(stage: Stage) -> None:
    stage.store_images()
    stage.up(wishes=StackSettings({"CreateUserPool": "false"}))
    assert "There is no sign-in: all who reach the page may see and do everything" in stage.seen
    assert "UserPoolId" not in stack(stage).outputs
    assert not stage.account.ssm.get_parameters(Names=[f"/{stage.prefix}/session-keys"])["Parameters"]


def test_the_next_stack_goes_on_with_the_accounts_that_the_last_one_has_left(stage: Stage) -> None:
    stage.store_images()
    cognito, tags = stage.account.cognito, {TAG: stage.prefix}
    closed: Any = {"AllowAdminCreateUserOnly": True}
    pools = [
        cognito.create_user_pool(PoolName=stage.prefix, UserPoolTags=tags, AdminCreateUserConfig=closed)["UserPool"]
        for _ in range(2)  # a creation that has failed leaves a pool without accounts
    ]
    pool = pools[0]["Id"]
    cognito.create_group(UserPoolId=pool, GroupName="operators")
    cognito.admin_create_user(UserPoolId=pool, Username="a@example.org", MessageAction="SUPPRESS")
    cognito.admin_add_user_to_group(UserPoolId=pool, Username="a@example.org", GroupName="operators")
    for _ in range(2):
        stage.up()
        assert pool_of(stage) == pool
        assert len(cognito.list_users_in_group(UserPoolId=pool, GroupName="operators")["Users"]) == 1
    assert f"made the group users of the user pool {pool}" in stage.steps
    stage.down(delete_data=True)
    assert not left(stage)


def test_the_accounts_of_a_stack_are_protected_from_deletion(stage: Stage) -> None:
    stage.store_images()
    stage.up()
    cognito = stage.account.cognito
    with pytest.raises(cognito.exceptions.InvalidParameterException, match="deletion protection"):
        cognito.delete_user_pool(UserPoolId=pool_of(stage))


def test_a_stack_that_lets_people_sign_in_again_goes_on_with_their_accounts(stage: Stage) -> None:
    cognito, tags = stage.account.cognito, {TAG: stage.prefix}
    made = cognito.create_user_pool(
        PoolName=stage.prefix, UserPoolTags=tags, AdminCreateUserConfig={"AllowAdminCreateUserOnly": True}
    )
    without = Stack(stage.prefix, "arn", "UPDATE_COMPLETE", parameters={"CreateUserPool": "false"})
    asked = stage.account, stage.prefix
    assert kept_accounts(*asked, StackSettings(), without) == {}
    again = kept_accounts(*asked, StackSettings({"CreateUserPool": "true"}), without)
    assert again == {"KeptUserPool": made["UserPool"]["Id"]}
    assert (
        kept_accounts(*asked, StackSettings(), Stack(stage.prefix, "arn", "", outputs={"UserPoolId": "its own"}))
        == {}
    )
    stage.down(delete_data=True)


@pytest.mark.parametrize(("had", "has"), [("OFF", "OPTIONAL"), ("ON", "ON")])
def test_a_kept_pool_without_authenticator_apps_gets_them_and_keeps_its_other_factors(
    stage: Stage, had: Literal["OFF", "ON"], has: str
) -> None:
    pool_id = stage.account.cognito.create_user_pool(PoolName=stage.prefix)["UserPool"]["Id"]
    sms: Any = {"SmsConfiguration": {"SnsCallerArn": "arn:aws:iam::123456789012:role/sms"}}
    stage.account.cognito.set_user_pool_mfa_config(UserPoolId=pool_id, SmsMfaConfiguration=sms, MfaConfiguration=had)
    kept = Stack(stage.prefix, "arn", "CREATE_COMPLETE", parameters={"KeptUserPool": pool_id})
    for _ in range(2):
        complete_kept_pool(stage.operation, kept)
    settings = stage.account.cognito.get_user_pool_mfa_config(UserPoolId=pool_id)
    assert settings["MfaConfiguration"] == has
    assert settings["SmsMfaConfiguration"] == sms
    assert settings["SoftwareTokenMfaConfiguration"] == {"Enabled": True}
    assert len([step for step in stage.steps if "turned on second factors" in step]) == 1
    stage.account.cognito.delete_user_pool(UserPoolId=pool_id)


def test_s4_a_kept_pool_where_anybody_registers_any_address_is_refused(stage: Stage) -> None:
    made = stage.account.cognito.create_user_pool(PoolName=stage.prefix, UserPoolTags={TAG: stage.prefix})
    with pytest.raises(SettingError, match=f"{made['UserPool']['Id']}: self-registration"):
        kept_accounts(stage.account, stage.prefix, StackSettings(), None)
    stage.down(delete_data=True)


def test_a_page_that_never_answers_is_given_up_with_where_to_look(
    stage: Stage,
) -> None:
    stage.store_images()
    stage.up(wishes=StackSettings({"WebCidr": "198.51.100.7/32"}))
    stage.time.pause = 0
    with pytest.raises(
        TimedOutError, match=r"open to 198.51.100.7/32 \(are you there\?\); look at `fleetsight status"
    ):
        page.wait_for_page(stage.operation, stack(stage), lambda _: False)


def test_a_stack_of_a_version_that_knew_fewer_places_stays_where_it_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.store_images()
    stage.up()
    parameters = dict(stack(stage).parameters)
    assert parameters.pop("TableRouteTableIds")

    def of_then(account: Account, name: str) -> Stack | None:
        found = find(account, name)
        return None if found is None else replace(found, parameters=parameters)

    monkeypatch.setattr(ups, "find", of_then)
    stage.up()
    assert f"The stack {stage.prefix} is as it should be" in stage.seen


def test_a_page_that_is_open_to_nobody_is_not_asked(stage: Stage) -> None:
    stage.store_images()
    stage.up()
    assert "not open yet" in stage.seen

    def never(_: str) -> bool:
        raise AssertionError

    page.wait_for_page(stage.operation, stack(stage), never)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--open-to", "me"], "Fleetsight asks no service on the internet"),
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
