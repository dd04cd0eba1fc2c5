"""An Auto Scaling group as moto has it, as far as our part of Auto Scaling looks at it."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError


@dataclass
class Group:
    """A group over an EC2 that launches and ends at once.

    Attributes:
        requests: of RunInstances.
        refuses: RunInstances fails.
        born: state of a new instance.
    """

    desired_capacity: int = 1
    requests: list[dict[str, Any]] = field(default_factory=list)
    refuses: bool = False
    born: str = "running"

    def __post_init__(self) -> None:
        self.name, self.region = "g", "us-east-1"
        self.launch_template_version = "$Latest"
        self.ec2_launch_template = SimpleNamespace(id="lt-1", default_version_number=1, latest_version_number=2)
        self.vpc_zone_identifier = "subnet-a,subnet-b"
        self.new_instances_protected_from_scale_in = False
        self.instance_states: list[Any] = []
        self.machines: dict[str, Any] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.ec2_backend = self

    def get_propagated_tags(self) -> dict[str, str]:
        return {"fleetsight": "p"}

    def client_of(self, service: str, region: str) -> Any:
        assert (service, region) == ("ec2", "us-east-1")
        return self

    def run_instances(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        if self.refuses:
            raise ClientError({"Error": {"Code": "InsufficientInstanceCapacity", "Message": "full"}}, "RunInstances")
        launched = []
        for _ in range(request["MaxCount"]):
            machine_id = f"i-{len(self.machines)}"
            self.machines[machine_id] = SimpleNamespace(
                id=machine_id, state=self.born, instance_type="c7a.large", placement=SimpleNamespace(zone="z")
            )
            launched.append({"InstanceId": machine_id})
        return {"Instances": launched}

    def get_instance(self, instance_id: str) -> Any:
        return self.machines[instance_id]

    def create_tags(self, ids: list[str], tags: dict[str, str]) -> None:
        for one in ids:
            self.tags.setdefault(one, {}).update(tags)

    def terminate_instances(self, ids: list[str]) -> None:
        for one in ids:
            self.machines[one].state = "terminated"

    def members(self) -> list[str]:
        return [one.instance.id for one in self.instance_states]
