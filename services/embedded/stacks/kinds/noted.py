"""Resources that are noted and not played: they have an id and attributes, and nothing else comes of them."""

from typing import Any

from services.embedded.stacks.kinds.kind import Cloud, Made, Place
from services.embedded.stacks.model import Resource

_NAMES = ("Name", "TopicName", "AlarmName", "DashboardName", "UserPoolName", "ClientName", "PolicyName", "DomainName")


class Noted:
    """Any type that `kinds` does not list."""

    fixed: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Give it an id: its name, where it has one."""
        named = (resource.properties.get(name) for name in _NAMES)
        given = next((str(name) for name in named if isinstance(name, str) and name), None)
        return Made(given or cloud.name(resource.logical_id))

    def update(self, _cloud: Cloud, resource: Resource, _properties: dict[str, Any]) -> Made:
        """Leave its id as it is."""
        return Made(resource.physical_id, resource.attributes)

    def delete(self, _cloud: Cloud, _resource: Resource) -> None:
        """Forget it."""


def invented(place: Place, resource: Resource, attribute: str) -> str:
    """Return what stands for an attribute of a resource that is only noted, in the form that it has."""
    service = resource.type.split("::")[1].lower()
    if attribute.endswith("Arn"):
        return f"arn:aws:{service}:{place.region}:{place.account}:{resource.physical_id}"
    if attribute.endswith(("DNSName", "DomainName")):
        return f"{resource.physical_id.lower()}.{service}.embedded.invalid"
    return f"{resource.physical_id}.{attribute}"
