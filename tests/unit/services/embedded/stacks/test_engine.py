"""Stacks are made in order, changed where something changed, undone when something fails, and deleted backwards."""

import pytest

from services.embedded.stacks.errors import StackError
from tests.unit.services.embedded.stacks.conftest import World, states, wish

THREE = "{C: {Type: Thing, DependsOn: B}, A: {Type: Thing}, B: {Type: Thing, Properties: {At: !Ref A}}}"
TWO = "{A: {Type: Thing, Properties: {Size: !Ref Size}}, B: {Type: Thing, Properties: {At: !GetAtt A.Version}}}"


def test_resources_are_made_after_those_that_they_need_and_deleted_before_them(world: World) -> None:
    stack = world.create(THREE)
    assert world.things.done == ["create A", "create B", "create C"]
    assert stack.resources["B"].properties == {"At": "A-1"}
    assert (stack.status, stack.outputs) == ("CREATE_COMPLETE", [{"OutputKey": "Where", "OutputValue": "arn:A-1"}])
    world.delete()
    assert world.things.done[3:] == ["delete C", "delete B", "delete A"]
    assert states(stack) == ["CREATE_IN_PROGRESS", "CREATE_COMPLETE", "DELETE_IN_PROGRESS", "DELETE_COMPLETE"]


def test_every_step_of_a_resource_is_an_event_with_its_reason(world: World) -> None:
    world.things.fails = {"create B"}
    stack = world.create(THREE)
    told = [(one.logical_id, one.status, one.reason) for one in stack.events if one.logical_id in {"A", "B"}]
    assert told == [
        ("A", "CREATE_IN_PROGRESS", None),
        ("A", "CREATE_COMPLETE", None),
        ("B", "CREATE_IN_PROGRESS", None),
        ("B", "CREATE_FAILED", "no create B"),
        ("A", "DELETE_IN_PROGRESS", None),
        ("A", "DELETE_COMPLETE", None),
    ]


def test_a_stack_that_cannot_be_made_is_taken_away_again(world: World) -> None:
    world.things.fails = {"create C"}
    stack = world.create(THREE)
    assert (stack.status, world.things.there, stack.resources) == ("ROLLBACK_COMPLETE", {}, {})
    assert states(stack)[-2:] == ["ROLLBACK_IN_PROGRESS", "ROLLBACK_COMPLETE"]
    with pytest.raises(StackError, match="ROLLBACK_COMPLETE state and can not be updated"):
        world.update(THREE)


def test_only_what_has_changed_is_changed_and_what_needs_it(world: World) -> None:
    world.create(f"{TWO[:-1]}, C: {{Type: Thing}}}}")
    stack = world.update(f"{TWO[:-1]}, C: {{Type: Thing}}}}", Size="2")
    assert world.things.done[3:] == ["update A", "update B"]
    assert stack.resources["A"].properties == {"Size": "2"}
    assert stack.status == "UPDATE_COMPLETE"


def test_a_fixed_property_is_another_resource_and_the_old_one_goes_last(world: World) -> None:
    world.create("{A: {Type: Thing, Properties: {Name: a}}, B: {Type: Thing, Properties: {At: !Ref A}}}")
    stack = world.update("{A: {Type: Thing, Properties: {Name: b}}, B: {Type: Thing, Properties: {At: !Ref A}}}")
    assert world.things.done[2:] == ["create A", "update B", "delete A"]
    assert stack.resources["A"].physical_id == "A-3"
    assert stack.resources["B"].properties == {"At": "A-3"}
    assert states(stack)[-2:] == ["UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE"]


def test_what_is_no_longer_wanted_is_deleted_and_what_is_new_is_made(world: World) -> None:
    world.create("{A: {Type: Thing}, B: {Type: Thing}}")
    stack = world.update("{A: {Type: Thing}, C: {Type: Thing}}")
    assert world.things.done[2:] == ["create C", "delete B"]
    assert set(stack.resources) == {"A", "C"}


def test_a_condition_decides_whether_a_resource_is_there(world: World) -> None:
    large = "{A: {Type: Thing}, B: {Type: Thing, Condition: IsLarge}}"
    assert set(world.create(large).resources) == {"A"}
    assert set(world.update(large, Size="large").resources) == {"A", "B"}
    assert set(world.update(large, Size="2").resources) == {"A"}


def test_an_update_that_fails_is_changed_back(world: World) -> None:
    stack = world.create(TWO)
    world.things.fails = {"update B"}
    world.update(TWO, Size="2")
    assert (stack.status, stack.parameters.given) == ("UPDATE_ROLLBACK_COMPLETE", {"Size": "1"})
    assert world.things.there["A-1"] == {"Size": "1"}
    assert "no update B" in [one.reason for one in stack.events]
    world.things.fails = set()
    assert world.update(TWO, Size="3").status == "UPDATE_COMPLETE"


def test_an_update_that_fails_leaves_nothing_that_it_made(world: World) -> None:
    stack = world.create("{A: {Type: Thing, Properties: {Name: a}}}")
    world.things.fails = {"create C"}
    world.update("{A: {Type: Thing, Properties: {Name: b}}, C: {Type: Thing, DependsOn: A}}")
    assert (stack.status, list(world.things.there)) == ("UPDATE_ROLLBACK_COMPLETE", ["A-1"])
    assert stack.resources["A"].physical_id == "A-1"


@pytest.mark.parametrize("policy", ["DeletionPolicy", "UpdateReplacePolicy"])
def test_what_is_to_be_kept_stays_when_its_stack_or_its_place_goes(world: World, policy: str) -> None:
    stack = world.create(f"{{A: {{Type: Thing, {policy}: Retain, Properties: {{Name: a}}}}}}")
    if policy == "DeletionPolicy":
        world.delete()
        assert (stack.status, stack.resources) == ("DELETE_COMPLETE", {})
    else:
        world.update(f"{{A: {{Type: Thing, {policy}: Retain, Properties: {{Name: b}}}}}}")
    assert "A-1" in world.things.there
    assert "DELETE_SKIPPED" in [one.status for one in stack.events]


def test_what_cannot_be_deleted_is_named_and_can_be_left_where_it_is(world: World) -> None:
    stack = world.create("{A: {Type: Thing}, B: {Type: Thing}}")
    world.things.fails = {"delete A"}
    world.delete()
    assert (stack.status, stack.reason) == ("DELETE_FAILED", "The following resource(s) failed to delete: [A].")
    assert set(stack.resources) == {"A"}
    world.stacks.delete("s", ["A"])
    world.work()
    assert (stack.status, list(world.things.there)) == ("DELETE_COMPLETE", ["A-1"])


def test_other_tags_of_the_stack_reach_every_resource(world: World) -> None:
    world.stacks.create("s", wish("{A: {Type: Thing}}", {"fleetsight": "a"}))
    world.work()
    assert world.things.there["A-1"] == {"fleetsight": "a"}
    world.stacks.update("s", wish("{A: {Type: Thing}}", {"fleetsight": "b"}))
    world.work()
    assert world.things.there["A-1"] == {"fleetsight": "b"}


def test_a_type_that_is_not_played_is_there_with_an_id_and_attributes(world: World) -> None:
    stack = world.create(
        "{A: {Type: AWS::Made::Up, Properties: {At: !GetAtt B.Arn}},"
        " B: {Type: AWS::Budgets::Budget, Properties: {Name: mine}}}"
    )
    assert stack.resources["B"].physical_id == "mine"
    assert stack.resources["A"].properties == {"At": "arn:aws:budgets:us-east-1:1:mine"}
    assert stack.resources["A"].physical_id.startswith("s-A-")
    world.delete()
    assert stack.status == "DELETE_COMPLETE"


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ("{A: {Type: Thing, Properties: {At: !Ref Nobody}}}", "Nobody"),
        ("{A: {Type: Thing, DependsOn: B}, B: {Type: Thing, DependsOn: A}}", r"Circular dependency .*\[A, B\]"),
        ("{A: {Type: Thing, Condition: Unknown}}", "Unresolved condition Unknown"),
    ],
)
def test_a_template_with_a_wrong_name_makes_no_stack(world: World, resources: str, told: str) -> None:
    with pytest.raises(StackError, match=told):
        world.create(resources)
    assert world.stacks.present() == []


def test_an_attribute_that_a_resource_lacks_fails_where_it_is_needed(world: World) -> None:
    stack = world.create("{A: {Type: Thing}, B: {Type: Thing, Properties: {At: !GetAtt A.Nothing}}}")
    assert stack.status == "ROLLBACK_COMPLETE"
    assert any("does not support attribute type Nothing" in (one.reason or "") for one in stack.events)


def test_a_mistake_of_the_engine_does_not_leave_the_stack_in_progress(world: World) -> None:
    world.things.there = None  # type: ignore[assignment]  # which no kind of resource expects
    stack = world.create("{A: {Type: Thing}}")
    assert stack.status == "CREATE_FAILED"
    assert "made a mistake: TypeError" in (stack.reason or "")
