"""What EC2 says of instance types: their architecture, vCPUs and GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef


@dataclass(frozen=True)
class MachineType:
    """An instance type.

    Attributes:
        name: such as c7a.large.
        architecture: x86_64, or arm64 as AWS's Graviton; others as EC2 calls them.
        vcpus: that it has by default.
        gpus: of NVIDIA's that it has.
    """

    name: str
    architecture: str
    vcpus: int
    gpus: int


def machine_types(ec2: "EC2Client", names: Sequence[str]) -> dict[str, MachineType]:
    """Return what EC2 says of these types, by their names.

    Raises:
        botocore.exceptions.ClientError: the region knows one of them not at all.
    """
    described = ec2.describe_instance_types(InstanceTypes=list(names))["InstanceTypes"]  # type: ignore[arg-type]
    return {each["InstanceType"]: _machine_type(each) for each in described}


def _machine_type(described: "InstanceTypeInfoTypeDef") -> MachineType:
    supported = described.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    return MachineType(
        described["InstanceType"],
        # Some types run i386 as well.
        next((each for each in ("x86_64", "arm64") if each in supported), ", ".join(supported)),
        described.get("VCpuInfo", {}).get("DefaultVCpus", 0),
        sum(gpu.get("Count", 0) for gpu in gpus if gpu.get("Manufacturer") == "NVIDIA"),
    )
