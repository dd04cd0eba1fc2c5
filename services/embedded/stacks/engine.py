"""Makes, changes and deletes the resources of a stack, one after another, and undoes what it began when one fails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from services.embedded.stacks.errors import ResourceError, StackError
from services.embedded.stacks.kinds import kind_of
from services.embedded.stacks.kinds.kind import Cloud
from services.embedded.stacks.model import Resource, Stack
from services.embedded.stacks.plan import changed_properties, in_order, needs, wanted
from services.embedded.stacks.scope import StackScope

FAILURES = (BotoCoreError, ClientError, ResourceError, StackError, KeyError)
"""What a resource may fail with; anything else is a mistake of this engine."""


@dataclass
class Engine:
    """Works on one stack.

    Args:
        stack: whose template, parameters and tags say what is wanted; its resources are what is there.
        cloud: the services.
    """

    stack: Stack
    cloud: Cloud
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _leaving: list[Resource] = field(default_factory=list)

    def create(self) -> None:
        """Make everything that the template wants; take it away again when something fails."""
        try:
            self._apply(tags_changed=False)
        except FAILURES as error:
            self.stack.turn("ROLLBACK_IN_PROGRESS", reason(error))
            failed = self._delete_all(self.stack.resources.values(), "DeletionPolicy")
            self.stack.turn("ROLLBACK_FAILED" if failed else "ROLLBACK_COMPLETE", failed)
        else:
            self.stack.turn("CREATE_COMPLETE")

    def update(self, before: Stack) -> None:
        """Change what is there into what the template wants now; change it back when something fails.

        Args:
            before: a copy of the stack as it was: template, parameters, tags, outputs.
        """
        try:
            self._apply(tags_changed=before.tags != self.stack.tags)
        except FAILURES as error:
            self._roll_back(before, reason(error))
            return
        self.stack.turn("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        self._delete_all(self._leaving, "UpdateReplacePolicy")
        kept = self._wanted()
        gone = [one for name, one in self.stack.resources.items() if name not in kept]
        self._delete_all(gone, "DeletionPolicy")
        self.stack.turn("UPDATE_COMPLETE")

    def delete(self, retain: Iterable[str] = ()) -> None:
        """Delete everything that may be deleted.

        Args:
            retain: logical ids of resources that are left where they are, which could not be deleted before.
        """
        for name in set(retain) & set(self.stack.resources):
            self._forget(self.stack.resources[name])
        failed = self._delete_all(self.stack.resources.values(), "DeletionPolicy")
        self.stack.turn("DELETE_FAILED" if failed else "DELETE_COMPLETE", failed)

    def _wanted(self) -> list[str]:
        assert self.stack.template is not None  # nosec B101 # noqa: S101 - what is deployed has one
        return wanted(self.stack.template.resources, self._scope().conditions())

    def _scope(self) -> StackScope:
        stack = self.stack
        assert stack.template is not None  # nosec B101 # noqa: S101 - as above
        return StackScope(
            stack.template, stack.parameters.values, self.cloud.place, (stack.name, stack.id), stack.resources
        )

    def _apply(self, *, tags_changed: bool) -> None:
        scope, names = self._scope(), self._wanted()
        definitions = scope.template.resources
        needed = {name: needs(definitions[name], names) for name in names}
        for name in in_order(needed):
            definition = definitions[name]
            found = self.stack.resources.get(name)
            try:
                properties = scope.evaluation.value(definition.get("Properties") or {})
            except StackError as error:
                at = found or Resource(name, definition["Type"], definition, {}, needed[name])
                self.stack.turn_resource(at, "UPDATE_FAILED" if found else "CREATE_FAILED", str(error))
                raise
            new = Resource(name, definition["Type"], definition, properties, needed[name])
            if found is None:
                self._create(new)
            else:
                self._change(found, new, tags_changed=tags_changed)
        self.stack.outputs = self._outputs(scope)

    def _create(self, resource: Resource) -> None:
        stack = self.stack
        stack.turn_resource(resource, "CREATE_IN_PROGRESS")
        before = stack.resources.get(resource.logical_id)
        try:
            made = kind_of(resource.type).create(self.cloud, resource)
        except FAILURES as error:
            stack.turn_resource(resource, "CREATE_FAILED", reason(error))
            raise
        resource.physical_id, resource.attributes = made.physical_id, made.attributes
        stack.resources[resource.logical_id] = resource
        stack.turn_resource(resource, "CREATE_COMPLETE")

        def undo() -> None:
            self._delete(resource)
            if before is not None:
                stack.resources[resource.logical_id] = before

        self._undo.append(undo)

    def _change(self, found: Resource, new: Resource, *, tags_changed: bool) -> None:
        changed = changed_properties(found.properties, new.properties)
        if found.type != new.type or set(changed) & kind_of(new.type).fixed:
            self._leaving.append(found)
            self._create(new)
        elif changed or tags_changed:
            before = (found.definition, found.properties, found.needs)
            self._update(found, (new.definition, new.properties, new.needs))
            self._undo.append(lambda: self._update(found, before))
        else:
            found.definition, found.needs = new.definition, new.needs

    def _update(self, resource: Resource, to: tuple[dict[str, Any], dict[str, Any], frozenset[str]]) -> None:
        self.stack.turn_resource(resource, "UPDATE_IN_PROGRESS")
        definition, properties, needed = to
        try:
            made = kind_of(resource.type).update(self.cloud, resource, properties)
        except FAILURES as error:
            self.stack.turn_resource(resource, "UPDATE_FAILED", reason(error))
            raise
        resource.attributes = made.attributes
        resource.definition, resource.properties, resource.needs = definition, properties, needed
        self.stack.turn_resource(resource, "UPDATE_COMPLETE")

    def _roll_back(self, before: Stack, why: str) -> None:
        stack = self.stack
        stack.turn("UPDATE_ROLLBACK_IN_PROGRESS", why)
        stack.template, stack.parameters = before.template, before.parameters
        stack.tags, stack.outputs = before.tags, before.outputs
        failed = []
        for undo in reversed(self._undo):
            try:
                undo()
            except FAILURES as error:
                failed.append(reason(error))
        stack.turn("UPDATE_ROLLBACK_FAILED" if failed else "UPDATE_ROLLBACK_COMPLETE", "; ".join(failed) or None)

    def _delete_all(self, resources: Iterable[Resource], policy: str) -> str | None:
        """Delete resources, those that others need last; return what could not be deleted, in words, or None."""
        there = {id(one): one for one in resources}
        names = {one.logical_id: id(one) for one in there.values()}
        order = in_order({name: there[key].needs & set(names) for name, key in names.items()})
        failed = []
        for name in reversed(order):
            resource = there[names[name]]
            if resource.kept(policy):
                self._forget(resource)
                continue
            try:
                self._delete(resource)
            except FAILURES:
                failed.append(name)
        return f"The following resource(s) failed to delete: [{', '.join(sorted(failed))}]." if failed else None

    def _delete(self, resource: Resource) -> None:
        self.stack.turn_resource(resource, "DELETE_IN_PROGRESS")
        try:
            kind_of(resource.type).delete(self.cloud, resource)
        except FAILURES as error:
            self.stack.turn_resource(resource, "DELETE_FAILED", reason(error))
            raise
        self.stack.turn_resource(resource, "DELETE_COMPLETE")
        self._drop(resource)

    def _forget(self, resource: Resource) -> None:
        self.stack.turn_resource(resource, "DELETE_SKIPPED")
        self._drop(resource)

    def _drop(self, resource: Resource) -> None:
        if self.stack.resources.get(resource.logical_id) is resource:
            del self.stack.resources[resource.logical_id]

    def _outputs(self, scope: StackScope) -> list[dict[str, str]]:
        found = []
        for name, output in scope.template.outputs.items():
            if "Condition" in output and not scope.condition(output["Condition"]):
                continue
            value = scope.evaluation.value(output["Value"])
            told = {"Description": output["Description"]} if "Description" in output else {}
            found.append({"OutputKey": name, "OutputValue": str(value), **told})
        return found


def reason(error: BaseException) -> str:
    """Return why a resource failed, as its event tells."""
    if isinstance(error, ClientError):
        told = error.response["Error"]
        return f"{told.get('Message', '')} (Service: {error.operation_name}; Error Code: {told.get('Code', '')})"
    if isinstance(error, KeyError):
        return f"Properties validation failed: required key {error} not found"
    return str(error)
