"""The stack of `infra/stack.yaml`, created by a local cloud's CloudFormation, and the commands of its instances."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from localcloud.iam.policies import IamPolicy, parse_policy
from localcloud.launch import REGION, LocalCloud
from tests.conftest import ROOT
from tests.support.waiting import wait_until

IMAGE = "ami-12c6146b"
"""An image that moto has from the start."""

NAME = "fleetsight"


@dataclass
class DeployedStack:
    """The stack in the account of a local cloud.

    Attributes:
        stack: as DescribeStacks returns it.
        ids: of the resources, by their names in the template.
    """

    cloud: LocalCloud
    stack: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def client(self, service: str, region: str = REGION, **credentials: str) -> Any:
        """Return a client of the cloud, which may do everything unless it has a role's credentials."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.cloud.endpoint_url,
            region_name=region,
            **credentials,
        )

    def create(self, parameters: Mapping[str, str]) -> None:
        """Create the stack in the default VPC."""
        for role in ("worker", "web"):
            self.client("ssm").put_parameter(Name=f"/{NAME}/image/{role}", Type="String", Value=IMAGE)
        self.client("s3").create_bucket(Bucket="templates")
        self.client("s3").upload_file(str(ROOT / "infra" / "stack.yaml"), "templates", "stack.yaml")
        given = {"VpcId": self.vpc, "SubnetIds": ",".join(self.subnets), **parameters}
        cloudformation = self.client("cloudformation")
        created = cloudformation.create_change_set(
            StackName=NAME,
            ChangeSetName="create",
            ChangeSetType="CREATE",
            TemplateURL=f"{self.cloud.endpoint_url}/templates/stack.yaml",
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.execute_change_set(ChangeSetName=created["Id"])
        self.stack = {"StackId": created["StackId"]}
        self.wait_for("CREATE_COMPLETE")
        listed = cloudformation.list_stack_resources(StackName=NAME)["StackResourceSummaries"]
        self.ids = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in listed}

    def wait_for(self, status: str) -> None:
        """Wait until no operation is in progress, and check the status."""
        cloudformation, stack_id = self.client("cloudformation"), self.stack["StackId"]

        def is_settled() -> bool:
            (self.stack,) = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
            return not self.stack["StackStatus"].endswith("_IN_PROGRESS")

        wait_until(is_settled, f"the stack to be {status}")
        events = cloudformation.describe_stack_events(StackName=stack_id)["StackEvents"]
        assert self.stack["StackStatus"] == status, [each for each in events if "FAILED" in each["ResourceStatus"]]

    @property
    def vpc(self) -> str:
        """The id of the default VPC."""
        return str(self.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"])

    @property
    def subnets(self) -> list[str]:
        """The ids of two subnets of the default VPC."""
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        return [each["SubnetId"] for each in self.client("ec2").describe_subnets(Filters=filters)["Subnets"][:2]]

    @property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        return {each["OutputKey"]: each["OutputValue"] for each in self.stack["Outputs"]}

    def instances(self, name: str) -> list[dict[str, Any]]:
        """Return all instances of a name, ended ones too."""
        filters = [{"Name": "tag:Name", "Values": [name]}]
        found = self.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return [one for each in found for one in each["Instances"]]

    def role_arn(self, role: str) -> str:
        """Return the ARN of a role of the template."""
        return str(self.client("iam").get_role(RoleName=self.ids[role])["Role"]["Arn"])

    def credentials(self, role: str) -> dict[str, str]:
        """Return credentials of a role of the template, for a client."""
        given = self.client("sts").assume_role(RoleArn=self.role_arn(role), RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def policies(self, role: str) -> list[IamPolicy]:
        """Return the policies of a role of the template, as the cloud reads them."""
        iam, named = self.client("iam"), {"RoleName": self.ids[role]}
        names = iam.list_role_policies(**named)["PolicyNames"]
        documents = {name: iam.get_role_policy(**named, PolicyName=name)["PolicyDocument"] for name in names}
        return [parse_policy(name, json.dumps(document)) for name, document in documents.items()]


def worker_command(endpoint_url: str) -> str:
    """Return the command that starts a worker of this checkout in place of an image's."""
    settings = {
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "1",
        "FLEETSIGHT__WORKER__THREADS": "1",
        "FLEETSIGHT__WORKER__DECODE_THREADS": "1",
    }
    run = f"cd {shlex.quote(str(ROOT))} && exec {shlex.quote(sys.executable)} -m app_tier"
    return f"env {_assignments(settings)} sh -c {shlex.quote(run)}"


def web_command(folder: Path, endpoint_url: str, port: int, settings: dict[str, str]) -> str:
    """Return the command that starts web tier and controller of this checkout, each with its role.

    The controller's configuration is what the image's `start` writes from the role that the user data names.
    """
    every = {
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "AWS_ENDPOINT_URL_STS": endpoint_url,
        "FLEETSIGHT__WEB__PORT": str(port),
        "FLEETSIGHT__WEB__PROCESSES": "1",
        **settings,
    }
    python = shlex.quote(sys.executable)
    script = folder / "start-web"
    script.write_text(
        f"""#!/bin/sh
cat > {folder}/aws-controller <<END
[default]
role_arn = $FLEETSIGHT_CONTROLLER_ROLE
credential_source = Ec2InstanceMetadata
role_session_name = controller
END
cd {shlex.quote(str(ROOT))}
AWS_CONFIG_FILE={folder}/aws-controller {python} -m web_tier.controller &
exec {python} -m gunicorn -c python:web_tier.gunicorn 'web_tier.app:create_app()'
"""
    )
    return f"env {_assignments(every)} sh {shlex.quote(str(script))}"


def _assignments(settings: dict[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
