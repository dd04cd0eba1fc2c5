"""``fleetsight up`` on ministack, and the network that a stack goes to."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app_tier.bundle import DEMO_BUNDLE
from core.bundle_facts import MANIFEST_NAME
from core.model_catalog import CatalogStore
from scripts.aws.bake.spec import BUNDLE_TAG
from scripts.aws.context import TAG, AwsAccount, DeclinedError
from scripts.aws.deploy import up as ups
from scripts.aws.deploy.auth import rotate_session_key
from scripts.aws.deploy.network import NetworkError, find_network
from scripts.aws.deploy.settings import SettingError, StackSettings
from scripts.aws.deploy.stack import find_stack
from scripts.aws.deploy.up import NotReadyError
from scripts.cli import fleetsight
from services.table import Table
from tests.support.aws_stage import IMAGE, CrashError, Stage, left, tagged
from tests.support.bundles import relabelled_bundle
from web_tier.auth.session_keys import SessionKeys

Subnet = Callable[..., str]

ZONE = "us-east-1a"
"""A subnet without a zone is put into any, and us-east-1e does not offer all instance types."""


@pytest.fixture
def stage(account: AwsAccount) -> Stage:
    return Stage(account)


@pytest.fixture(scope="module")
def deployed(account: AwsAccount) -> Stage:
    """A stack of default settings, which no test changes."""
    stage = Stage(account)
    stage.store_images()
    stage.up()
    return stage


def stack(stage: Stage) -> Any:
    found = find_stack(stage.account, stage.prefix)
    assert found is not None
    return found


def test_an_up_continues_after_a_crash_at_any_step(stage: Stage) -> None:
    crashes = 0
    for step in range(1, 20):
        stage.crash_at = step
        try:
            address = stage.up(settings=StackSettings({"WebCidr": "0.0.0.0/0"}))
        except CrashError:
            crashes += 1
            continue
        break
    assert crashes >= 3
    assert re.fullmatch(r"https://[\d.]+", address or "")
    assert stack(stage).status == "CREATE_COMPLETE"
    left = stage.account.cloudformation.list_change_sets(StackName=stage.prefix)["Summaries"]
    assert not [each for each in left if each.get("ExecutionStatus") == "AVAILABLE"]


def test_a_declined_up_leaves_no_stack(stage: Stage) -> None:
    stage.store_images()
    with pytest.raises(DeclinedError, match="nothing was done"):
        stage.up(says_yes=False)
    assert find_stack(stage.account, stage.prefix) is None
    assert "web instance, c7a.large" in stage.seen, "what it costs a month"


@pytest.mark.parametrize("has_images", [True, False])
def test_a_dry_run_shows_changes_and_costs_and_leaves_nothing(stage: Stage, has_images: bool) -> None:
    if has_images:
        stage.store_images()
    buckets = stage.account.s3.list_buckets()["Buckets"]
    assert stage.up(dry_run=True) is None
    shown = stage.seen
    assert ("no image for worker and web: it would be baked first" in shown) is not has_images
    assert "WebGroup" in shown
    assert "load balancer" not in shown
    assert "public addresses, 1" in shown
    assert not stage.builders
    assert find_stack(stage.account, stage.prefix) is None
    assert stage.account.s3.list_buckets()["Buckets"] == buckets


def test_images_of_another_architecture_are_baked_on_the_worker_type(stage: Stage) -> None:
    graviton = StackSettings({}, {"fleet.instance_types": "[c7g.large]"})
    with pytest.raises(DeclinedError, match="nothing was done"):
        stage.up(settings=graviton, says_yes=False)
    assert sorted(each.instance_type for each in stage.builders) == ["c7a.large", "c7g.large"]


@pytest.mark.parametrize(
    ("engine", "is_built", "names", "why"),
    [
        ("openvino", True, ["photos", "demo"], "Models: photos for new jobs, demo by name."),
        ("openvino", False, ["demo"], "photos is not installed. To offer both: ./scripts/setup.sh photos"),
        ("torch", True, ["demo"], "photos has no network for the engine torch"),
    ],
)
def test_the_demo_is_photos_for_new_jobs_and_the_drawn_signs_by_name(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    is_built: bool,
    names: list[str],
    why: str,
) -> None:
    monkeypatch.setattr("scripts.model.built_once.MODELS_FOLDER", tmp_path)
    monkeypatch.setattr("scripts.model.built_once.PHOTOS_PACKAGE", "no_such_package")
    # It loads each network in a process; the demos of the documents' commands are loaded.
    monkeypatch.setattr("web_tier.uploads.served_models.check_network", lambda _folder: None)
    if is_built:
        relabelled_bundle(tmp_path / "photos", "photos", " in a photo")
    settings = StackSettings({}, {"worker.engine": engine, "fleet.instance_types": "[g4dn.xlarge]"})
    stage.up(bundle="demo", settings=settings if engine == "torch" else StackSettings())
    assert set(stage.baked) == {str(tmp_path / "photos") if len(names) == 2 else str(DEMO_BUNDLE)}
    assert why in stage.seen
    outputs = stack(stage).outputs
    catalogs = CatalogStore(Table(stage.account.dynamodb, outputs["JobTableName"]))
    catalog = catalogs.find()
    assert catalog is not None
    assert ([each.name for each in catalog.versions], catalog.default_version.name) == (names, names[0])
    for version in catalog.versions:  # workers can load it, and the controller finds what it would record
        key = f"models/{version.digest}/{MANIFEST_NAME}"
        stage.account.s3.head_object(Bucket=outputs["ModelBucketName"], Key=key)
    assert catalog.configured == catalog.default
    stage.up(bundle="demo")
    assert catalogs.find() == catalog, "the same command again changes nothing"


def test_without_a_bundle_images_are_baked_with_the_model_of_the_present_ones(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller rolls another model out to all new jobs, so `up` stops if it does not find the present one."""
    monkeypatch.setattr(ups, "MODELS_FOLDER", tmp_path)
    relabelled_bundle(tmp_path / "photos", "photos", " in a photo")
    digest = relabelled_bundle(tmp_path / "mine", "mine", " of mine")
    ec2, baked = stage.account.ec2, list[str | None]()

    def bake(_stage: Stage, _context: object, _roles: object, bundle: str | None, *_: object) -> None:
        baked.append(bundle)
        raise CrashError

    monkeypatch.setattr(Stage, "_bake", bake)
    specs = tagged(stage, "instance")
    (builder,) = ec2.run_instances(MinCount=1, MaxCount=1, ImageId=IMAGE, TagSpecifications=specs)["Instances"]
    specs = tagged(stage, "image", **{BUNDLE_TAG: digest})
    image = ec2.create_image(InstanceId=builder["InstanceId"], Name=stage.prefix, TagSpecifications=specs)["ImageId"]
    stage.account.ssm.put_parameter(Name=f"/{stage.prefix}/image/worker", Value=image, Type="String")
    for rebake in (True, False):  # an image of the web instance is missing
        with pytest.raises(CrashError):
            stage.up(rebake=rebake)
    assert baked == [str(tmp_path / "mine")] * 2
    (tmp_path / "mine").rename(tmp_path.with_suffix(".elsewhere"))
    for dry_run in (True, False):
        with pytest.raises(NotReadyError, match=f"{image} has the model with the digest {digest}.*--bundle"):
            stage.up(rebake=True, dry_run=dry_run)
    with pytest.raises(CrashError):
        stage.up(rebake=True, bundle="another")
    assert baked[2:] == ["another"]


def test_missing_images_with_no_bake_are_an_error(stage: Stage) -> None:
    with pytest.raises(DeclinedError, match="fleetsight bake"):
        stage.up(bake=False)


def test_a_finding_stops_up_and_its_dry_run(stage: Stage, vpc: str, subnet: Subnet) -> None:
    inside = subnet(1)
    buckets = stage.account.s3.list_buckets()["Buckets"]
    for dry_run in (False, True):
        with pytest.raises(NotReadyError, match="nothing was made"):
            stage.up(dry_run=dry_run, vpc_id=vpc)
        shown = stage.seen
        assert f"stop     network: {inside}: no route to the internet" in shown
        assert "warning  quota: unknown" in shown
        assert ("ok       launch: EC2 accepts a dry run of c7a.large" in shown) == dry_run
    assert not stage.steps
    assert not stage.builders
    assert find_stack(stage.account, stage.prefix) is None
    assert stage.account.s3.list_buckets()["Buckets"] == buckets


def test_a_bake_makes_nothing_where_no_builder_can_work(stage: Stage) -> None:
    ec2, buckets = stage.account.ec2, stage.account.s3.list_buckets()["Buckets"]
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    account = ["--region", "us-east-1", "--prefix", stage.prefix, "--endpoint-url", str(stage.account.endpoint_url)]
    result = CliRunner().invoke(fleetsight, ["bake", "--demo", "--subnet", subnet, *account])
    assert result.exit_code == 1
    assert f"stop     network: {subnet}: no route to the internet, by which instances call AWS" in result.output
    assert "Name subnets with a route to an internet gateway by --subnet\n" in result.output
    assert "the account is not ready" in result.output
    assert not ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"][1:]
    assert stage.account.s3.list_buckets()["Buckets"] == buckets


def test_settings_stay_until_they_are_changed(stage: Stage) -> None:
    stage.store_images()
    printed = {"fleet.max_workers": "5", "retention.unkept_days": "14"}
    stage.up(settings=StackSettings({"WebCidr": "10.0.0.0/8", "MonthlyBudget": "70"}, printed))
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

    settings = StackSettings({"MonthlyBudget": "80"}, {"worker.top_k": "3", "retention.unkept_days": ""})
    stage.up(settings=settings)
    second = stack(stage).parameters
    changed = {"UnkeptDays": "30", "MonthlyBudget": "80", "WorkerSettings": "export FLEETSIGHT__WORKER__TOP_K='3'"}
    changed["WebSettings"] = "export FLEETSIGHT__FLEET__MAX_WORKERS='5' FLEETSIGHT__WORKER__TOP_K='3'"
    assert second == {**first, **changed}


def test_a_second_up_changes_nothing_and_names_roll(deployed: Stage) -> None:
    steps, worker = len(deployed.steps), f"{deployed.prefix}-worker"
    deployed.account.ec2.create_launch_template_version(LaunchTemplateName=worker, LaunchTemplateData={})
    assert deployed.up() == stack(deployed).outputs["PageAddress"]
    shown = deployed.seen
    assert "is as it should be" in shown
    assert "version 1 of their template; 2 is the newest: `fleetsight roll`" in shown
    assert "CloudFormation has begun" not in deployed.steps[steps:]


def key_of(stage: Stage) -> str:
    """Return the keys of sessions."""
    name = f"/{stage.prefix}/session-keys"
    return str(stage.account.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])


def pool_of(stage: Stage) -> str:
    return str(stack(stage).outputs["UserPoolId"])


def test_the_session_key_is_never_shown_and_stays(
    stage: Stage,
) -> None:
    stage.store_images()
    stage.up()
    key = key_of(stage)
    assert SessionKeys([key]).sign("x")
    assert len(key) >= 64
    (reported,) = [at for at, step in enumerate(stage.steps) if "made a key for sessions" in step]
    assert reported < stage.steps.index("CloudFormation has begun")
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


def test_a_rotated_key_is_first_and_the_last_one_stays_valid(stage: Stage) -> None:
    rotate_session_key(stage.context)
    first = key_of(stage)
    rotate_session_key(stage.context)
    second, kept = key_of(stage).splitlines()
    assert kept == first
    rotate_session_key(stage.context)
    third, kept = key_of(stage).splitlines()
    assert (kept, len({first, second, third})) == (second, 3)
    assert not [step for step in stage.steps if any(key in step for key in (first, second, third))]


def test_the_next_stack_adopts_the_accounts_of_the_last_one(stage: Stage) -> None:
    stage.store_images()
    cognito, tags = stage.account.cognito, {TAG: stage.prefix}
    lite: Any = "LITE"
    pools = [
        cognito.create_user_pool(PoolName=stage.prefix, UserPoolTags=tags, UserPoolTier=lite)["UserPool"]
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
    assert stack(stage).parameters["UserPoolTier"] == "LITE"
    stage.down(delete_data=True)
    assert not left(stage)


def test_a_stack_with_another_provider_has_no_pool_and_says_what_to_register_there(stage: Stage) -> None:
    stage.store_images()
    provider = {"Issuer": "https://id.example.org", "ClientId": "fleet", "OperatorsGroupName": "admins"}
    with pytest.raises(SettingError, match="leave out CreateUserPool"):
        stage.up(settings=StackSettings({**provider, "CreateUserPool": "true"}))
    address = stage.up(settings=StackSettings(provider))
    outputs = stack(stage).outputs
    assert (outputs["Issuer"], outputs.get("UserPoolId")) == (provider["Issuer"], None)
    assert key_of(stage)
    seen = " ".join(stage.seen.split())
    assert f"{address}/sign-in/callback and the sign-out URI {address}/signed-out" in seen
    assert "Users of its group admins manage the fleet" in seen


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (["--open-to", "me"], "Fleetsight asks no service on the internet"),
        (["--open-to", "1.2.3.4/40"], "give a network such as"),
        (["--open-to", "10.0.0.1/8"], "has host bits set"),
        (["--set", "ScaleIn"], "write NAME=VALUE"),
        (["--prefix", "Fleet"], "3 to 16 small letters"),
    ],
    ids=["me", "no-network", "host-bits", "no-value", "prefix"],
)
def test_invalid_options_are_rejected_with_examples(options: list[str], reported: str) -> None:
    result = CliRunner().invoke(fleetsight, ["up", *options])
    assert result.exit_code == 2
    assert reported in " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def vpc(account: AwsAccount) -> str:
    return account.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def subnet(account: AwsAccount, vpc: str) -> Subnet:
    """Make a subnet: `subnet(3, "b")` is 10.9.3.0/24 in zone b."""

    def make(number: int, zone: str = "a", *, public: bool = True) -> str:
        made = account.ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.9.{number}.0/24", AvailabilityZone=f"us-east-1{zone}"
        )["Subnet"]["SubnetId"]
        account.ec2.modify_subnet_attribute(SubnetId=made, MapPublicIpOnLaunch={"Value": public})
        return made

    return make


def endpoint(account: AwsAccount, vpc: str, table: str, **tags: str) -> None:
    specs: Any = [{"ResourceType": "vpc-endpoint", "Tags": [{"Key": key, "Value": tags[key]} for key in tags]}]
    account.ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.us-east-1.s3",
        RouteTableIds=[table],
        TagSpecifications=specs if tags else [],
    )


def main_table(account: AwsAccount, vpc: str) -> str:
    (table,) = account.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    return table["RouteTableId"]


def test_the_default_network_is_the_default_vpc_with_a_subnet_per_zone(account: AwsAccount) -> None:
    place = find_network(account, "fs")
    (default,) = account.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert place.vpc_id == default["VpcId"]
    subnets = account.ec2.describe_subnets(SubnetIds=list(place.subnet_ids))["Subnets"]
    zones = [each["AvailabilityZone"] for each in subnets]
    assert len(set(zones)) == len(zones) > 1
    assert find_network(account, "fs") == place


def test_private_and_second_subnets_of_a_zone_are_left_out(account: AwsAccount, vpc: str, subnet: Subnet) -> None:
    b, a, again, _private = subnet(1, "b"), subnet(2, "a"), subnet(3, "b"), subnet(4, "c", public=False)
    assert find_network(account, "fs", vpc).subnet_ids == (a, min(b, again))


def test_given_subnets_keep_their_order_and_determine_the_vpc(account: AwsAccount, vpc: str, subnet: Subnet) -> None:
    b, a = subnet(1, "b", public=False), subnet(2, "a")
    place = find_network(account, "fs", None, [b, a])
    assert (place.vpc_id, place.subnet_ids) == (vpc, (b, a))
    assert place.parameters()["SubnetIds"] == f"{b},{a}"


def test_subnets_of_another_vpc_are_rejected(account: AwsAccount, subnet: Subnet) -> None:
    one = subnet(1)
    with pytest.raises(NetworkError, match=f"{one} are not all of one VPC, vpc-other"):
        find_network(account, "fs", "vpc-other", [one])
    with pytest.raises(NetworkError, match="whichever"):
        find_network(account, "fs", None, [one, *find_network(account, "fs").subnet_ids])


def test_route_tables_of_the_subnets_get_a_gateway_endpoint(account: AwsAccount, vpc: str, subnet: Subnet) -> None:
    a, b = subnet(1, "a"), subnet(2, "b")
    main = main_table(account, vpc)
    own = account.ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    account.ec2.associate_route_table(RouteTableId=own, SubnetId=a)
    assert find_network(account, "fs", vpc).route_table_ids == tuple(sorted([main, own]))
    assert find_network(account, "fs", None, [b]).route_table_ids == (main,)


def test_an_existing_gateway_endpoint_of_others_is_used(account: AwsAccount, vpc: str, subnet: Subnet) -> None:
    subnet(1)
    table = main_table(account, vpc)
    endpoint(account, vpc, table, **{TAG: "fs"})
    assert find_network(account, "fs", vpc).route_table_ids == (table,)
    endpoint(account, vpc, table)
    assert find_network(account, "fs", vpc).route_table_ids == ()
