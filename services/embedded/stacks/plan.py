"""What an update would change, and in which order resources are made: decided without making anything."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import references

LATER = "{{changeSet:KNOWN_AFTER_APPLY}}"
"""Stands for an attribute that is known only once its resource has been made or changed."""


@dataclass(frozen=True)
class Change:
    """What happens to one resource.

    Attributes:
        action: ``Add``, ``Modify`` or ``Remove``.
        physical_id: of the resource that is there; empty for one that is added.
        replacement: ``True``, ``False`` or ``Conditional`` for one that is modified; empty otherwise.
        properties: names of those that change.
        dynamic: those of them whose new value is not known before.
    """

    action: str
    logical_id: str
    type: str
    physical_id: str = ""
    replacement: str = ""
    properties: tuple[str, ...] = ()
    dynamic: frozenset[str] = frozenset()


def wanted(resources: Mapping[str, Mapping[str, Any]], conditions: Mapping[str, bool]) -> list[str]:
    """Return the logical ids of the resources whose condition holds, in the order of the template.

    Raises:
        StackError: a condition does not exist.
    """
    for name, definition in resources.items():
        if (condition := definition.get("Condition")) is not None and condition not in conditions:
            raise StackError(f"Template format error: Unresolved condition {condition} of resource {name}")
    return [name for name, one in resources.items() if conditions.get(one.get("Condition", ""), True)]


def needs(definition: Mapping[str, Any], known: Iterable[str]) -> frozenset[str]:
    """Return which of the known resources must be there before one of this definition."""
    named = definition.get("DependsOn", [])
    named = {named} if isinstance(named, str) else set(named)
    return frozenset((named | {one.name for one in references(definition.get("Properties", {}))}) & set(known))


def in_order(needed: Mapping[str, frozenset[str]]) -> list[str]:
    """Return all resources, each after those that it needs; otherwise as they stand in the template.

    Raises:
        StackError: some need each other.
    """
    ordered: list[str] = []
    waiting = dict(needed)
    while waiting:
        ready = [name for name, before in waiting.items() if before <= set(ordered)]
        if not ready:
            raise StackError(f"Circular dependency between resources: [{', '.join(sorted(waiting))}]")
        ordered.extend(ready)
        for name in ready:
            del waiting[name]
    return ordered


def changed_properties(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the properties that are not the same."""
    return tuple(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))


def modification(
    logical_id: str,
    kinds: tuple[str, str],
    physical_id: str,
    properties: tuple[Mapping[str, Any], Mapping[str, Any]],
    fixed: frozenset[str],
) -> Change | None:
    """Return what becomes of a resource that stays in the template, or None where it stays as it is.

    Args:
        logical_id: of the resource.
        kinds: its type before and after.
        physical_id: of the resource that is there.
        properties: before and after; `LATER` where a value is not known yet.
        fixed: properties that cannot be changed: another resource takes its place.
    """
    old, new = properties
    names = changed_properties(old, new)
    if not names and kinds[0] == kinds[1]:
        return None
    dynamic = frozenset(name for name in names if LATER in str(new.get(name)))
    replacement = "False"
    if kinds[0] != kinds[1] or (fixed & set(names)) - dynamic:
        replacement = "True"
    elif fixed & dynamic:
        replacement = "Conditional"
    return Change("Modify", logical_id, kinds[1], physical_id, replacement, names, dynamic)
