"""The stacks of one account and region: made, changed and deleted in the background, as they are asked for."""

import copy
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.embedded.stacks.engine import Engine
from services.embedded.stacks.errors import StackError
from services.embedded.stacks.kinds.kind import ClientOf, Cloud, Place
from services.embedded.stacks.model import Stack
from services.embedded.stacks.wishes import Examined, Wish, examine

log = logging.getLogger(__name__)

NO_UPDATES = "No updates are to be performed."
UPDATABLE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"})
"""The states in which a stack takes an update."""


def in_background(work: Callable[[], None]) -> None:
    """Do something in a thread that ends with the process."""
    threading.Thread(target=work, daemon=True, name="stack").start()


@dataclass
class Stacks:
    """The stacks of one account in one region.

    Args:
        place: which.
        client: of a service there.
        start: does in the background what takes time.
    """

    place: Place
    client: ClientOf
    start: Callable[[Callable[[], None]], None] = in_background
    stacks: dict[str, Stack] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def find(self, name_or_id: str) -> Stack:
        """Return a stack by its name, or by its id, by which one that was deleted is found too.

        Raises:
            StackError: there is none.
        """
        found = self.stacks.get(name_or_id) or self.named(name_or_id)
        if found is None:
            raise StackError(f"Stack with id {name_or_id} does not exist")
        return found

    def named(self, name: str) -> Stack | None:
        """Return the stack that has this name now, or None."""
        return next((stack for stack in self.present() if stack.name == name), None)

    def present(self) -> list[Stack]:
        """Return the stacks that are not deleted."""
        return [stack for stack in list(self.stacks.values()) if stack.status != "DELETE_COMPLETE"]

    def new(self, name: str, wish: Wish) -> Stack:
        """Return a stack that nobody knows of yet."""
        return Stack(self.arn(f"stack/{name}"), name, wish.tags or {}, "")

    def arn(self, what: str) -> str:
        """Return a new ARN of CloudFormation."""
        return f"arn:aws:cloudformation:{self.place.region}:{self.place.account}:{what}/{uuid.uuid4()}"

    def examine(self, stack: Stack, wish: Wish) -> Examined:
        """Check what is wanted of a stack, and find what would change.

        Raises:
            StackError: it is not valid.
        """
        return examine(self.place, self.client, stack, wish)

    def create(self, name: str, wish: Wish) -> Stack:
        """Begin to make a stack.

        Raises:
            StackError: AlreadyExistsException, or the template or its parameters are not valid.
        """
        with self.lock:
            if self.named(name) is not None:
                raise StackError(f"Stack [{name}] already exists", "AlreadyExistsException")
            stack = self.new(name, wish)
            examined = self.examine(stack, wish)
            self.stacks[stack.id] = stack
            self.begin_create(stack, examined)
            return stack

    def update(self, name: str, wish: Wish) -> Stack:
        """Begin to change a stack.

        Raises:
            StackError: it cannot be changed now, nothing would change, or what is wanted is not valid.
        """
        with self.lock:
            stack = self.find(name)
            check_updatable(stack)
            examined = self.examine(stack, wish)
            if not examined.changed:
                raise StackError(NO_UPDATES)
            self.begin_update(stack, examined)
            return stack

    def delete(self, name: str, retain: list[str]) -> Stack | None:
        """Begin to delete a stack, and return it; one that is not there is deleted.

        Args:
            name: or id.
            retain: logical ids of resources that could not be deleted before, and are left where they are.

        Raises:
            StackError: something is being done with it.
        """
        with self.lock:
            stack = self.stacks.get(name) or self.named(name)
            if stack is None or stack.status == "DELETE_COMPLETE":
                return None
            if stack.is_busy():
                raise StackError(f"Stack [{stack.id}] cannot be deleted while in status {stack.status}")
            stack.deleted_at = datetime.now(UTC)
            stack.turn("DELETE_IN_PROGRESS", "User Initiated")
            self._run(stack, lambda: self._engine(stack).delete(retain), "DELETE_FAILED")
            return stack

    def begin_create(self, stack: Stack, examined: Examined) -> None:
        """Begin to make a stack that is known already."""
        _take(stack, examined)
        stack.turn("CREATE_IN_PROGRESS", "User Initiated")
        self._run(stack, lambda: self._engine(stack).create(), "CREATE_FAILED")

    def begin_update(self, stack: Stack, examined: Examined) -> None:
        """Begin to change a stack."""
        before = copy.copy(stack)
        _take(stack, examined)
        stack.changed_at = datetime.now(UTC)
        stack.turn("UPDATE_IN_PROGRESS", "User Initiated")
        self._run(stack, lambda: self._engine(stack).update(before), "UPDATE_FAILED")

    def _engine(self, stack: Stack) -> Engine:
        return Engine(stack, Cloud(self.place, stack.name, self.client, stack.tags, stack.adopts))

    def _run(self, stack: Stack, work: Callable[[], None], failed: str) -> None:
        def safely() -> None:
            try:
                work()
            except Exception as error:
                log.exception("stack %s", stack.name)
                stack.turn(failed, f"the embedded cloud made a mistake: {error!r}")

        self.start(safely)


def _take(stack: Stack, examined: Examined) -> None:
    wish = examined.wish
    stack.template, stack.parameters, stack.capabilities = wish.template, examined.parameters, wish.capabilities
    stack.role_arn = wish.role_arn or stack.role_arn
    stack.adopts = wish.adopts
    if wish.tags is not None:
        stack.tags = wish.tags


def check_updatable(stack: Stack) -> None:
    """Refuse to change a stack that is being worked on, or that was never complete.

    Raises:
        StackError: naming its state.
    """
    if stack.status not in UPDATABLE:
        raise StackError(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
