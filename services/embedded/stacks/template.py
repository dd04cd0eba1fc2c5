"""A template as text, and as what stands in it."""

from dataclasses import dataclass
from typing import Any

import yaml

from services.embedded.stacks.errors import StackError

try:  # The parser in C reads our own template in an eighth of the time that the one in Python takes.
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

LONGEST_BODY_BYTES = 51_200
"""Of a template in a request (CloudFormation quotas); a longer one is put into a bucket and named by its URL."""

LONGEST_OBJECT_BYTES = 1_048_576
"""Of a template in a bucket."""

Definitions = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Template:
    """The sections of a template, its functions in their long form (``{"Fn::Sub": …}``).

    Attributes:
        text: what it was read from.
    """

    text: str
    parameters: Definitions
    rules: Definitions
    mappings: Definitions
    conditions: dict[str, Any]
    resources: Definitions
    outputs: Definitions
    description: str | None = None

    def capabilities(self) -> list[str]:
        """Return what must be acknowledged for a stack of it to be made, as CloudFormation asks for it."""
        names = ("RoleName", "UserName", "GroupName", "ManagedPolicyName", "InstanceProfileName")
        of_iam = [one for one in self.resources.values() if one["Type"].startswith("AWS::IAM::")]
        named = any(name in one.get("Properties", {}) for one in of_iam for name in names)
        return (["CAPABILITY_NAMED_IAM"] if named else ["CAPABILITY_IAM"]) if of_iam else []


class _Loader(_SafeLoader):
    """YAML with CloudFormation's short functions; dates and ``yes`` stay text as JSON would have them."""


def _short_function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]  # the third of three
    if suffix in {"Ref", "Condition"}:
        return {suffix: value}
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{suffix}": value}


def _as_text(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    return loader.construct_scalar(node)  # type: ignore[arg-type]  # a time stamp is a scalar


_Loader.add_multi_constructor("!", _short_function)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def document_of(text: str) -> Any:
    """Return what stands in a template in YAML or JSON as plain data, its functions in their long form.

    Raises:
        yaml.YAMLError: it is neither.
    """
    return yaml.load(text, _Loader)  # nosec B506 # noqa: S506 - a SafeLoader


def read(text: str) -> Template:
    """Read a template in YAML or JSON.

    Raises:
        StackError: it is neither, or has no resources, or one without a type.
    """
    try:
        document = document_of(text)
    except yaml.YAMLError as error:
        raise StackError(f"Template format error: YAML not well-formed. {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict) or not document["Resources"]:
        raise StackError("Template format error: At least one Resources member must be defined.")
    resources: Definitions = document["Resources"]
    for name, definition in resources.items():
        if not isinstance(definition, dict) or not isinstance(definition.get("Type"), str):
            raise StackError(
                f"Template format error: [/Resources/{name}] Every Resources object must contain a Type."
            )
    return Template(
        text=text,
        parameters=document.get("Parameters") or {},
        rules=document.get("Rules") or {},
        mappings=document.get("Mappings") or {},
        conditions=document.get("Conditions") or {},
        resources=resources,
        outputs=document.get("Outputs") or {},
        description=document.get("Description"),
    )
