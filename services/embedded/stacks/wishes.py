"""What a request wants a stack to be: checked, completed, and compared with what is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import references
from services.embedded.stacks.kinds.kind import ClientOf, Place
from services.embedded.stacks.model import Stack
from services.embedded.stacks.parameters import Parameters, check_rules, resolve
from services.embedded.stacks.plan import Change
from services.embedded.stacks.review import changes
from services.embedded.stacks.scope import StackScope
from services.embedded.stacks.template import Template


@dataclass(frozen=True)
class Wish:
    """What a request wants a stack to be.

    Attributes:
        parameters: as given, complete but for defaults.
        tags: None to leave them as they are.
        adopts: whether a bucket or a table that is there already becomes the stack's (`ImportExistingResources`).
    """

    template: Template
    parameters: dict[str, str]
    capabilities: list[str]
    tags: dict[str, str] | None = None
    role_arn: str | None = None
    adopts: bool = False


@dataclass(frozen=True)
class Examined:
    """A wish for a stack, with which nothing is wrong.

    Attributes:
        parameters: complete.
        changes: of resources.
        changed: whether anything would change.
    """

    wish: Wish
    parameters: Parameters
    changes: list[Change]
    changed: bool


def examine(place: Place, client: ClientOf, stack: Stack, wish: Wish) -> Examined:
    """Check a wish, and find what it would change.

    Raises:
        StackError: a capability is missing, a parameter is missing or not allowed, or a name does not exist.
    """
    needed = wish.template.capabilities()
    if needed and not {"CAPABILITY_NAMED_IAM", *needed} & set(wish.capabilities):
        raise StackError(f"Requires capabilities : {needed}", "InsufficientCapabilitiesException")
    parameters = resolve(wish.template, wish.parameters, lambda name: _stored(client("ssm"), name))
    scope = StackScope(wish.template, parameters.values, place, (stack.name, stack.id), stack.resources)
    check_rules(wish.template, scope.evaluation)
    tags_changed = wish.tags is not None and stack.template is not None and wish.tags != stack.tags
    found = changes(scope, tags_changed=tags_changed)
    return Examined(wish, parameters, found, bool(found) or _outputs_change(stack, wish, parameters))


def _stored(ssm: Any, name: str) -> str:
    try:
        return str(ssm.get_parameter(Name=name)["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        raise StackError(f"Unable to fetch parameters [{name}] from parameter store for this account.") from None


def _outputs_change(stack: Stack, wish: Wish, parameters: Parameters) -> bool:
    """Say whether outputs change although no resource does."""
    if stack.template is None or stack.template.outputs != wish.template.outputs:
        return True
    named = {one.name for one in references(list(wish.template.outputs.values()))}
    return any(parameters.values.get(name) != stack.parameters.values.get(name) for name in named)


def given_parameters(stack: Stack | None, given: list[Mapping[str, Any]]) -> dict[str, str]:
    """Return the parameters of a request, those that it wants as before among them.

    Raises:
        StackError: there is none before.
    """
    before = stack.parameters.given if stack is not None else {}
    found = {}
    for one in given:
        name = one["ParameterKey"]
        if one.get("UsePreviousValue"):
            if name not in before:
                raise StackError(f"Invalid input for parameter key {name}. Cannot specify usePreviousValue as true")
            found[name] = before[name]
        else:
            found[name] = str(one["ParameterValue"])
    return found
