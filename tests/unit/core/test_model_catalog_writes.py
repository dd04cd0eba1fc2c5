"""Operators who change the catalogue of models at the same time, while replies to their writes are lost."""

from collections.abc import Callable
from datetime import UTC, datetime
from threading import Semaphore, Thread
from typing import Any, Final

from botocore.exceptions import BotoCoreError, EndpointConnectionError
from hypothesis import example, given
from hypothesis import strategies as st

from core.model_catalog import (
    CatalogRefusedError,
    CatalogStore,
    ModelCatalog,
    ModelVersion,
    UnknownModelError,
    rolled_back,
    with_default,
    with_model,
    without_model,
)
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.waiting import DEADLINE_SECONDS

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
Change = Callable[[ModelCatalog], ModelCatalog]


def version_of(letter: str) -> ModelVersion:
    return ModelVersion(name=letter, digest=letter * 64, place=f"s3://out/models/{letter * 64}", added_at=NOW)


def first() -> ModelCatalog:
    """Return a catalogue of a, b and c, in which a, the default before, is one roll-back away."""
    catalog = ModelCatalog.only(version_of("a"))
    for letter in "bc":
        catalog = with_model(catalog, version_of(letter))
    return with_default(catalog, "b")


CHANGES: Final[dict[str, Change]] = {
    "add d": lambda catalog: with_model(catalog, version_of("d")),
    "use a": lambda catalog: with_default(catalog, "a"),
    "use c": lambda catalog: with_default(catalog, "c"),
    "roll back": rolled_back,
    "remove a": lambda catalog: without_model(catalog, "a"),
    "remove d": lambda catalog: without_model(catalog, "d"),
}

FAULTS: Final = ("none", "request lost", "reply lost", "reply lost, and repeated")
"""What may happen to a write; botocore repeats a request itself, or its attempts end with an error."""


class Operator:
    """A thread that makes one change, and runs only from one call of the table to the next.

    Attributes:
        name: of the change.
        outcome: `accepted`, `refused` or `failed` at the end.
    """

    def __init__(self, name: str, faults: list[str], table: MemoryTable, stored: "list[Operator]") -> None:
        self.name, self.outcome, self._faults, self._stored_by = name, "", list(faults), stored
        self._go, self._waits = Semaphore(0), Semaphore(0)
        own = MemoryTable(self._call)
        own.items = table.items
        self._store = CatalogStore(own)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let the thread run up to the next call of the table, or its end."""
        self._go.release()
        assert self._waits.acquire(timeout=DEADLINE_SECONDS)

    def _run(self) -> None:
        assert self._go.acquire(timeout=DEADLINE_SECONDS)
        try:
            self._store.change(CHANGES[self.name], first)
            self.outcome = "accepted"
        except (CatalogRefusedError, UnknownModelError):
            self.outcome = "refused"
        except BotoCoreError:
            self.outcome = "failed"
        finally:
            self._waits.release()

    def _pause(self) -> None:
        self._waits.release()
        assert self._go.acquire(timeout=DEADLINE_SECONDS)

    def _call(self, operation: str, effect: Callable[[], Any]) -> Any:
        self._pause()
        if operation != "PutItem":
            return effect()
        fault = self._faults.pop() if self._faults else "none"
        result = None if fault == "request lost" else self._stored(effect)
        if fault == "reply lost, and repeated":
            self._pause()
            return self._stored(effect)
        if fault != "none":
            raise EndpointConnectionError(endpoint_url="https://dynamodb.example")
        return result

    def _stored(self, effect: Callable[[], Any]) -> Any:
        if result := effect():
            self._stored_by.append(self)
        return result


@given(
    names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3),
    faults=st.lists(st.lists(st.sampled_from(FAULTS), max_size=3), min_size=3, max_size=3),
    turns=st.lists(st.integers(0, 2), max_size=24),
)
@example(
    names=["roll back", "add d"], faults=[["reply lost, and repeated"], [], []], turns=[0, 0, 0, 1, 1, 1, 0, 0, 0]
)
@example(names=["roll back"] * 2, faults=[["reply lost"], [], []], turns=[])
def test_an_accepted_change_is_stored_once_and_a_refused_one_never(
    names: list[str], faults: list[list[str]], turns: list[int]
) -> None:
    table, stored = MemoryTable(), list[Operator]()
    operators = [Operator(name, own, table, stored) for name, own in zip(names, faults, strict=False)]
    order = iter(turns)
    while running := [each for each in operators if not each.outcome]:
        running[next(order, 0) % len(running)].step()
    states = [first()]
    for each in stored:
        states.append(CHANGES[each.name](states[-1]))
    # Each write is a change of the catalogue before it, so the table has all that were stored, one after another.
    found = CatalogStore(table).find() or first()
    assert found == states[-1].model_copy(update={"edition": len(stored)})
    for each in operators:
        changes_nothing = any(_is_unchanged(CHANGES[each.name], state) for state in states)
        expected = {0, 1} if each.outcome == "accepted" and changes_nothing else {int(each.outcome == "accepted")}
        assert stored.count(each) in expected


def _is_unchanged(change: Change, catalog: ModelCatalog) -> bool:
    try:
        return change(catalog) == catalog
    except (CatalogRefusedError, UnknownModelError):
        return False
