"""The stack of `infra/stack.yaml` is created and deleted, and the system runs on nothing but its resources."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from app_tier.bundle.load import DEMO_BUNDLE
from localcloud.launch import REGION, LocalCloud
from scripts.client import ApiClient
from scripts.run.batch import Batch
from scripts.run.images import sample_images
from scripts.run.system import free_port
from services.clients import Clients
from services.endpoint import Endpoint
from tests.conftest import ROOT
from tests.integration.an_operator import Operator
from tests.integration.stack_roles import web_command, worker_command
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE

pytestmark = pytest.mark.processes

NAME, TEMPLATE = "fleetsight", ROOT / "infra" / "stack.yaml"
IMAGE = "ami-12c6146b"
HASTE = {"FLEETSIGHT__CONTROLLER__INTERVAL_SECONDS": "0.1", "FLEETSIGHT__FLEET__MAX_WORKERS": "2"}


@dataclass
class Account:
    """An account of a local cloud, and the stack in it."""

    cloud: LocalCloud

    def client(self, service: str) -> Any:
        """Return a client of its owner."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.cloud.endpoint_url,
            region_name=REGION,
        )

    def prepare(self) -> str:
        """Put the images' ids and the template where they belong; return the template's address."""
        for role in ("worker", "web"):
            self.client("ssm").put_parameter(Name=f"/{NAME}/image/{role}", Type="String", Value=IMAGE)
        self.client("s3").create_bucket(Bucket="templates")
        self.client("s3").upload_file(str(TEMPLATE), "templates", "stack.yaml")
        return f"{self.cloud.endpoint_url}/templates/stack.yaml"

    def network(self) -> dict[str, str]:
        """Return the parameters that say where everything runs."""
        ec2 = self.client("ec2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
        return {"VpcId": vpc, "SubnetIds": ",".join(one["SubnetId"] for one in subnets[:2])}

    def create(self, template_url: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Create the stack by a change set, and return it once it is complete."""
        cloudformation = self.client("cloudformation")
        made = cloudformation.create_change_set(
            StackName=NAME,
            ChangeSetName="create",
            ChangeSetType="CREATE",
            TemplateURL=template_url,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.execute_change_set(ChangeSetName=made["Id"])
        stack = wait_until(lambda: self.settled(made["StackId"]), "the stack to be created")
        assert stack["StackStatus"] == "CREATE_COMPLETE", self.failures(made["StackId"])
        return stack

    def settled(self, stack_id: str) -> dict[str, Any] | None:
        """Return the stack once nothing is being done with it."""
        (stack,) = self.client("cloudformation").describe_stacks(StackName=stack_id)["Stacks"]
        return None if stack["StackStatus"].endswith("_IN_PROGRESS") else dict(stack)

    def failures(self, stack_id: str) -> list[str]:
        """Return what has failed, and why."""
        events = self.client("cloudformation").describe_stack_events(StackName=stack_id)["StackEvents"]
        return [f"{one['LogicalResourceId']}: {one}" for one in events if "FAILED" in one["ResourceStatus"]]

    def instances(self, name: str) -> list[dict[str, Any]]:
        """Return all instances of a name, ended ones too, the oldest first."""
        filters = [{"Name": "tag:Name", "Values": [name]}]
        found = self.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return sorted((one for each in found for one in each["Instances"]), key=lambda one: one["LaunchTime"])

    def consoles(self) -> str:
        """Return what every instance has written."""
        paths = sorted((self.cloud.state_dir / "instances").glob("*/console.log"))
        return "\n".join(f"{path.parent.name}:\n{path.read_text()[-3000:]}" for path in paths)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with LocalCloud(tmp_path / "cloud") as cloud:
        yield Account(cloud)


def tags_of(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_the_system_runs_on_a_stack_until_it_is_deleted(account: Account, tmp_path: Path) -> None:
    port, endpoint = free_port(), account.cloud.endpoint_url
    (tmp_path / "session-keys").write_text("k" * 64)
    settings = {**HASTE, KEYS_FILE_VARIABLE: str(tmp_path / "session-keys")}
    given = {
        **account.network(),
        "BundleAddress": str(DEMO_BUNDLE),
        "StartWorker": worker_command(endpoint),
        "StartWeb": web_command(tmp_path, endpoint, port, settings),
    }
    stack = account.create(account.prepare(), given)
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    signal = {"LogicalResourceId": "WebGroup", "UniqueId": "i-0123456789abcdef0", "Status": "SUCCESS"}
    account.client("cloudformation").signal_resource(StackName=stack["StackId"], **signal)

    the_group_runs_one_web_instance(account, outputs)
    hundred_images_are_right(account, outputs, f"http://127.0.0.1:{port}", tmp_path)
    workers = account.instances(outputs["WorkerInstanceName"])
    assert workers
    assert all(one["InstanceType"] == "c7a.large" and tags_of(one)[NAME] == NAME for one in workers)
    # EC2 names the profile of an instance until it has ended, and that of the template for ever.
    versions = account.client("ec2").describe_launch_template_versions(LaunchTemplateName="fleetsight-worker")
    template = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    profiled = [template, *(one for one in workers if "IamInstanceProfile" in one)]
    assert {one["IamInstanceProfile"]["Arn"].split("/")[1][:24] for one in profiled} == {"fleetsight-WorkerProfile"}

    deletion_ends_all_but_what_is_kept(account, stack["StackId"], outputs)


def the_group_runs_one_web_instance(account: Account, outputs: dict[str, str]) -> None:
    groups = account.client("autoscaling").describe_auto_scaling_groups
    (group,) = groups(AutoScalingGroupNames=[outputs["WebGroupName"]])["AutoScalingGroups"]
    (member,) = group["Instances"]
    (web,) = account.instances(outputs["WebInstanceName"])
    assert (member["InstanceId"], member["LaunchTemplate"]["Version"]) == (web["InstanceId"], "1")
    tags = tags_of(web)
    assert (tags["aws:autoscaling:groupName"], tags[NAME]) == (outputs["WebGroupName"], NAME)
    assert web["IamInstanceProfile"]["Arn"].split("/")[1].startswith("fleetsight-WebProfile")
    assert web["MetadataOptions"]["HttpTokens"] == "required"


def hundred_images_are_right(account: Account, outputs: dict[str, str], url: str, tmp_path: Path) -> None:
    services = Clients(Endpoint(REGION, account.cloud.endpoint_url))
    operator = Operator(services, outputs["UserPoolId"], outputs["UserPoolClientId"])
    client = ApiClient(url)
    try:
        wait_until(client.ready, "the page of the stack's web instance")
        client = ApiClient(url, token=operator.personal_token(url))
        deadline = time.monotonic() + DEADLINE_SECONDS
        batch = Batch(client, sample_images(tmp_path / "images"), lambda _: None, lambda: time.monotonic() > deadline)
        summary = batch.run()
    except Exception as error:
        raise AssertionError(account.consoles()) from error
    finally:
        client.close()
    assert (summary.images, summary.right, summary.ok) == (100, 100, True)


def deletion_ends_all_but_what_is_kept(account: Account, stack_id: str, outputs: dict[str, str]) -> None:
    account.client("cloudformation").delete_stack(StackName=NAME)
    stack = wait_until(lambda: account.settled(stack_id), "the stack to be deleted")
    assert stack["StackStatus"] == "DELETE_COMPLETE", account.failures(stack_id)
    web = account.instances(outputs["WebInstanceName"])
    assert {one["State"]["Name"] for one in web} == {"terminated"}
    assert account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"] == []
    buckets = {one["Name"] for one in account.client("s3").list_buckets()["Buckets"]}
    assert buckets == {"templates", outputs["InputBucketName"], outputs["OutputBucketName"]}
    assert account.client("dynamodb").list_tables()["TableNames"] == [outputs["JobTableName"]]
    groups = account.client("cognito-idp").list_groups(UserPoolId=outputs["UserPoolId"])["Groups"]
    assert {one["GroupName"] for one in groups} == {"users", "operators"}
    assert "QueueUrls" not in account.client("sqs").list_queues()
    assert account.client("iam").list_roles()["Roles"] == []


def test_what_only_an_image_has_is_not_started_by_processes(account: Account) -> None:
    """The defaults of the template name a script of the image, which would set up the machine that it runs on."""
    assert not Path("/opt/fleetsight").exists()
    profile = {"ImageId": IMAGE, "InstanceType": "c7a.large", "InstanceInitiatedShutdownBehavior": "terminate"}
    user_data = "#!/bin/sh\nexec /opt/fleetsight/start web\n"
    launched = account.client("ec2").run_instances(MinCount=1, MaxCount=1, UserData=user_data, **profile)["Instances"]
    instance_id = launched[0]["InstanceId"]

    def state() -> str:
        found = account.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"]
        return str(found[0]["Instances"][0]["State"]["Name"])

    wait_until(lambda: state() == "terminated", "the instance to end")
    console = account.client("ec2").get_console_output(InstanceId=instance_id)["Output"]
    assert "/opt/fleetsight/start: not found" in console
