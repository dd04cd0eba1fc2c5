"""Thumbnails are drawn in sandboxed processes, and a crash of one affects nothing else (`docs/faults.md` 9, 33)."""

import os
import signal
from collections.abc import Iterator

import pytest

from core.images import ImageLimits
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.zygote import Zygote
from tests.support.hostile_images import HONEST
from tests.support.pictures import picture
from tests.support.processes import children_of
from web_tier.bulkheads import Bulkhead
from web_tier.results.drawing import draw
from web_tier.results.thumbnails import MAX_CONCURRENT, TILE, NoThumbnailError, RenderLimiter, Thumbnails

LIMITS = ImageLimits()
SMALL = Allowance(seconds=5, memory_bytes=2**26, answer_bytes=1_000)


@pytest.fixture(scope="module")
def thumbnails() -> Iterator[Thumbnails]:
    thumbnails = Thumbnails(LIMITS)
    yield thumbnails
    thumbnails.close()


@pytest.mark.processes
@pytest.mark.parametrize("kind", HONEST)
def test_a_sandboxed_process_draws_every_kind_of_image(kind: str, thumbnails: Thumbnails) -> None:
    data = HONEST[kind]()
    assert thumbnails.render(data) == draw(data, LIMITS, TILE)


@pytest.mark.processes
@pytest.mark.parametrize("data", [b"", b"text", picture()[:200], picture("PNG")[:40]])
def test_a_broken_file_has_no_thumbnail(data: bytes, thumbnails: Thumbnails) -> None:
    with pytest.raises(NoThumbnailError):
        thumbnails.render(data)


@pytest.mark.processes
@pytest.mark.parametrize("item", [b"signal SIGSEGV", b"allocate 100000000", b"fail", b"long 500", b"long 1001"])
def test_an_image_that_crashes_its_process_or_garbles_its_answer_has_no_thumbnail(item: bytes) -> None:
    zygote = Zygote("tests.support.drawers:misbehave")
    thumbnails = Thumbnails(LIMITS, SandboxPool(zygote, SMALL, MAX_CONCURRENT))
    with pytest.raises(NoThumbnailError):
        thumbnails.render(item)
    assert thumbnails.render(b"picture").startswith(b"RIFF")
    zygote.close()


@pytest.mark.processes
def test_processes_start_with_the_first_thumbnail_and_end_with_close() -> None:
    before = children()
    thumbnails = Thumbnails(LIMITS)
    assert children() == before
    thumbnails.render(picture())
    (zygote,) = children() - before
    os.kill(zygote, signal.SIGTERM)  # as a process group receives it when its service stops
    assert thumbnails.render(picture())
    thumbnails.close()
    assert children() == before


def children() -> set[int]:
    return set(children_of(os.getpid()))


def test_too_many_waiting_threads_are_rejected_at_once() -> None:
    limiter = RenderLimiter(Bulkhead(MAX_CONCURRENT))
    with limiter.slot() as first, limiter.slot() as second, limiter.slot() as third:
        assert (first, second, third) == (True, True, False)
    with limiter.slot() as again:
        assert again
