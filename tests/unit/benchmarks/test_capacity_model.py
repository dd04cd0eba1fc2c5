"""The model of `python -m benchmarks capacity`: virtual time, and services with AWS's quotas and partial receives."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.call_costs import measure_call_costs
from benchmarks.capacity_model import CapacityModel, Phases, Setup, deep_bytes, large_job, sustained, under_load
from benchmarks.virtual_aws import (
    CallCosts,
    Latencies,
    ModelJob,
    Quotas,
    TokenBucket,
    VirtualBucket,
    VirtualCloud,
    VirtualQueue,
    VirtualTable,
    answer,
    answer_body,
)
from benchmarks.virtual_time import VirtualExecutor, VirtualLock, VirtualTime, virtualise
from core.ids import ImageRef, input_key
from core.jobs.store import JobStore
from core.messages import ClassificationResult
from core.predictions import stored_prediction
from services.errors import NotFoundError
from services.table import Item, Table
from tests.support.memory_table import MemoryTable


def no_cpu_time() -> float:
    return 0.0


STEADY = Latencies(jitter=0.0)
NO_CPU = Setup(costs=CallCosts(object=0.0), core_speed=no_cpu_time)


def cloud(quotas: Quotas | None = None) -> VirtualCloud:
    return VirtualCloud(VirtualTime(no_cpu_time), STEADY, CallCosts(object=0.0), quotas or Quotas())


run = VirtualTime.run_tasks


# Virtual time


def test_an_executor_runs_as_many_calls_at_once_as_it_has_threads_and_keeps_their_order() -> None:
    virtual = VirtualTime(no_cpu_time)
    pool = VirtualExecutor(virtual, 4)

    def call(number: int) -> int:
        virtual.sleep(10 - number)
        return number

    (results,) = run(virtual, lambda: list(pool.map(call, range(9))))
    assert results == list(range(9))
    assert virtual.now == 15  # the fourth thread: 7 s, then 6, then 2


def test_a_future_waits_in_virtual_time_and_raises_what_its_call_raised() -> None:
    virtual = VirtualTime(no_cpu_time)
    pool = VirtualExecutor(virtual, 1)

    def fail() -> None:
        virtual.sleep(5)
        raise ValueError("of the call")

    def wait() -> float:
        with pytest.raises(ValueError, match="of the call"):
            pool.submit(fail).result()
        return virtual.now

    assert run(virtual, wait) == [5.0]


def test_a_future_that_is_not_done_in_time_raises_a_timeout() -> None:
    virtual = VirtualTime(no_cpu_time)
    pool = VirtualExecutor(virtual, 1)

    def wait() -> float:
        with pytest.raises(TimeoutError):
            pool.submit(virtual.sleep, 5).result(timeout=2)
        return virtual.now

    assert run(virtual, wait) == [2.0]


def test_a_lock_lets_one_task_in_at_a_time_and_reports_the_longest_hold() -> None:
    virtual = VirtualTime(no_cpu_time)
    lock, inside, most = VirtualLock(virtual, "job"), [0], [0]

    def enter(seconds: float) -> None:
        with lock, lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            virtual.sleep(seconds)
            inside[0] -= 1

    run(virtual, *(partial(enter, seconds) for seconds in (1.0, 4.0, 2.0)))
    assert most == [1]
    assert virtual.now == 7.0
    assert virtual.max_hold_seconds == {"job": 4.0}


def test_a_lock_that_is_released_while_a_task_computes_before_it_waits_is_not_missed() -> None:
    virtual = VirtualTime()
    lock = VirtualLock(virtual)

    def hold() -> None:
        with lock:
            virtual.wait_seconds(0.001)

    def compute_and_enter() -> None:
        began = time.thread_time()
        while time.thread_time() < began + 0.01:
            pass
        with lock:
            pass

    assert run(virtual, hold, compute_and_enter) == [None, None]


def test_tasks_share_one_core_in_turns() -> None:
    virtual = VirtualTime(no_cpu_time)
    ends: dict[str, float] = {}

    def compute(name: str, seconds: float) -> None:
        virtual.use_core(seconds)
        ends[name] = virtual.now

    run(virtual, partial(compute, "long", 1.0), partial(compute, "short", 0.1))
    assert ends["long"] == pytest.approx(1.1)
    assert 0.1 < ends["short"] < 0.25
    assert sum(virtual.busy.values()) == pytest.approx(1.1)


def test_what_a_task_computes_is_charged_by_the_cpu_time_that_it_takes() -> None:
    virtual = VirtualTime()

    def compute() -> None:
        began = time.thread_time()
        while time.thread_time() < began + 0.05:
            pass
        virtual.sleep(1.0)

    run(virtual, compute)
    assert virtual.now >= 1.05
    assert virtual.busy["task-0"] >= 0.05


@dataclass
class _Parts:
    """Has all kinds of attributes that virtual time replaces."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(3))
    _lock: Any = field(default_factory=threading.Lock, init=False)
    condition: Any = field(init=False)

    def __post_init__(self) -> None:
        self.condition = threading.Condition(self._lock)

    def tick(self) -> float:
        return self.clock()


def test_clocks_pauses_locks_and_executors_are_replaced_wherever_an_object_is_reached() -> None:
    virtual, parts, deep, shared = VirtualTime(no_cpu_time), _Parts(), _Parts(), ThreadPoolExecutor(2)
    deep.pool = shared
    parts.inner = {"deep": [partial(lambda each: each, deep)]}  # type: ignore[attr-defined]
    parts.pool = shared
    virtualise(virtual, parts.tick, ours=(_Parts.__module__.partition(".")[0],))
    for each in (parts, deep):
        assert each.clock == virtual.clock
        assert each.now == virtual.datetime
        assert each.sleep == virtual.sleep
        assert each.condition._lock is each._lock
        assert isinstance(each._lock, VirtualLock)
    assert isinstance(parts.pool, VirtualExecutor)
    assert parts.pool is deep.pool


def test_a_condition_wakes_those_who_wait_and_ends_a_wait_that_is_too_long() -> None:
    virtual, parts = VirtualTime(no_cpu_time), _Parts()
    virtualise(virtual, parts, ours=(_Parts.__module__.partition(".")[0],))

    def wait(timeout: float) -> bool:
        with parts.condition:
            return bool(parts.condition.wait(timeout))

    def notify() -> None:
        virtual.sleep(3)
        with parts.condition:
            parts.condition.notify_all()

    assert run(virtual, partial(wait, 2), partial(wait, 5), notify)[:2] == [False, True]


# Quotas


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(10, 50)
    taken = [sum(bucket.take(1, second + step / 100) for step in range(100)) for second in range(5)]
    assert taken[0] == pytest.approx(60, abs=1)
    assert taken[1:] == [pytest.approx(10, abs=1)] * 4


def test_a_bucket_fills_up_to_its_capacity_only() -> None:
    bucket = TokenBucket(10, 50)
    assert sum(bucket.take(1, 1_000.0) for _ in range(100)) == 50


def test_a_partition_takes_its_write_units_a_second_and_another_one_is_not_delayed() -> None:
    services = cloud(Quotas(partition_writes=100, burst_seconds=1.0))
    table = VirtualTable(services).table()
    ends: dict[str, float] = {}

    def put(pk: str, items: int) -> None:
        table.put_all([{"pk": pk, "sk": f"{number:05d}"} for number in range(items)])
        ends[pk] = services.virtual.now

    run(services.virtual, partial(put, "hot", 600), partial(put, "quiet", 50))
    assert ends["quiet"] < 0.1
    assert ends["hot"] > (600 - 100) / 100 * 0.9
    assert services.throttled["partition writes"] > 0


def test_a_whole_batch_that_is_throttled_for_long_is_an_error_as_of_botocore() -> None:
    services = cloud(Quotas(partition_writes=0.001, burst_seconds=1.0))
    table = VirtualTable(services).table()

    def put() -> str:
        for number in range(2):
            try:
                table.put_all([{"pk": "hot", "sk": str(number)}])
            except Exception as error:  # noqa: BLE001 (its kind is what is tested)
                return str(error)
        return ""

    (error,) = run(services.virtual, put)
    assert "ThrottlingException" in error
    assert services.calls["BatchWriteItem"] == 1 + 3


def test_units_are_counted_by_size_and_a_page_of_a_query_as_a_whole() -> None:
    services = cloud()
    table = VirtualTable(services).table()
    run(services.virtual, lambda: table.put_all([{"pk": "p", "sk": str(n), "x": "x" * 1_500} for n in range(8)]))
    assert services.write_units == 8 * 2
    run(services.virtual, lambda: list(table.query("p", "", "~")))
    assert services.read_units == 3  # 8 items of 1.5 KB
    run(services.virtual, lambda: table.get("p", "0"))
    assert services.read_units == 4


def test_a_prefix_of_a_bucket_counts_each_deleted_key() -> None:
    services = cloud(Quotas(prefix_writes=100))
    bucket = VirtualBucket(services, has_inputs=True)

    def delete() -> None:
        for _ in range(5):
            bucket.delete_all(["key"] * 100)

    run(services.virtual, delete)
    assert services.virtual.now > 3.0


# Latencies


def test_a_call_takes_its_latency_and_a_page_more_by_its_size() -> None:
    services = cloud()
    table = VirtualTable(services).table()
    run(services.virtual, lambda: table.put_all([{"pk": "p", "sk": str(n), "x": "x" * 1_000} for n in range(250)]))
    before = services.virtual.now
    assert before == pytest.approx(10 * 0.007)
    run(services.virtual, lambda: list(table.query("p", "", "~")))
    assert services.virtual.now - before == pytest.approx(0.007 + 0.025 * 250_000 / 2**20, rel=0.05)


# The queue


def test_a_short_poll_returns_one_to_ten_messages_while_few_wait_and_ten_while_many_do() -> None:
    services = cloud()
    client = VirtualQueue(services)
    client.add([f"{number}" for number in range(3_000)])
    queue = client.queue()

    def poll() -> list[tuple[int, int]]:
        found = []
        while waiting := client.waiting():
            found.append((waiting, len(queue.receive(wait_seconds=0))))
        return found

    (polls,) = run(services.virtual, poll)
    assert {count for waiting, count in polls if waiting >= 1_000} == {10}
    assert {count for waiting, count in polls if 10 <= waiting < 1_000} == set(range(1, 11))


def test_a_long_poll_asks_all_servers_and_returns_with_the_first_message() -> None:
    services = cloud()
    client = VirtualQueue(services)
    queue = client.queue()
    client.add([f"{number}" for number in range(25)])

    def poll() -> list[tuple[int, float]]:
        return [(len(queue.receive(wait_seconds=5)), round(services.virtual.now, 3)) for _ in range(5)]

    services.virtual.call_at(2.0, lambda: client.add(["late"]))
    (polls,) = run(services.virtual, poll)
    assert polls == [(10, 0.008), (10, 0.016), (5, 0.024), (1, 2.004), (0, 7.012)]


def test_a_message_that_is_not_deleted_is_received_again_after_its_visibility_timeout() -> None:
    services = cloud()
    client = VirtualQueue(services, visibility_seconds=30)
    queue = client.queue()
    client.add(["kept", "deleted", "hidden for longer"])

    def receive() -> list[tuple[str, int, int]]:
        _kept, deleted, hidden = queue.receive(wait_seconds=1)
        queue.delete([deleted.receipt])
        queue.change_visibility([hidden.receipt], 100)
        again = [*queue.receive(wait_seconds=20), *queue.receive(wait_seconds=20)]
        later = [each for _ in range(5) for each in queue.receive(wait_seconds=20)]
        return [(each.body, each.receive_count, round(services.virtual.now / 50)) for each in (*again, *later)]

    (received,) = run(services.virtual, receive)
    assert [body for body, *_ in received if body != "kept"] == ["hidden for longer"]
    assert received[0][:2] == ("kept", 2)


# The table


SORT_KEYS = st.sampled_from(["a", "b#1", "b#2", "b#3", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put_all"), st.lists(SORT_KEYS, unique=True, max_size=5), st.integers(0, 3)),
        st.tuples(st.just("put_if"), SORT_KEYS, st.integers(0, 3)),
        st.tuples(st.just("delete_if"), SORT_KEYS, st.integers(0, 3)),
        st.tuples(st.just("delete_all"), st.lists(SORT_KEYS, unique=True, max_size=5), st.none()),
        st.tuples(st.just("set"), SORT_KEYS, st.integers(0, 3)),
        st.tuples(st.just("add"), SORT_KEYS, st.integers(1, 3)),
        st.tuples(st.just("get_all"), st.lists(SORT_KEYS, unique=True, min_size=1, max_size=5), st.none()),
        st.tuples(st.just("query"), SORT_KEYS, st.sampled_from([None, 1, 2])),
        st.tuples(st.just("newest"), SORT_KEYS, st.sampled_from([None, 1, 2])),
    ),
    max_size=20,
)


def made(table: Table, step: tuple[str, Any, Any]) -> Any:
    """Make a call; return its result."""
    name, where, value = step
    is_low = "attribute_not_exists( #x ) OR ( #x <= :least AND attribute_exists( #pk ) )"
    item = {"pk": "p", "sk": where, "x": value, "y": "text"}
    calls: dict[str, Callable[[], Any]] = {
        "put_all": lambda: table.put_all([{"pk": "p", "sk": sk, "x": value} for sk in where]),
        "put_if": lambda: table.put_if(item, is_low, {"least": value}),
        "delete_if": lambda: table.delete_if("p", where, "#x = :x", {"x": value}),
        "delete_all": lambda: table.delete_all([("p", sk) for sk in where]),
        "set": lambda: table.set("p", where, {"x": value}, "attribute_not_exists( #x ) OR #x < :x"),
        "add": lambda: table.add("p", where, {"x": value}, {"y": "new"}, "attribute_exists( #pk )"),
        "get_all": lambda: sorted(map(_text, table.get_all([("p", sk) for sk in where]))),
        "query": lambda: [*map(_text, table.query("p", where, "b#9", limit=value)), table.count("p", "b#")],
        "newest": lambda: [*map(_text, table.query("p", "a", where, limit=value, newest_first=True))],
    }
    return calls[name]()


def _text(item: Item) -> str:
    return repr(sorted(item.items()))


@given(STEPS)
def test_the_table_answers_as_the_tests_memory_table_does(steps: list[tuple[str, Any, Any]]) -> None:
    services, memory = cloud(), MemoryTable()
    table = VirtualTable(services).table()
    for step in steps:
        assert run(services.virtual, partial(made, table, step)) == [made(memory, step)]


def test_records_and_results_of_a_job_are_made_when_they_are_read() -> None:
    services = cloud()
    store = JobStore(VirtualTable(services).table())
    ids = [f"{number:026d}" for number in range(1_234)]
    job = services.jobs["0" * 26] = ModelJob("0" * 26, "user", ids, answered=400)

    def read() -> tuple[list[str], list[str], int]:
        images = [each.ref.image_id for each in store.images(job.job_id, ids[99])]
        return images, [image_id for image_id, _ in store.summaries(job.job_id)], store.count_images(job.job_id)

    assert run(services.virtual, read) == [(ids[100:], ids[:400], 1_234)]
    run(services.virtual, lambda: store.put_done([answer(ImageRef(job.job_id, ids[700]))]))
    run(services.virtual, lambda: store.delete_images([ImageRef(job.job_id, ids[0])]))
    assert run(services.virtual, read)[0][1:] == ([*ids[1:400], ids[700]], 1_233)
    assert run(services.virtual, lambda: store.result(ImageRef(job.job_id, ids[700])))[0].status == "done"
    with pytest.raises(NotFoundError):
        run(services.virtual, lambda: store.image(ImageRef(job.job_id, ids[0])))


def test_the_body_of_an_answer_is_the_workers_response() -> None:
    ref = ImageRef("2" * 26, "3" * 26)
    assert ClassificationResult.from_json(answer_body(ref)) == answer(ref)


def test_an_image_that_is_answered_has_its_prediction_in_the_output_bucket() -> None:
    services = cloud()
    services.jobs["0" * 26] = ModelJob("0" * 26, "user", [f"{number:026d}" for number in range(2)], answered=1)
    bucket = VirtualBucket(services, has_inputs=False)
    done, waiting = (ImageRef("0" * 26, image_id) for image_id in services.jobs["0" * 26].image_ids)
    (prediction,) = run(services.virtual, lambda: stored_prediction(done, bucket))
    assert prediction.response() == answer(done)
    assert run(services.virtual, lambda: stored_prediction(waiting, bucket)) == [None]


def test_a_bucket_has_the_objects_of_images_until_they_are_deleted() -> None:
    services = cloud()
    ids = [f"{number:026d}" for number in range(10)]
    services.jobs["0" * 26] = ModelJob("0" * 26, "user", ids, answered=4)
    bucket = VirtualBucket(services, has_inputs=True)
    keys = [input_key(ImageRef("0" * 26, image_id), "jpg") for image_id in ids[4:]]

    def delete() -> tuple[list[str], list[str], bool]:
        before = bucket.list_keys("0" * 26, 100)
        bucket.delete_all(before[:2])
        return before, bucket.list_keys("0" * 26, 100), bucket.exists(before[0])

    assert run(services.virtual, delete) == [(keys, keys[2:], False)]


# The controller


def test_a_run_without_cpu_time_gives_the_same_figures_again() -> None:
    first, second = (sustained(NO_CPU, 3, 0.3, 0.2) for _ in range(2))
    assert first == second
    assert first.images > 0
    assert first.an_image(first.write_units) > 1.5  # the result and the entry in the cache, which is written first


def test_every_answer_is_counted_once_and_its_message_deleted() -> None:
    model = CapacityModel(NO_CPU)
    jobs = [model.new_job(40) for _ in range(3)]
    for job in jobs:
        model.answer(job, job.image_ids)
        model.answer(job, job.image_ids[:5])  # delivered again
    level = logging.getLogger("web_tier").level
    model.start()
    model.virtual.run_until(20.0)
    model.close()
    assert logging.getLogger("web_tier").level == level, "tests of other modules read its log"
    assert model.counted() == 120
    assert [len(model.delays[job.job_id]) for job in jobs] == [40, 40, 40]
    assert (model.responses.waiting(), model.responses.in_flight()) == (0, 0)


def test_slower_services_make_the_controller_slower_and_cpu_time_does_too() -> None:
    slow = Setup(costs=CallCosts(object=0.0), core_speed=no_cpu_time, latencies=Latencies(0.07, 0.25, 0.08, 0.6, 0.2))
    costly = Setup(costs=CallCosts({"BatchWriteItem": (0.05, 0.0)}), core_speed=no_cpu_time)
    normal = sustained(NO_CPU, 2, 1.0, 0.5).images_per_second
    assert sustained(slow, 2, 1.0, 0.5).images_per_second < normal / 4
    busy = sustained(costly, 2, 1.0, 0.5)
    assert busy.images_per_second < normal
    assert busy.core_share < 1.01  # a turn may have begun before


def test_the_delay_of_an_answer_ends_with_its_count_and_grows_with_the_latencies() -> None:
    _, delays = under_load(NO_CPU, 2, 5.0, 10.0)
    slow = Setup(costs=CallCosts(object=0.0), core_speed=no_cpu_time, latencies=Latencies(0.07, 0.25, 0.08, 0.6, 0.2))
    _, slower = under_load(slow, 2, 5.0, 10.0)
    # An answer that was sent just before the end has waited for less.
    assert sorted(delays)[len(delays) // 10] > 0.008
    assert sorted(slower)[len(slower) // 2] > 3 * sorted(delays)[len(delays) // 2]


def test_a_large_job_is_loaded_measured_and_removed_beside_others() -> None:
    found = large_job(NO_CPU, 2_000, Phases(upload=5.0, end=5.0, removal=25.0))
    assert 0 < found.loaded < 60
    assert set(found.stalls) == {"takeover", "upload", "end", "removal"}
    assert min(found.stalls.values()) > 0
    assert found.memory_bytes > 0
    assert found.removed_per_second > 0


def test_the_bytes_of_an_object_are_those_of_all_that_it_refers_to_each_once() -> None:
    text = "x" * 1_000_000
    assert 1_000_000 < deep_bytes({"key": [text, text], text: 1}) < 1_002_000
    assert deep_bytes({text: 1}) > 1_000_000


def test_the_costs_of_calls_are_those_of_every_call_that_the_controller_makes() -> None:
    costs = measure_call_costs(rounds=1)
    model = CapacityModel(NO_CPU)
    job = model.new_job(30)
    model.answer(job, job.image_ids)
    model.start()
    model.virtual.run_until(120.0)
    model.close()
    from_s3 = {"DeleteObjects", "DeleteObject", "PutObject", "GetObject", "ListObjectsV2"}
    assert set(model.cloud.calls) - from_s3 <= set(costs.calls)
    assert all(costs.of(operation, 10) >= costs.of(operation, 1) > 0 for operation in costs.calls)
