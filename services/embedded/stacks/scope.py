"""What names in a template stand for, while a stack is made or while its changes are only looked at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import Evaluation
from services.embedded.stacks.kinds.kind import Place, attribute_of
from services.embedded.stacks.model import Resource
from services.embedded.stacks.plan import LATER
from services.embedded.stacks.template import Template


@dataclass
class StackScope:
    """The names of one template with one set of parameters.

    Args:
        template: where the names are from.
        values: of its parameters.
        stack: name and id.
        resources: those that are there.
        later: logical ids of which nothing is known yet, and attributes by logical id that will change.
    """

    template: Template
    values: Mapping[str, Any]
    place: Place
    stack: tuple[str, str]
    resources: Mapping[str, Resource]
    later: set[str | tuple[str, str]] = field(default_factory=set)
    _conditions: dict[str, bool] = field(default_factory=dict)

    @property
    def evaluation(self) -> Evaluation:
        """Evaluates values in this scope."""
        return Evaluation(self, self.place.region)

    def conditions(self) -> dict[str, bool]:
        """Return every condition."""
        return {name: self.condition(name) for name in self.template.conditions}

    def ref(self, name: str) -> Any:
        """Return a parameter, a pseudo parameter, or the physical id of a resource.

        Raises:
            StackError: there is nothing of this name.
        """
        pseudo = {
            "AWS::AccountId": self.place.account,
            "AWS::Partition": "aws",
            "AWS::Region": self.place.region,
            "AWS::StackId": self.stack[1],
            "AWS::StackName": self.stack[0],
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::NotificationARNs": [],
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.values:
            return self.values[name]
        if name in self.later:
            return LATER
        return self._resource(name).physical_id

    def attribute(self, name: str, attribute: str) -> Any:
        """Return an attribute of a resource.

        Raises:
            StackError: there is no such resource, or it has no such attribute.
        """
        if name in self.later or (name, attribute) in self.later:
            return LATER
        return attribute_of(self.place, self._resource(name), attribute)

    def condition(self, name: str) -> bool:
        """Return whether a condition holds.

        Raises:
            StackError: there is no such condition.
        """
        if name not in self._conditions:
            if name not in self.template.conditions:
                raise StackError(f"Template error: unresolved condition {name}")
            self._conditions[name] = bool(self.evaluation.value(self.template.conditions[name]))
        return self._conditions[name]

    def mapping(self, name: str, first: str, second: str) -> Any:
        """Return a value of a mapping.

        Raises:
            StackError: it is not there.
        """
        try:
            return self.template.mappings[name][first][second]
        except KeyError:
            raise StackError(f"Template error: Unable to get mapping for {name}::{first}::{second}") from None

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            raise StackError(f"Template error: unresolved resource dependencies [{name}] in the template")
        return self.resources[name]
