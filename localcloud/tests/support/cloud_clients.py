"""CloudClients of a local cloud of real processes, and the calls that its integration tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from localcloud.launch import REGION, LocalCloud
from localcloud.machines.machine import Machine, Process
from localcloud.tests.support.waiting import DEADLINE_SECONDS, wait_until

SLEEP = "#!/bin/sh\nexec sleep 600\n"
SPOT = {"MarketType": "spot"}


class CloudClients:
    """boto3 clients of one cloud, one of each service."""

    def __init__(self, endpoint_url: str, attempts: int = 3) -> None:
        self._endpoint_url, self._attempts = endpoint_url, attempts
        self._clients: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self._endpoint_url,
                region_name=REGION,
                config=Config(
                    max_pool_connections=64, retries={"mode": "standard", "total_max_attempts": self._attempts}
                ),
            )
        return self._clients[service]


@contextmanager
def calls_of(client: Any) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield the calls of a client while the context lasts: the name of each operation, and its parameters."""
    calls: list[tuple[str, dict[str, Any]]] = []
    make = client._make_api_call

    def noted(operation: str, parameters: dict[str, Any]) -> Any:
        calls.append((operation, parameters))
        return make(operation, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_make_api_call", noted)
        yield calls


def stops_by_itself(cloud: LocalCloud) -> bool:
    """Stop `cloud`; return True if its server ended on SIGTERM, False if it had to be killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localcloud.launch.STOP_SECONDS", DEADLINE_SECONDS)
        cloud.stop()
    assert cloud._cloud is not None
    return cloud._cloud.returncode == 0


def launch_instances(ec2: Any, user_data: str = SLEEP, **options: Any) -> list[str]:
    options = {
        "ImageId": "ami-12c6146b",
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        **options,
    }
    return [instance["InstanceId"] for instance in ec2.run_instances(**options)["Instances"]]


def describe_instance(ec2: Any, instance_id: str) -> dict[str, Any]:
    instance: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return instance


def state_of_instance(ec2: Any, instance_id: str) -> str:
    return str(describe_instance(ec2, instance_id)["State"]["Name"])


def wait_for_state(ec2: Any, instance_id: str, wanted: str) -> None:
    wait_until(lambda: state_of_instance(ec2, instance_id) == wanted, f"{instance_id} is {wanted}")


def process_of(cloud: LocalCloud, instance_id: str) -> Process:
    machine = Machine(cloud.state_dir / "instances" / instance_id)
    process: Process = wait_until(machine.process, f"{instance_id} has a process")
    return process


def subnet_in(ec2: Any, zone: str) -> str:
    found = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
    return str(found[0]["SubnetId"])


def error_of(call: Any, *arguments: Any, **parameters: Any) -> tuple[str, int]:
    """Return code and HTTP status of the error that a call answers."""
    with pytest.raises(ClientError) as refused:
        call(*arguments, **parameters)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def metadata_port_of(cloud: LocalCloud, instance_id: str) -> int:
    """Return the port of an instance's metadata service; its file is empty or holds 0 until the service listens."""
    file = cloud.state_dir / "instances" / instance_id / "port"
    return wait_until(lambda: int(file.read_text() or 0) if file.exists() else 0, "its metadata service listens")


def presigned_form(
    apis: CloudClients,
    bucket: str,
    key: str = "a/b.png",
    *,
    seconds: int = 60,
    also: dict[str, str] | None = None,
    **keys: str,
) -> dict[str, Any]:
    """Return a form for a PNG of 2 to 5 bytes; `also` are more of its fields."""
    signer: Any = keys
    signing = boto3.client(
        "s3",
        endpoint_url=apis("s3").meta.endpoint_url,
        region_name=REGION,
        config=Config(signature_version="s3v4"),
        **signer,
    )
    fixed = {"Content-Type": "image/png", "Content-Disposition": "attachment", **(also or {})}
    conditions = [{name: value} for name, value in fixed.items()]
    form: dict[str, Any] = signing.generate_presigned_post(
        bucket,
        key,
        Fields=fixed,
        Conditions=[*conditions, ["content-length-range", 2, 5]],
        ExpiresIn=seconds,
    )
    return form
