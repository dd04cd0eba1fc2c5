"""A change set says what would happen, and then that happens; a stack is asked for in its turn."""

import pytest

from services.embedded.stacks.change_sets import NO_CHANGES
from services.embedded.stacks.errors import StackError
from services.embedded.stacks.wishes import given_parameters
from tests.unit.services.embedded.stacks.conftest import World, states, wish

TWO = "{A: {Type: Thing, Properties: {Size: !Ref Size}}, B: {Type: Thing, Properties: {At: !GetAtt A.Version}}}"


def test_a_new_stack_is_reviewed_then_made(world: World) -> None:
    made = world.change_sets.create("c", "s", "CREATE", wish(TWO))
    stack = made.stack
    assert (made.status, made.execution_status, stack.status) == (
        "CREATE_COMPLETE",
        "AVAILABLE",
        "REVIEW_IN_PROGRESS",
    )
    assert [(one.action, one.logical_id) for one in made.examined.changes] == [("Add", "A"), ("Add", "B")]
    assert world.things.done == []
    world.change_sets.execute("c", "s")
    assert stack.status == "CREATE_IN_PROGRESS"
    world.work()
    assert states(stack) == ["REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_COMPLETE"]
    assert stack.outputs == [{"OutputKey": "Where", "OutputValue": "arn:A-1"}]


def test_a_change_is_told_with_what_follows_from_it(world: World) -> None:
    world.create(TWO)
    made = world.change_sets.create("c", "s", "UPDATE", wish(TWO, Size="2"))
    a, b = made.examined.changes
    assert (a.action, a.logical_id, a.physical_id, a.replacement) == ("Modify", "A", "A-1", "False")
    assert (a.properties, a.dynamic) == (("Size",), frozenset())
    assert (b.logical_id, b.properties, b.dynamic) == ("B", ("At",), frozenset({"At"}))
    world.change_sets.execute(made.id, None)
    world.work()
    assert world.things.done[2:] == ["update A", "update B"]


@pytest.mark.parametrize(
    ("name", "replacement"), [("!Ref Size", "True"), ("!GetAtt B.Version", "Conditional"), ("same", None)]
)
def test_a_replacement_is_told(world: World, name: str, replacement: str | None) -> None:
    old = "{A: {Type: Thing, Properties: {Name: same}}, B: {Type: Thing, Properties: {At: !Ref Size}}}"
    world.create(old)
    new = old.replace("{Name: same}", f"{{Name: {name}}}")
    changes = world.change_sets.create("c", "s", "UPDATE", wish(new, Size="2")).examined.changes
    assert [one.replacement for one in changes if one.logical_id == "A"] == ([replacement] if replacement else [])


def test_what_leaves_and_what_comes_is_told(world: World) -> None:
    world.create("{A: {Type: Thing}, B: {Type: Thing}}")
    changes = world.change_sets.create("c", "s", "UPDATE", wish("{A: {Type: Thing}, C: {Type: Thing}}"))
    told = [(one.action, one.logical_id) for one in changes.examined.changes]
    assert told == [("Remove", "B"), ("Add", "C")]


def test_no_change_is_a_change_set_that_failed_and_says_so(world: World) -> None:
    world.create(TWO)
    made = world.change_sets.create("c", "s", "UPDATE", wish(TWO))
    assert (made.status, made.execution_status, made.reason) == ("FAILED", "UNAVAILABLE", NO_CHANGES)
    with pytest.raises(StackError, match=r"cannot be executed .* \[UNAVAILABLE\]") as refused:
        world.change_sets.execute("c", "s")
    assert refused.value.code == "InvalidChangeSetStatus"
    with pytest.raises(StackError, match="No updates are to be performed"):
        world.update(TWO)


def test_another_output_is_a_change(world: World) -> None:
    world.create("{A: {Type: Thing}}")
    other = wish("{A: {Type: Thing}}")
    other.template.outputs["Where"]["Value"] = {"Ref": "Size"}
    assert world.change_sets.create("c", "s", "UPDATE", other).status == "CREATE_COMPLETE"


def test_a_change_set_is_executed_once_and_voids_the_others(world: World) -> None:
    world.create(TWO)
    world.change_sets.create("one", "s", "UPDATE", wish(TWO, Size="2"))
    world.change_sets.create("two", "s", "UPDATE", wish(TWO, Size="3"))
    world.change_sets.execute("one", "s")
    world.work()
    with pytest.raises(StackError, match=r"ChangeSet \[two\] does not exist"):
        world.change_sets.find("two", "s")
    with pytest.raises(StackError, match=r"\[EXECUTE_COMPLETE\]"):
        world.change_sets.execute("one", "s")


def test_a_change_set_that_is_deleted_leaves_the_stack_in_review(world: World) -> None:
    world.change_sets.create("c", "s", "CREATE", wish(TWO))
    world.change_sets.delete("c", "s")
    assert world.stacks.find("s").status == "REVIEW_IN_PROGRESS"
    world.change_sets.create("c", "s", "CREATE", wish(TWO))
    assert len(world.stacks.present()) == 1


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("s", "CREATE", r"Stack \[s\] already exists and cannot be created again"),
        ("other", "UPDATE", r"Stack \[other\] does not exist"),
    ],
)
def test_a_change_set_of_the_wrong_kind_is_refused(world: World, name: str, kind: str, told: str) -> None:
    world.create(TWO)
    with pytest.raises(StackError, match=told):
        world.change_sets.create("c", name, kind, wish(TWO))


def test_nothing_is_begun_with_a_stack_that_is_being_worked_on(world: World) -> None:
    world.stacks.create("s", wish(TWO))
    with pytest.raises(StackError, match="CREATE_IN_PROGRESS state and can not be updated"):
        world.stacks.update("s", wish(TWO, Size="2"))
    with pytest.raises(StackError, match="cannot be deleted while in status CREATE_IN_PROGRESS"):
        world.stacks.delete("s", [])
    with pytest.raises(StackError, match="already exists"):
        world.stacks.create("s", wish(TWO))


def test_a_deleted_stack_is_found_by_its_id_only_and_its_name_is_free(world: World) -> None:
    stack = world.create(TWO)
    world.delete()
    assert world.stacks.find(stack.id).status == "DELETE_COMPLETE"
    with pytest.raises(StackError, match="Stack with id s does not exist"):
        world.stacks.find("s")
    assert world.stacks.delete("s", []) is None
    assert world.create(TWO).id != stack.id


def test_parameters_are_kept_where_a_request_says_so(world: World) -> None:
    stack = world.create(TWO, Size="7")
    assert given_parameters(stack, [{"ParameterKey": "Size", "UsePreviousValue": True}]) == {"Size": "7"}
    assert given_parameters(stack, [{"ParameterKey": "Size", "ParameterValue": "8"}]) == {"Size": "8"}
    with pytest.raises(StackError, match="Cannot specify usePreviousValue"):
        given_parameters(None, [{"ParameterKey": "Size", "UsePreviousValue": True}])
