"""Trace contexts: only valid ones are continued, and each thread has its own."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tracing import (
    TracingExecutor,
    child_of,
    common_traceparent,
    current_traceparent,
    is_sampled,
    new_traceparent,
    parse_traceparent,
    span_id,
    trace_id,
    use_traceparent,
)

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


VERSIONS = st.integers(0, 254).map("{:02x}".format)


@given(VERSIONS, hexadecimal(32), hexadecimal(16), st.integers(0, 255))
def test_every_valid_traceparent_is_continued_in_version_00(version: str, trace: str, span: str, flags: int) -> None:
    parsed = parse_traceparent(f"{version}-{trace}-{span}-{flags:02x}")
    assert parsed == f"00-{trace}-{span}-{flags & 1:02x}"
    assert (trace_id(parsed), span_id(parsed), is_sampled(parsed)) == (trace, span, bool(flags & 1))
    child = child_of(parsed)
    assert (parse_traceparent(child), trace_id(child), is_sampled(child)) == (child, trace, bool(flags & 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        PARENT.upper(),
        f"{PARENT} ",
        f"{PARENT}\n",
        f"{PARENT}-00",
        f"{PARENT},{PARENT}",
        f"ff{PARENT[2:]}",
        f"01{PARENT[2:]}x",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_an_invalid_traceparent_is_refused(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_later_version_may_have_further_parts() -> None:
    assert parse_traceparent(f"01{PARENT[2:]}-what-the-future-brings") == PARENT


def test_a_new_trace_is_a_valid_one_of_its_own() -> None:
    first, second = new_traceparent(), new_traceparent(is_sampled=True)
    assert [parse_traceparent(each) for each in (first, second)] == [first, second]
    assert trace_id(first) != trace_id(second)
    assert (is_sampled(first), is_sampled(second), is_sampled(child_of(first, is_sampled=True))) == (
        False,
        True,
        True,
    )


def test_the_span_ends_with_its_block() -> None:
    with use_traceparent(PARENT):
        with use_traceparent(None):
            assert current_traceparent() is None
        assert current_traceparent() == PARENT
    assert current_traceparent() is None


def test_threads_of_a_tracing_pool_work_for_the_span_of_their_caller() -> None:
    with TracingExecutor(2) as pool, ThreadPoolExecutor(2) as other:
        with use_traceparent(PARENT):
            found = list(pool.map(lambda _: current_traceparent(), range(4)))
            others = list(other.map(lambda _: current_traceparent(), range(4)))
        later = pool.submit(current_traceparent).result()
    assert (found, others, later) == ([PARENT] * 4, [None] * 4, None)


def test_a_batch_has_a_trace_only_if_all_its_items_belong_to_it() -> None:
    assert common_traceparent([PARENT, PARENT]) == PARENT
    assert trace_id(common_traceparent([PARENT, child_of(PARENT)]) or "") == trace_id(PARENT)
    assert common_traceparent([PARENT, None]) is None
    assert common_traceparent([PARENT, new_traceparent()]) is None
    assert common_traceparent([None]) is None
    assert common_traceparent([]) is None
