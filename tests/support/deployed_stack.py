"""What of the stack its roles speak of, made on a local cloud by boto3, from the template itself."""

import base64
import json
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from core.config import Config
from core.provision import provision
from localcloud.iam.policies import IamPolicy, parse_policy
from services.clients import Clients
from services.endpoint import Endpoint
from tests.conftest import ROOT
from tests.support.stack_template import GIVEN, RESOURCES, listed, of_this_stack, of_type, user_data, value_of

ACCOUNT, REGION = str(GIVEN["AWS::AccountId"]), "us-east-1"
TIERS = {"Web": "web", "Controller": "controller", "Worker": "worker"}
"""What the template calls a tier, and what its log group is called."""

_UNRESOLVED = re.compile(r"<(\w+(?:\.\w+)?)>")


@dataclass
class StackOfRoles:
    """Queues, buckets, table, roles, instance profiles and launch templates, as `infra/stack.yaml` says.

    Attributes:
        endpoint_url: of the cloud.
        starts: the command with which an instance of each kind of template begins, in place of the image's.
        config: that of the stack's web instance.
        known: ARNs and ids, by how the template names them.
    """

    endpoint_url: str
    starts: dict[str, str]
    config: Config = field(default_factory=of_this_stack)
    known: dict[str, str] = field(default_factory=dict)

    def client(self, service: str, region: str = REGION, **credentials: str) -> Any:
        """Return a client of the cloud, which may do everything unless it is given a role's credentials."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint_url,
            region_name=region,
            **credentials,
        )

    def make(self) -> None:
        """Make all of it."""
        provision(Clients(Endpoint(REGION, self.endpoint_url)), self.config)
        self._know_names()
        for role in ("WebRole", "WorkerRole", "ControllerRole"):
            self._make_role(role)
        for profile, role in (("WebProfile", "WebRole"), ("WorkerProfile", "WorkerRole")):
            self._make_profile(profile, role)
        for group in ("WebSecurityGroup", "WorkerSecurityGroup"):
            reply = self.client("ec2").create_security_group(GroupName=group, Description=group)
            self.known[f"{group}.GroupId"] = reply["GroupId"]
        for template in ("WorkerTemplate", "WebTemplate"):
            self._make_template(template)
        for role in ("WebRole", "WorkerRole", "ControllerRole"):
            self._put_policies(role)

    def credentials(self, role: str) -> dict[str, str]:
        """Return credentials of a role, as boto3 takes them."""
        arn = self.known[f"{role}.Arn"]
        given = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def resolved(self, value: Any) -> Any:
        """Return a part of the template with everything in it that AWS would know.

        Raises:
            KeyError: it names what was not made.
        """
        text = json.dumps(value_of(value))
        return json.loads(_UNRESOLVED.sub(lambda found: self.known[found[1]], text))

    def _know_names(self) -> None:
        names, sqs = self.config.names, f"arn:aws:sqs:{REGION}:{ACCOUNT}"
        self.known |= {
            "InputBucket.Arn": f"arn:aws:s3:::{names.input_bucket}",
            "OutputBucket.Arn": f"arn:aws:s3:::{names.output_bucket}",
            "JobTable.Arn": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{names.job_table}",
            "RequestQueue.Arn": f"{sqs}:{names.request_queue}",
            "ResponseQueue.Arn": f"{sqs}:{names.response_queue}",
            "DeadLetterQueue.Arn": f"{sqs}:{names.dead_letter_queue}",
            "PageIp.AllocationId": "eipalloc-0123",
            "UserPool.Arn": f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{self.config.auth.user_pool_id}",
        }
        for tier, group in TIERS.items():
            name = value_of(RESOURCES[f"{tier}Logs"]["Properties"]["LogGroupName"])
            assert name.endswith(f"/{group}")
            # What GetAtt answers: the group and all in it.
            self.known[f"{tier}Logs.Arn"] = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"

    def _make_role(self, role: str) -> None:
        trust = self.resolved(RESOURCES[role]["Properties"]["AssumeRolePolicyDocument"])
        reply = self.client("iam").create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
        self.known[f"{role}.Arn"] = reply["Role"]["Arn"]

    def _make_profile(self, profile: str, role: str) -> None:
        iam = self.client("iam")
        reply = iam.create_instance_profile(InstanceProfileName=profile)
        iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=role)
        self.known[f"{profile}.Arn"] = reply["InstanceProfile"]["Arn"]

    def policies(self, role: str) -> list[IamPolicy]:
        """Return the policies of a role, as the cloud reads them."""
        iam = self.client("iam")
        names = iam.list_role_policies(RoleName=role)["PolicyNames"]
        documents = {name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names}
        return [parse_policy(name, json.dumps(document)) for name, document in documents.items()]

    def _put_policies(self, role: str) -> None:
        own = RESOURCES[role]["Properties"].get("Policies", [])
        apart = [each for each in of_type("IAM::Policy").values() if {"Ref": role} in listed(each["Roles"])]
        for policy in [*own, *apart]:
            self.client("iam").put_role_policy(
                RoleName=role,
                PolicyName=policy["PolicyName"],
                PolicyDocument=json.dumps(self.resolved(policy["PolicyDocument"])),
            )

    def _make_template(self, name: str) -> None:
        properties = RESOURCES[name]["Properties"]
        kept = {key: value for key, value in properties["LaunchTemplateData"].items() if key != "UserData"}
        data = {**self.resolved(kept), "ImageId": "ami-12c6146b"}
        image = f"exec /opt/fleetsight/start {'worker' if name == 'WorkerTemplate' else 'web'}"
        script = _UNRESOLVED.sub(lambda found: self.known.get(found[1], f"{name}-later"), user_data(name))
        assert script.count(image) == 1, "no image is here to start"
        data["UserData"] = base64.b64encode(script.replace(image, f"exec {self.starts[name]}").encode()).decode()
        reply = self.client("ec2").create_launch_template(
            LaunchTemplateName=value_of(properties["LaunchTemplateName"]), LaunchTemplateData=data
        )
        self.known[name] = reply["LaunchTemplate"]["LaunchTemplateId"]


def worker_command(endpoint_url: str) -> str:
    """Return what starts a worker of this checkout in place of an image's."""
    settings = {
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "1",
        "FLEETSIGHT__WORKER__THREADS": "1",
        "FLEETSIGHT__WORKER__DECODE_THREADS": "1",
    }
    run = f"cd {shlex.quote(str(ROOT))} && exec {shlex.quote(sys.executable)} -m app_tier"
    return f"env {_assignments(settings)} sh -c {shlex.quote(run)}"


def web_command(folder: Path, endpoint_url: str, port: int, settings: dict[str, str]) -> str:
    """Return what starts web tier and controller of this checkout in place of an image's, each with its role.

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
