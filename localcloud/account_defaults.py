"""What every account of AWS has from the start, and moto's lacks: a way to the internet, and a key for disks."""

from typing import Any

from moto.core.responses import ActionResult

from localcloud.patches import NewAttribute, Patch

AWS_KEY = "alias/aws/ebs"
"""The key that AWS makes for the disks of an account; moto makes it with the first encrypted disk."""


def _create_default_vpc(original: Any) -> Any:
    def create_default_vpc(self: Any) -> Any:
        """Make the default VPC with an internet gateway, and the route to it in the main route table.

        https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
        """
        vpc = original(self)
        gateway = self.create_internet_gateway()
        self.attach_internet_gateway(gateway.id, vpc.id)
        table = self.describe_route_tables(filters={"vpc-id": vpc.id, "association.main": "true"})[0]
        self.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
        return vpc

    return create_default_vpc


def _get_ebs_default_kms_key_id(self: Any) -> Any:
    """Return the key by which disks are encrypted if no other is named: AWS's own, until another is chosen.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetEbsDefaultKmsKeyId.html
    """
    from moto.kms import kms_backends  # late, as moto's EC2 imports it itself

    kms = kms_backends[self.current_account][self.region]
    own = kms.describe_key(AWS_KEY).arn if kms.alias_exists(AWS_KEY) else ""
    key = self.ec2_backend.default_kms_key_id
    return ActionResult({"KmsKeyId": AWS_KEY if key in {"", own} else key})


def _describe_vpc_block_public_access_options(_self: Any) -> Any:
    """Return that nothing is blocked, as in an account that has not turned it on.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcBlockPublicAccessOptions.html
    """
    return ActionResult({"VpcBlockPublicAccessOptions": {"InternetGatewayBlockMode": "off"}})


PATCHES = (
    Patch(
        "moto.ec2.models.vpcs:VPCBackend.create_default_vpc",
        ("self",),
        _create_default_vpc,
        "makes a default VPC without a way to the internet",
    ),
    NewAttribute(
        "moto.ec2.responses.elastic_block_store:ElasticBlockStore.get_ebs_default_kms_key_id",
        _get_ebs_default_kms_key_id,
        "cannot tell the default key of disks",
    ),
    NewAttribute(
        "moto.ec2.responses.vpcs:VPCs.describe_vpc_block_public_access_options",
        _describe_vpc_block_public_access_options,
        "does not know VPC Block Public Access",
    ),
)
