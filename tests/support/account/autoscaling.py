"""Auto Scaling groups, which launch their instances by RunInstances.

moto launches them without EC2's API. Scaling policies and health checks of load balancers have no effect; instance
refreshes are unknown, and an instance that ends by itself is not replaced.
"""

from typing import Any

from moto.autoscaling.models import InstanceState

from localcloud.patches import Patches
from tests.support.account import loopback

PATCHES = Patches()


@PATCHES.replace(
    "moto.autoscaling.models:FakeAutoScalingGroup.replace_autoscaling_group_instances",
    "launches past EC2's API, without profile, metadata options and the version that the group names",
)
def replace_autoscaling_group_instances(self: Any, count_needed: int, propagated_tags: dict[str, str]) -> None:
    """Launch instances of the group's launch template by RunInstances."""
    launched = loopback.client("ec2", self.region).run_instances(
        LaunchTemplate={
            "LaunchTemplateId": self.ec2_launch_template.id, "Version": str(self.launch_template_version)
        },
        MinCount=count_needed,
        MaxCount=count_needed,
        SubnetId=self.vpc_zone_identifier.split(",")[0],
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": key, "Value": value} for key, value in propagated_tags.items()],
            }
        ],
    )["Instances"]  # fmt: skip
    for each in launched:
        instance = self.ec2_backend.get_instance(each["InstanceId"])
        instance.autoscaling_group = self
        self.ec2_backend.create_tags([instance.id], {"aws:autoscaling:groupName": self.name})
        protected = self.new_instances_protected_from_scale_in
        self.instance_states.append(InstanceState(instance, protected_from_scale_in=protected))
