"""Change sets: changes that are looked at before they are made."""

from dataclasses import dataclass, field

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.model import ChangeSet, Stack
from services.embedded.stacks.service import Stacks, check_updatable
from services.embedded.stacks.wishes import Wish

NO_CHANGES = "The submitted information didn't contain changes. Submit different information to create a change set."


@dataclass
class ChangeSets:
    """The change sets of one account and region.

    Args:
        stacks: which they would change.
    """

    stacks: Stacks
    _by_id: dict[str, ChangeSet] = field(default_factory=dict)

    def of(self, stack: Stack) -> list[ChangeSet]:
        """Return a stack's change sets."""
        return [one for one in list(self._by_id.values()) if one.stack is stack]

    def find(self, name_or_id: str, stack_name: str | None) -> ChangeSet:
        """Return a change set by its id, or by its name and its stack.

        Raises:
            StackError: ChangeSetNotFound.
        """
        if (by_id := self._by_id.get(name_or_id)) is not None:
            return by_id
        for one in list(self._by_id.values()):
            is_present = one.stack.status != "DELETE_COMPLETE" or one.stack.id == stack_name
            if is_present and one.name == name_or_id and stack_name in {one.stack.name, one.stack.id}:
                return one
        raise StackError(f"ChangeSet [{name_or_id}] does not exist", "ChangeSetNotFound")

    def create(self, name: str, stack_name: str, kind: str, wish: Wish, description: str | None = None) -> ChangeSet:
        """Make a change set; one without changes has failed, and says so.

        Args:
            name: of the change set.
            stack_name: or id.
            kind: ``CREATE``, by which a stack in review comes to be, or ``UPDATE``.
            wish: what the stack is to be.
            description: for people.

        Raises:
            StackError: the stack is not there, or is there already, or what is wanted is not valid.
        """
        with self.stacks.lock:
            stack = self._stack_for(name, stack_name, kind, wish)
            examined = self.stacks.examine(stack, wish)
            if stack.id not in self.stacks.stacks:
                self.stacks.stacks[stack.id] = stack
                stack.turn("REVIEW_IN_PROGRESS", "User Initiated")
            made = ChangeSet(
                id=self.stacks.arn(f"changeSet/{name}"),
                name=name,
                stack=stack,
                kind=kind,
                examined=examined,
                status="CREATE_COMPLETE" if examined.changed else "FAILED",
                execution_status="AVAILABLE" if examined.changed else "UNAVAILABLE",
                reason=None if examined.changed else NO_CHANGES,
                description=description,
            )
            self._by_id[made.id] = made
            return made

    def _stack_for(self, name: str, stack_name: str, kind: str, wish: Wish) -> Stack:
        there = self.stacks.named(stack_name) or self.stacks.stacks.get(stack_name)
        if there is not None and any(one.name == name for one in self.of(there)):
            raise StackError(f"ChangeSet {name} already exists", "AlreadyExistsException")
        if kind == "CREATE":
            if there is not None and there.status != "REVIEW_IN_PROGRESS":
                raise StackError(
                    f"Stack [{stack_name}] already exists and cannot be created again with the changeSet [{name}]."
                )
            return there or self.stacks.new(stack_name, wish)
        if there is None:
            raise StackError(f"Stack [{stack_name}] does not exist")
        check_updatable(there)
        return there

    def execute(self, name_or_id: str, stack_name: str | None) -> None:
        """Begin to make the changes of a change set; the stack's others are then void.

        Raises:
            StackError: InvalidChangeSetStatus, it has failed or is executed already.
        """
        with self.stacks.lock:
            one = self.find(name_or_id, stack_name)
            if one.execution_status != "AVAILABLE":
                raise StackError(
                    f"ChangeSet [{one.id}] cannot be executed in its current execution status of "
                    f"[{one.execution_status}]",
                    "InvalidChangeSetStatus",
                )
            if one.kind == "UPDATE":
                check_updatable(one.stack)
            self.forget(one.stack)
            one.execution_status = "EXECUTE_COMPLETE"
            self._by_id[one.id] = one
            begin = self.stacks.begin_create if one.kind == "CREATE" else self.stacks.begin_update
            begin(one.stack, one.examined)

    def delete(self, name_or_id: str, stack_name: str | None) -> None:
        """Delete a change set; its stack stays as it is.

        Raises:
            StackError: ChangeSetNotFound.
        """
        with self.stacks.lock:
            del self._by_id[self.find(name_or_id, stack_name).id]

    def forget(self, stack: Stack) -> None:
        """Delete all change sets of a stack."""
        for one in self.of(stack):
            del self._by_id[one.id]
