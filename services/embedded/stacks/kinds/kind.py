"""What a kind of resource is: how it is made, changed and deleted by calls that anybody could make."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.exceptions import ClientError

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.model import Resource, name_for
from services.embedded.stacks.shapes import fitted

ClientOf = Callable[[str], Any]
"""Returns a boto client of a service in the stack's region."""


@dataclass(frozen=True)
class Place:
    """Where a stack is."""

    account: str
    region: str


@dataclass(frozen=True)
class Cloud:
    """The services that resources are made with, and for which stack.

    Args:
        place: account and region.
        stack_name: begins the names that the template does not give.
        client: of a service.
        tags: the stack's, which its resources get too.
        adopts: a bucket or table that is there already becomes the stack's, as `ImportExistingResources` asks.
    """

    place: Place
    stack_name: str
    client: ClientOf
    tags: Mapping[str, str] = field(default_factory=dict)
    adopts: bool = False

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call a service with parameters as templates have them, numbers as text among them.

        Raises:
            botocore.exceptions.ClientError: it refuses.
            botocore.exceptions.ParamValidationError: it knows no such parameter.
        """
        client = self.client(service)
        model = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation])
        given = {name: value for name, value in parameters.items() if value is not None}
        result: dict[str, Any] = getattr(client, operation)(**fitted(given, model.input_shape))
        return result

    def adopt_if(self, error: ClientError, resource: Resource, code: str, name: str) -> None:
        """Let an error pass that says that a resource is there which the stack is to adopt.

        It is one that would stay, and the template states its name itself, by no function.
        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources-automatically.html

        Args:
            error: of the call that makes it.
            resource: of which the stack wants one.
            code: of the error.
            name: the property that names it.

        Raises:
            botocore.exceptions.ClientError: the same, where it is another one or nothing is adopted.
        """
        is_static = isinstance(resource.definition["Properties"].get(name), str)
        is_adopted = self.adopts and is_static and resource.kept("DeletionPolicy")
        if not (is_adopted and error.response["Error"]["Code"] == code):
            raise error

    def name(self, logical_id: str, longest: int = 255) -> str:
        """Return a name for a resource that the template gives none."""
        return name_for(self.stack_name, logical_id, longest)

    def all_tags(self, properties: Mapping[str, Any]) -> dict[str, str]:
        """Return a resource's tags: its own before the stack's."""
        own = properties.get("Tags") or {}
        listed = own.items() if isinstance(own, Mapping) else ((tag["Key"], tag["Value"]) for tag in own)
        return {**self.tags, **{str(key): str(value) for key, value in listed}}

    def tag_list(self, properties: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return the same as most services want them."""
        return [{"Key": key, "Value": value} for key, value in self.all_tags(properties).items()]


@dataclass(frozen=True)
class Made:
    """A resource that was made or changed: what ``Ref`` and ``Fn::GetAtt`` find."""

    physical_id: str
    attributes: dict[str, str] = field(default_factory=dict)


class Kind(Protocol):
    """A kind of resources.

    Attributes:
        fixed: properties that cannot be changed: another resource takes its place.
        moving: attributes that an update changes.
    """

    fixed: frozenset[str]
    moving: frozenset[str]

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it of its properties."""

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change it to these properties."""

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it; one that is gone already is as good."""


def attribute_of(place: Place, resource: Resource, name: str) -> str:
    """Return an attribute of a resource.

    Raises:
        StackError: its kind has none of this name.
    """
    from services.embedded.stacks.kinds import PLAYED
    from services.embedded.stacks.kinds.noted import invented

    if name in resource.attributes:
        return resource.attributes[name]
    if resource.type not in PLAYED:
        return invented(place, resource, name)
    raise StackError(f"Template error: resource {resource.logical_id} does not support attribute type {name}")
