"""What a change set shows: what would become of each resource, found without touching any."""

from collections.abc import Mapping

from services.embedded.stacks.kinds import kind_of
from services.embedded.stacks.model import Resource
from services.embedded.stacks.plan import Change, in_order, modification, needs, wanted
from services.embedded.stacks.scope import StackScope


def changes(scope: StackScope, *, tags_changed: bool) -> list[Change]:
    """Return the changes that lead from the scope's resources to its template, in the order of the template.

    Args:
        scope: of the new template with the new parameters over the resources that are there; what will be known only
            later is noted in it.
        tags_changed: the stack has other tags, which every resource gets.

    Raises:
        StackError: a name in the template does not exist.
    """
    definitions, there = scope.template.resources, scope.resources
    names = wanted(definitions, scope.conditions())
    scope.later |= {name for name in names if name not in there}
    found = {}
    for name in in_order({name: needs(definitions[name], names) for name in names}):
        if (change := _change(scope, name, there, tags_changed=tags_changed)) is not None:
            found[name] = change
    removed = [Change("Remove", name, one.type, one.physical_id) for name, one in there.items() if name not in names]
    return [*removed, *(found[name] for name in names if name in found)]


def _change(scope: StackScope, name: str, there: Mapping[str, Resource], *, tags_changed: bool) -> Change | None:
    definition = scope.template.resources[name]
    kind = kind_of(definition["Type"])
    properties = scope.evaluation.value(definition.get("Properties") or {})
    if (old := there.get(name)) is None:
        return Change("Add", name, definition["Type"])
    kinds, values = (old.type, definition["Type"]), (old.properties, properties)
    change = modification(name, kinds, old.physical_id, values, kind.fixed)
    if change is None:
        return Change("Modify", name, old.type, old.physical_id, "False") if tags_changed else None
    if change.replacement == "True":
        scope.later.add(name)
    else:
        scope.later |= {(name, attribute) for attribute in kind.moving}
    return change
