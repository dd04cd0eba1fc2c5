"""An instance finds out who it is, and gets its keys, as on EC2: with boto3's own provider and no environment."""

import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from localcloud.launch import LocalCloud
from tests.support.cloud_clients import SLEEP, CloudClients, launch_instances, metadata_port_of, wait_for_state
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
)


@pytest.fixture(scope="module")
def profile(computing: LocalCloud) -> str:
    """An instance profile with a role."""
    iam = CloudClients(computing.endpoint_url)("iam")
    iam.create_role(RoleName="worker", AssumeRolePolicyDocument=TRUST)
    iam.create_instance_profile(InstanceProfileName="workers")
    iam.add_role_to_instance_profile(InstanceProfileName="workers", RoleName="worker")
    return "workers"


def prints_its_identity(endpoint_url: str) -> str:
    """User data that calls STS with region and keys from the metadata service only."""
    return f"""#!{sys.executable}
import os, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
import boto3
from botocore.utils import IMDSRegionProvider
assert not [name for name in os.environ if "KEY" in name or "TOKEN" in name], os.environ
session = boto3.session.Session()
region = IMDSRegionProvider(session._session).provide()
sts = session.client("sts", region_name=region, endpoint_url={endpoint_url!r})
print("region", region)
print("identity", sts.get_caller_identity()["Arn"])
"""


def test_boto3_in_a_clean_environment_acts_as_the_instances_role(
    cloud: LocalCloud, clients: CloudClients, profile: str
) -> None:
    ec2 = clients("ec2")
    ids = launch_instances(
        ec2, prints_its_identity(cloud.endpoint_url), MaxCount=2, IamInstanceProfile={"Name": profile}
    )
    for instance_id in ids:  # each of them: stock moto gives the profile to the first alone
        wait_for_state(ec2, instance_id, "terminated")
        output = ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]
        assert "region us-east-1" in output
        assert re.search(rf"identity arn:aws:sts::\d+:assumed-role/worker/{instance_id}", output), output


def metadata_of(cloud: LocalCloud, instance_id: str) -> Callable[[str], tuple[int, str]]:
    """Return a reader of an instance's metadata, from outside, with a token."""
    base = f"http://127.0.0.1:{metadata_port_of(cloud, instance_id)}/latest"

    def call(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{base}/{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert call("meta-data/instance-id")[0] == 401
    _, token = call("api/token", "PUT", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    return lambda path: call(path, **{"X-aws-ec2-metadata-token": token})


def test_an_instance_reads_its_identity_its_tags_and_a_spot_notice(cloud: LocalCloud, clients: CloudClients) -> None:
    ec2 = clients("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "app-tier"}]}]
    (instance_id,) = launch_instances(ec2, TagSpecifications=tags, InstanceType="t3.small")
    wait_for_state(ec2, instance_id, "running")
    read = metadata_of(cloud, instance_id)
    assert read("meta-data/instance-id") == (200, instance_id)
    assert read("meta-data/instance-type") == (200, "t3.small")
    assert read("meta-data/tags/instance/Name") == (200, "app-tier")
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "later", "Value": "yes"}])
    assert read("meta-data/tags/instance/later") == (200, "yes")
    assert read("user-data") == (200, SLEEP)
    assert read("meta-data/spot/instance-action")[0] == 404
    cloud.control("PUT", f"instances/{instance_id}/spot-notice", {"action": "terminate", "seconds": 1})
    status, notice = read("meta-data/spot/instance-action")
    assert (status, json.loads(notice)["action"]) == (200, "terminate")
    wait_for_state(ec2, instance_id, "terminated")


def test_an_instance_without_a_profile_gets_keys_of_the_same_shape(cloud: LocalCloud, clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2)
    wait_for_state(ec2, instance_id, "running")
    read = metadata_of(cloud, instance_id)
    _, role = read("meta-data/iam/security-credentials/")
    _, document = read(f"meta-data/iam/security-credentials/{role}")
    keys = json.loads(document)
    assert keys["Code"] == "Success"
    assert {"AccessKeyId", "SecretAccessKey", "Token", "Expiration", "LastUpdated", "Type"} <= set(keys)


def test_an_instance_that_has_ended_has_no_metadata(cloud: LocalCloud, clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2)
    wait_for_state(ec2, instance_id, "running")
    read = metadata_of(cloud, instance_id)
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")

    def refused() -> bool:
        try:
            read("meta-data/instance-id")
        except OSError:
            return True
        return False

    wait_until(refused, "its port is closed")
