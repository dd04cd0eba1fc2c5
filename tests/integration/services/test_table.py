"""The job table by our wrapper: in memory, in the local cloud and in the emulator."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.fleet.store import FleetStore
from services.table import (
    BATCH_ATTEMPTS,
    LAST,
    MAX_TRANSACTION_ITEMS,
    PAGE,
    ConditionCheck,
    ConditionsFailedError,
    Delete,
    Item,
    Put,
    Table,
    TableBusyError,
    TransactionTooLargeError,
    Update,
    is_throttled,
)
from tests.integration.services.conftest import ALL_ATTEMPTS, Place
from tests.support.memory_aws.calls import ATTEMPTS, InjectedFault, refusal, repeat_fault
from tests.support.memory_aws.dynamodb import MemoryTable, cancellation

pytestmark = pytest.mark.processes


PARTITIONS, SORT_KEYS = ("p", "q"), ("a", "a1", "b")


def test_items_come_back_as_they_went_in(place: Place) -> None:
    table = place.table()
    item: Item = {"pk": "p", "sk": "s", "text": "ünïcode \x00 <b>", "number": 3, "empty": ""}
    table.put_all([item])
    assert table.get("p", "s") == item
    assert table.get("p", "other") is None


def test_a_query_goes_both_ways_and_stops_at_its_limit_over_pages(place: Place) -> None:
    table = place.table()
    table.put_all([{"pk": "p", "sk": f"a{number:04}", "filler": "x" * 1500} for number in range(1_000)])
    table.put_all([{"pk": "p", "sk": "b"}, {"pk": "q", "sk": "a5"}])
    assert len(list(table.query("p", "a", f"a{LAST}"))) == 1_000
    assert table.count("p", "a") == 1_000
    assert [item["sk"] for item in table.query("p", "a0003", "a0005")] == ["a0003", "a0004", "a0005"]
    newest = [item["sk"] for item in table.query("p", "a", f"a{LAST}", limit=PAGE + 2, newest_first=True)]
    assert newest == [f"a{number:04}" for number in range(999, 999 - PAGE - 2, -1)]
    assert len(list(table.query("p", "a", f"a{LAST}", limit=900))) == 900


def test_more_items_than_a_call_takes_are_put_read_and_deleted(place: Place) -> None:
    table = place.table()
    keys = [("p", f"{number:04}") for number in range(110)]
    table.put_all([{"pk": pk, "sk": sk} for pk, sk in keys])
    assert len(table.get_all([*keys, ("p", "never there")])) == 110
    table.delete_all([*keys, ("p", "never there")])
    assert table.get_all(keys) == []


def test_conditional_writes_say_whether_they_took_place(place: Place) -> None:
    table = place.table()
    item: dict[str, str | int] = {"pk": "p", "sk": "s", "n": 1}
    assert table.put_if(item, "attribute_not_exists( #pk )")
    assert not table.put_if({**item, "n": 2}, "attribute_not_exists( #pk )")
    assert not table.delete_if("p", "s", "#n = :n", {"n": 2})
    assert table.delete_if("p", "s", "#n = :n", {"n": 1})
    assert table.set("p", "s", {"n": 5})
    assert not table.set("p", "s", {"n": 4}, condition="#n < :n")
    assert table.add("p", "s", {"n": 2, "m": 1}, {"t": "x"}) == {"pk": "p", "sk": "s", "n": 7, "m": 1, "t": "x"}
    assert table.add("p", "s", {"n": 2}, {"t": "y"}, "#n < :most", {"most": 7}) is None
    table.delete_all([("p", "s"), ("p", "never there")])
    assert table.get("p", "s") is None


IS_NEW = "attribute_not_exists( #pk )"
COUNTS: Item = {"pk": "counts", "sk": "s", "done": 2, "failed": -1, "at": "noon", "since": "noon 7"}


def test_a_transaction_makes_all_of_its_writes_or_names_the_conditions_that_failed(place: Place) -> None:
    table = place.table()
    table.put_all([{"pk": "p", "sk": "gone"}, {"pk": "lease", "sk": "s", "token": 7}])

    def write(token: int) -> None:
        table.transact(
            Put({"pk": "p", "sk": "new", "n": token}, condition=IS_NEW),
            Update("counts", "s", {"done": 2, "failed": -1}, {"at": "noon"}, {"since": f"noon {token}"}),
            Update("p", "text", {}, {"at": "noon"}),
            Delete("p", "gone"),
            ConditionCheck("lease", "s", condition="#token = :token", values={"token": token}),
        )

    write(7)
    table.transact(Update("counts", "s", {}, {}, {"since": "another day"}))
    assert table.get("counts", "s") == COUNTS
    assert (table.get("p", "text"), table.get("p", "gone")) == ({"pk": "p", "sk": "text", "at": "noon"}, None)
    with pytest.raises(ConditionsFailedError) as refused:
        write(8)
    assert refused.value.indexes == {0, 4}
    assert table.get("p", "new") == {"pk": "p", "sk": "new", "n": 7}
    assert table.get("counts", "s") == COUNTS


def test_a_transaction_takes_100_items_and_4_mb(place: Place) -> None:
    table = place.table()
    puts = [Put({"pk": "p", "sk": f"{number:03}"}) for number in range(MAX_TRANSACTION_ITEMS + 1)]
    with pytest.raises(TransactionTooLargeError, match="at most 100 items, not 101: write them in several"):
        table.transact(*puts)
    with pytest.raises(TransactionTooLargeError, match=r"at most 4,194,304 bytes, not 4,2.*: write them"):
        table.transact(*(Put({"pk": "q", "sk": str(number), "x": "ü" * 192_000}) for number in range(11)))
    with pytest.raises(ClientError, match="ValidationException"):
        table.transact(puts[0], Delete("p", "000"))
    assert (table.count("p", "0"), table.count("q", "1")) == (0, 0)
    table.transact(*puts[:-1])
    assert table.count("p", "0") == MAX_TRANSACTION_ITEMS


@pytest.mark.parametrize("fault", ["throttled", "unavailable", "reset", "lost_reply", "repeated"])
@pytest.mark.parametrize("attempts", [1, ATTEMPTS + 2])
def test_a_transaction_of_unknown_outcome_is_repeated_and_writes_once(
    stand_in: Place, fault: InjectedFault, attempts: int
) -> None:
    """Within one call of the client, and in a further one with the same token."""
    if attempts > 1 and fault == "throttled":
        pytest.skip("DynamoDB refused it")
    table = stand_in.table()
    stand_in.fail("TransactWriteItems", *repeat_fault(fault, attempts))
    table.transact(Put({"pk": "p", "sk": "s"}, condition=IS_NEW), Update("c", "s", {"n": 1}, {}))
    assert table.get("c", "s") == {"pk": "c", "sk": "s", "n": 1}


def test_a_transaction_that_no_attempt_completes_passes_the_error_on(stand_in: Place) -> None:
    table = stand_in.table()
    stand_in.fail("TransactWriteItems", *repeat_fault("reset", 10 * ATTEMPTS))
    with pytest.raises(BotoCoreError):
        table.transact(Update("c", "s", {"n": 1}, {}))
    stand_in.fail("TransactWriteItems")
    assert table.get("c", "s") is None


def test_conflicts_are_repeated_with_growing_pauses_up_to_a_limit() -> None:
    refusals = {
        "TransactWriteItems": cancellation("None", "TransactionConflict"),
        "PutItem": refusal("TransactionConflictException", "PutItem"),
    }
    left, slept = BATCH_ATTEMPTS - 1, list[float]()

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise refusals[operation]
        return effect()

    table, update = MemoryTable(call, sleep=slept.append), Update("c", "s", {"n": 1}, {})
    writes: list[Callable[[], object]] = [
        lambda: table.transact(update),
        lambda: table.put_if({"pk": "p", "sk": "s"}, IS_NEW),
    ]
    for write in writes:
        left = BATCH_ATTEMPTS - 1
        write()
        left = BATCH_ATTEMPTS
        with pytest.raises(TableBusyError, match=f"after {BATCH_ATTEMPTS} attempts"):
            write()
    assert table.items == {("c", "s"): {"pk": "c", "sk": "s", "n": 1}, ("p", "s"): {"pk": "p", "sk": "s"}}
    assert len(slept) == 4 * (BATCH_ATTEMPTS - 1)
    assert slept[0] < slept[3] < slept[6] <= 5.0


def test_a_key_that_is_twice_in_a_batch_is_refused(place: Place) -> None:
    # https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
    table, key = place.table(), {"pk": {"S": "p"}, "sk": {"S": "s"}}
    puts: list[Any] = [{"PutRequest": {"Item": {**key, "n": {"N": number}}}} for number in "12"]
    delete: Any = {"DeleteRequest": {"Key": key}}
    for requests in (puts, [puts[0], puts[0]], [puts[0], delete], [delete, delete]):
        with pytest.raises(ClientError, match="ValidationException"):
            table.client.batch_write_item(RequestItems={table.name: requests})
    with pytest.raises(ClientError, match="ValidationException"):
        table.get_all([("p", "s"), ("p", "s")])
    assert table.get("p", "s") is None


_keys = st.tuples(st.sampled_from(PARTITIONS), st.sampled_from(SORT_KEYS))
# The local cloud cannot compare a number with a text.
_values = {"a": st.integers(0, 2), "b": st.sampled_from(["", "1", "z"])}
_attributes = st.fixed_dictionaries({}, optional=_values).filter(bool)
_items = st.builds(lambda key, attributes: {"pk": key[0], "sk": key[1], **attributes}, _keys, _attributes)
_conditions = st.sampled_from(
    [
        "attribute_not_exists( #pk )",
        "attribute_exists( #pk ) AND attribute_not_exists( #a )",
        "attribute_not_exists( #pk ) OR #a = :x",
        "attribute_not_exists( #pk ) OR #b <= :y",
        "#a < :x",
        "#a = :x AND #b = :y",
        "#a = :x OR #b = :x AND #b = :y",
        "(attribute_not_exists( #a ) OR #a <= :x) AND (attribute_not_exists( #b ) OR #b <= :y)",
    ]
).flatmap(
    lambda text: st.tuples(
        st.just(text), st.fixed_dictionaries({name: _values[of] for name, of in ("xa", "yb") if f":{name}" in text})
    )
)
_set_conditions = st.sampled_from([None, "attribute_exists( #pk )", "attribute_not_exists( #a ) OR #a < :a"])
_optional = st.one_of(st.just((None, None)), _conditions)
_writes = st.one_of(
    st.builds(lambda item, when: Put(item, condition=when[0], values=when[1]), _items, _optional),
    st.builds(
        lambda key, n, attributes, when: Update(
            key[0], key[1], {"n": n}, attributes, {"m": n}, condition=when[0], values=when[1]
        ),
        _keys,
        st.integers(-2, 2),
        st.one_of(st.just({}), _attributes),
        _optional,
    ),
    st.builds(lambda key, when: Delete(*key, condition=when[0], values=when[1]), _keys, _optional),
    st.builds(lambda key, when: ConditionCheck(*key, condition=when[0], values=when[1]), _keys, _conditions),
)


def _key_of(write: Put | Update | Delete) -> tuple[str, str]:
    return (str(write.item["pk"]), str(write.item["sk"])) if isinstance(write, Put) else (write.pk, write.sk)


_calls = st.one_of(
    st.tuples(
        st.sampled_from(("put_all", "put_each")),
        st.tuples(st.lists(_items, unique_by=lambda item: (item["pk"], item["sk"]))),
    ),
    st.tuples(st.just("delete_all"), st.tuples(st.lists(_keys, unique=True))),
    st.tuples(st.just("get_all"), st.tuples(st.lists(_keys, unique=True))),
    st.tuples(st.just("get"), _keys),
    st.builds(lambda item, condition: ("put_if", (item, *condition)), _items, _conditions),
    st.builds(lambda key, condition: ("delete_if", (*key, *condition)), _keys, _conditions),
    st.builds(lambda key, a, condition: ("set", (*key, {"a": a}, condition)), _keys, _values["a"], _set_conditions),
    st.builds(
        lambda key, n, attributes, condition: ("add", (*key, {"n": n}, attributes, *condition)),
        _keys,
        st.integers(-2, 2),
        _attributes,
        st.one_of(st.just(()), _conditions),
    ),
    st.builds(lambda writes: ("transact", tuple(writes)), st.lists(_writes, min_size=1, unique_by=_key_of)),
)


def _answer(table: Table, method: str, arguments: tuple[Any, ...]) -> Any:
    try:
        answer = getattr(table, method)(*arguments)
    except ConditionsFailedError as error:
        return error.indexes
    return sorted(answer, key=lambda item: (item["pk"], item["sk"])) if method == "get_all" else answer


@given(calls=st.lists(_calls, max_size=12))
@settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_table_in_memory_answers_any_calls_as_dynamodb_does(table: Table, calls: list[tuple[str, Any]]) -> None:
    memory = MemoryTable()
    table.delete_all([(pk, sk) for pk in PARTITIONS for sk in SORT_KEYS])
    for method, arguments in calls:
        answers = [_answer(each, method, arguments) for each in (table, memory)]
        assert answers[0] == answers[1], (method, arguments)
    for pk in PARTITIONS:
        for newest_first in (False, True):
            held = [list(each.query(pk, "a", "z", newest_first=newest_first)) for each in (table, memory)]
            assert held[0] == held[1]
        assert table.count(pk, "a") == memory.count(pk, "a")


def test_items_that_a_batch_leaves_are_written_read_and_deleted_by_the_next(stand_in: Place) -> None:
    table, keys = stand_in.table(), [("p", f"{number:03}") for number in range(30)]
    stand_in.fail("BatchWriteItem", "partial", "partial")
    table.put_all([{"pk": pk, "sk": sk} for pk, sk in keys])
    stand_in.fail("BatchGetItem", "partial", "partial")
    assert sorted(str(item["sk"]) for item in table.get_all(keys)) == [sk for _, sk in keys]
    assert len(stand_in.slept) == 4, "a pause before each attempt but the first"
    stand_in.fail("BatchWriteItem", "partial")
    table.delete_all(keys)
    assert table.get_all(keys) == []


def test_what_one_attempt_leaves_is_returned_and_the_rest_is_done(stand_in: Place) -> None:
    table, items = stand_in.table(), [{"pk": "p", "sk": f"{number:03}"} for number in range(40)]
    stand_in.fail("BatchWriteItem", "partial")
    left = table.put_each(items)
    assert {type(error) for _, error in left} == {TableBusyError}
    written = items[:12] + items[25:]
    assert [item for item, _ in left] == items[12:25], "the other batch is written as a whole"
    stand_in.fail("BatchGetItem", "partial")
    found, unread = table.get_each([("p", str(item["sk"])) for item in items])
    assert sorted(str(item["sk"]) for item in found) == [str(item["sk"]) for item in written if item in items[:20]]
    assert [key for key, _ in unread] == [("p", str(item["sk"])) for item in items[20:]]


def test_a_table_that_stays_busy_is_an_error_and_what_it_did_stays(stand_in: Place) -> None:
    table, items = stand_in.table(), [{"pk": "p", "sk": f"{number:03}"} for number in range(25)]
    stand_in.fail("BatchWriteItem", *repeat_fault("partial", BATCH_ATTEMPTS * 2))
    with pytest.raises((TableBusyError, ClientError)) as raised:
        table.put_all(items)
    assert is_throttled(raised.value)
    stand_in.fail("BatchWriteItem")
    assert 0 < table.count("p", "0") < 25
    table.put_all(items)
    assert table.count("p", "0") == 25


@pytest.mark.parametrize("fault", ["throttled", "unavailable", "reset"])
def test_a_call_that_may_pass_is_made_again_and_takes_effect_once(stand_in: Place, fault: InjectedFault) -> None:
    table = stand_in.table()
    stand_in.fail("PutItem", fault)
    assert table.put_if({"pk": "p", "sk": "s", "n": 1}, "attribute_not_exists( #pk )")
    stand_in.fail("UpdateItem", fault)
    assert table.add("p", "s", {"n": 1}, {"m": 1}) == {"pk": "p", "sk": "s", "n": 2, "m": 1}
    stand_in.fail("GetItem", fault)
    assert table.get("p", "s") == {"pk": "p", "sk": "s", "n": 2, "m": 1}
    stand_in.fail("Query", fault)
    assert len(list(table.query("p", "a", "z"))) == 1


@pytest.mark.parametrize("fault", ["lost_reply", "repeated"])
def test_a_conditional_write_with_a_lost_reply_is_applied_but_reported_as_refused(
    stand_in: Place, fault: InjectedFault
) -> None:
    """The repeat of the call finds the item of the first attempt, so that its condition fails."""
    table = stand_in.table()
    stand_in.fail("PutItem", fault)
    assert not table.put_if({"pk": "p", "sk": "s", "n": 1}, "attribute_not_exists( #pk )")
    assert table.get("p", "s") == {"pk": "p", "sk": "s", "n": 1}
    stand_in.fail("DeleteItem", fault)
    assert not table.delete_if("p", "s", "#n = :n", {"n": 1})
    assert table.get("p", "s") is None


@pytest.mark.parametrize("fault", ["lost_reply", "repeated"])
def test_a_journal_knows_its_own_write_after_a_lost_reply(stand_in: Place, fault: InjectedFault) -> None:
    store = FleetStore(stand_in.table())
    first = store.journal()
    stand_in.fail("PutItem", fault)
    assert store.put_journal(first.model_copy(update={"revision": first.revision + 1}))
    assert not store.put_journal(first.model_copy(update={"revision": first.revision + 1, "writer": "another"}))


def test_a_call_that_fails_in_each_attempt_is_an_error(stand_in: Place) -> None:
    table = stand_in.table()
    stand_in.fail("PutItem", *repeat_fault("throttled", ALL_ATTEMPTS))
    with pytest.raises(ClientError) as raised:
        table.put_if({"pk": "p", "sk": "s"}, "attribute_not_exists( #pk )")
    assert is_throttled(raised.value)
    stand_in.fail("PutItem")
    assert table.get("p", "s") is None
