"""moto's machine images, with Debian's official ones, names that are given once, and tags for their snapshots."""

from typing import Any

from moto.core.parse import default_timestamp_parser
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami

from localcloud.patches import Patch

DEBIAN = "136693071363"
"""The account that publishes them. https://wiki.debian.org/Cloud/AmazonEC2Image"""
DEBIAN_IMAGES = (
    ("ami-0deb1a11000000001", "debian-11-amd64-20240813-1838", "2024-08-13T16:43:05.000Z"),
    ("ami-0deb1a12000000001", "debian-12-amd64-20240717-1811", "2024-07-17T13:18:02.000Z"),
    ("ami-0deb1a12000000002", "debian-12-amd64-20250316-2053", "2025-03-16T22:17:45.000Z"),
    ("ami-0deb1a12000000003", "debian-12-arm64-20250316-2053", "2025-03-16T22:18:10.000Z"),
)


def _load_amis(original: Any) -> Any:
    def load_amis(self: Any) -> None:
        """Load what moto has, and Debian's."""
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

    return load_amis


def _create_image(original: Any) -> Any:
    def create_image(
        self: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
    ) -> Any:
        """Make an image under a new name, and give its snapshot the tags that are for snapshots."""
        if taken := next((each.id for each in self.amis.values() if name == each.name), None):
            raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {taken}")
        of_snapshots = [each for each in tag_specifications if each["ResourceType"] == "snapshot"]
        others = [each for each in tag_specifications if each["ResourceType"] != "snapshot"]
        image = original(self, instance_id, name, description, others)
        image.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for each in of_snapshots for tag in each["Tags"]})
        return image

    return create_image


PATCHES = (
    Patch("moto.ec2.models.amis:AmiBackend._load_amis", ("self",), _load_amis, "knows none of Debian's images"),
    Patch(
        "moto.ec2.models.amis:AmiBackend.create_image",
        ("self", "instance_id", "name", "description", "tag_specifications"),
        _create_image,
        "cannot tag snapshots, and makes two images of one name",
    ),
)
