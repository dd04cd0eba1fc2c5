"""A kind of thing, of which there are some in the account."""

from collections.abc import Callable
from dataclasses import dataclass

from botocore.exceptions import ClientError

from scripts.aws.account import Account
from scripts.aws.operation import Operation

BUSY = {"DependencyViolation", "InvalidSnapshot.InUse", "VolumeInUse", "ResourceInUseException", "OperationAborted"}
"""What services say of a thing that another one which is about to go still uses."""

RELEASED_SECONDS = 600.0


@dataclass(frozen=True)
class Kind:
    """A kind of thing.

    Attributes:
        name: what one of them is called.
        find: returns the ids, or names, of those that carry a prefix's tag.
        delete: begins to delete one by its id.
        data: whether it holds what people have entrusted, which is kept unless they say otherwise.
    """

    name: str
    find: Callable[[Account, str], list[str]]
    delete: Callable[[Account, str], None]
    data: bool = False

    def remove_all(self, operation: Operation) -> None:
        """Delete all of them, and wait until they are gone.

        Raises:
            TimedOutError: one is not gone after ten minutes.
        """
        account, prefix, waiting = operation.account, operation.prefix, operation.waiting
        for one in self.find(account, prefix):
            what = f"the {self.name} {one} to be deleted, which something may still use"
            waiting.until(lambda one=one: self._begun(account, one), what, seconds=RELEASED_SECONDS)  # type: ignore[misc]
            operation.done(f"deleted the {self.name} {one}")
        waiting.until(
            lambda: not self.find(account, prefix), f"every {self.name} to be gone", seconds=RELEASED_SECONDS
        )

    def _begun(self, account: Account, one: str) -> bool:
        try:
            self.delete(account, one)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in BUSY:
                return False
            # It is gone already, for example by an earlier run of the same command.
            if "NotFound" not in code and "NoSuch" not in code:
                raise
        return True
