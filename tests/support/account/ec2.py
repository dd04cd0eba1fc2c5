"""The contents of every AWS account that moto lacks: an internet route, a key for disks, and Debian's images."""

from typing import Any

from moto.core.parse import default_timestamp_parser
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami

from localcloud.patches import Patches

PATCHES = Patches()

AWS_KEY = "alias/aws/ebs"
"""The key that AWS creates for the disks of an account; moto creates it with the first encrypted disk."""


@PATCHES.wrap(
    "moto.ec2.models.vpcs:VPCBackend.create_default_vpc", "makes a default VPC without a way to the internet"
)
def create_default_vpc(original: Any, self: Any) -> Any:
    """Create the default VPC with an internet gateway, and the route to it in the main route table.

    https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
    """
    vpc = original(self)
    gateway = self.create_internet_gateway()
    self.attach_internet_gateway(gateway.id, vpc.id)
    table = self.describe_route_tables(filters={"vpc-id": vpc.id, "association.main": "true"})[0]
    self.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
    return vpc


@PATCHES.add(
    "moto.ec2.responses.elastic_block_store:ElasticBlockStore.get_ebs_default_kms_key_id",
    "does not know the default key of disks",
)
def get_ebs_default_kms_key_id(self: Any) -> Any:
    """Return the default key for the encryption of disks: AWS's own, unless the account has chosen another.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetEbsDefaultKmsKeyId.html
    """
    from moto.kms import kms_backends  # late, as moto's EC2 imports it itself

    kms = kms_backends[self.current_account][self.region]
    own = kms.describe_key(AWS_KEY).arn if kms.alias_exists(AWS_KEY) else ""
    key = self.ec2_backend.default_kms_key_id
    return ActionResult({"KmsKeyId": AWS_KEY if key in {"", own} else key})


@PATCHES.add(
    "moto.ec2.responses.vpcs:VPCs.describe_vpc_block_public_access_options",
    "does not know VPC Block Public Access",
)
def describe_vpc_block_public_access_options(_self: Any) -> Any:
    """Return that nothing is blocked, as in an account that has not enabled it.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcBlockPublicAccessOptions.html
    """
    return ActionResult({"VpcBlockPublicAccessOptions": {"InternetGatewayBlockMode": "off"}})


DEBIAN = "136693071363"
"""The account that publishes Debian's images. https://wiki.debian.org/Cloud/AmazonEC2Image"""


DEBIAN_IMAGES = (
    ("ami-0deb1a11000000001", "debian-11-amd64-20240813-1838", "2024-08-13T16:43:05.000Z"),
    ("ami-0deb1a12000000001", "debian-12-amd64-20240717-1811", "2024-07-17T13:18:02.000Z"),
    ("ami-0deb1a12000000002", "debian-12-amd64-20250316-2053", "2025-03-16T22:17:45.000Z"),
    ("ami-0deb1a12000000003", "debian-12-arm64-20250316-2053", "2025-03-16T22:18:10.000Z"),
)


@PATCHES.wrap("moto.ec2.models.amis:AmiBackend._load_amis", "knows none of Debian's images")
def load_amis(original: Any, self: Any) -> None:
    """Load moto's images and Debian's."""
    original(self)
    for image_id, name, created in DEBIAN_IMAGES:
        self.amis[image_id] = Ami(
            self,
            image_id,
            name=name,
            description=name,
            owner_id=DEBIAN,
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture="arm64" if "-arm64-" in name else "x86_64",
            hypervisor="xen",
            creation_date=default_timestamp_parser(created),
            root_device_type="ebs",
            root_device_name="/dev/xvda",
            image_location=f"amazon/{name}",
        )


@PATCHES.wrap(
    "moto.ec2.models.amis:AmiBackend.create_image", "cannot tag snapshots, and makes two images of one name"
)
def create_image(
    original: Any, self: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
) -> Any:
    """Create an image with a new name, and set the tags of its snapshot."""
    if other := next((each.id for each in self.amis.values() if name == each.name), None):
        raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {other}")
    of_snapshots = [each for each in tag_specifications if each["ResourceType"] == "snapshot"]
    others = [each for each in tag_specifications if each["ResourceType"] != "snapshot"]
    image = original(self, instance_id, name, description, others)
    image.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for each in of_snapshots for tag in each["Tags"]})
    return image
