"""The untrusted parameters of SQS's calls, and SQS's errors."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from localcloud.dispatch import LEFT_OUT, processed

MAX_ENTRIES: Final = 10
"""Largest number of entries of a batch."""

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")

Answer = dict[str, Any]
"""What a call returns, for JSON."""

T = TypeVar("T")
Parsed = TypeVar("Parsed")


class SqsError(Exception):
    """Raised for a call, or an entry of a batch, that SQS refuses.

    Attributes:
        name: in the JSON protocol.
        code: in the Query protocol, which clients see.
    """

    def __init__(self, name: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.name, self.message, self.code = name, message, code or name


def invalid(name: str, value: object, reason: str) -> SqsError:
    """Return the error of a parameter with a wrong value."""
    text = f"Value {str(value)[:500]} for parameter {name} is invalid. Reason: {reason}"
    return SqsError("InvalidParameterValue", text)


@dataclass(slots=True)
class Parameters:
    """The parameters of a call or of an entry of a batch; methods raise `SqsError` for a value of another type."""

    given: Mapping[str, object]

    def _of_type(self, name: str, kind: type[T], default: T | None) -> T:
        value = self.given.get(name)
        if type(value) is kind:
            return value
        if value is not None:
            raise SqsError("ValidationException", f"The parameter {name} must be a JSON {kind.__name__}.")
        if default is None:
            raise SqsError("MissingParameter", f"The request must contain the parameter {name}.")
        return default

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text."""
        return self._of_type(name, str, default)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a number in a range."""
        value = self._of_type(name, int, default)
        if not low <= value <= high:
            raise invalid(name, value, f"Must be between {low} and {high}, if provided.")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; empty if it is not given."""
        return [Parameters({name: each}).text(name) for each in self._of_type(name, list, [])]

    def attributes(self) -> dict[str, str]:
        """Return attributes by name; empty if they are not given."""
        found = Parameters(self._of_type("Attributes", dict, {}))
        return {key: found.text(key) for key in found.given}

    def batch(
        self, parse: Callable[["Parameters"], Parsed], make: Callable[[list[Parsed]], Sequence[Answer | SqsError]]
    ) -> Answer:
        """Parse the entries and make their calls together; an entry that fails does not affect the others."""
        entries, parsed, failures = self.entries(), list[Parsed](), dict[str, SqsError]()
        kept = processed(len(entries))
        for number, (name, entry) in enumerate(entries.items()):
            if number >= kept:
                failures[name] = SqsError("InternalError", LEFT_OUT)
                continue
            try:
                parsed.append(parse(entry))
            except SqsError as error:
                failures[name] = error
        results = iter(make(parsed) if parsed else ())
        done, failed = list[Answer](), list[Answer]()
        for name in entries:
            result = failures.get(name) or next(results)
            if isinstance(result, SqsError):
                is_senders = result.name != "InternalError"
                failed.append({"Id": name, "SenderFault": is_senders, "Code": result.name, "Message": result.message})
            else:
                done.append({"Id": name, **result})
        return {"Successful": done, "Failed": failed}

    def entries(self) -> dict[str, "Parameters"]:
        """Return the entries of a batch by their identity."""
        given = self._of_type("Entries", list, [])
        if not all(type(entry) is dict for entry in given):
            raise SqsError("ValidationException", "Each of the entries must be a JSON object.")
        entries = list(map(Parameters, given))
        names = [entry.text("Id") for entry in entries]
        problems = {
            "EmptyBatchRequest": not names,
            "TooManyEntriesInBatchRequest": len(names) > MAX_ENTRIES,
            "InvalidBatchEntryId": not all(map(_ENTRY_ID.fullmatch, names)),
            "BatchEntryIdsNotDistinct": len(set(names)) < len(names),
        }
        for problem in (name for name, is_present in problems.items() if is_present):
            text = f"A batch has 1 to {MAX_ENTRIES} entries. Each Id is another one, and matches {_ENTRY_ID.pattern}."
            raise SqsError(problem, text, f"AWS.SimpleQueueService.{problem}")
        return dict(zip(names, entries, strict=True))
