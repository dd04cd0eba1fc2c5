"""What draws pictures can do nothing else, and what ends it ends nothing else (`docs/faults.md` rows 9 and 33)."""

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
from web_tier.results.thumbnails import AT_ONCE, TILE, NoThumbnailError, RenderLimiter, Thumbnails

LIMITS = ImageLimits()
SMALL = Allowance(seconds=5, memory_bytes=2**26, answer_bytes=1_000)


@pytest.fixture(scope="module")
def thumbnails() -> Iterator[Thumbnails]:
    made = Thumbnails(LIMITS)
    yield made
    made.close()


@pytest.mark.processes
@pytest.mark.parametrize("kind", HONEST)
def test_a_process_that_has_nothing_draws_every_kind_of_image(kind: str, thumbnails: Thumbnails) -> None:
    data = HONEST[kind]()
    assert thumbnails.of(data) == draw(data, LIMITS, TILE)


@pytest.mark.processes
@pytest.mark.parametrize("data", [b"", b"text", picture()[:200], picture("PNG")[:40]])
def test_what_is_broken_has_no_picture(data: bytes, thumbnails: Thumbnails) -> None:
    with pytest.raises(NoThumbnailError):
        thumbnails.of(data)


@pytest.mark.processes
@pytest.mark.parametrize("item", [b"signal SIGSEGV", b"allocate 100000000", b"fail", b"long 500", b"long 1001"])
def test_what_ends_its_process_or_makes_it_answer_rubbish_has_no_picture(item: bytes) -> None:
    zygote = Zygote("tests.integration.web_tier.results.drawers:misbehave")
    thumbnails = Thumbnails(LIMITS, SandboxPool(zygote, SMALL, AT_ONCE))
    with pytest.raises(NoThumbnailError):
        thumbnails.of(item)
    assert thumbnails.of(b"picture").startswith(b"RIFF")
    zygote.close()


@pytest.mark.processes
def test_nothing_is_started_before_the_first_picture_and_all_of_it_ends_when_it_is_closed() -> None:
    before = children()
    thumbnails = Thumbnails(LIMITS)
    assert children() == before
    thumbnails.of(picture())
    (zygote,) = children() - before
    os.kill(zygote, signal.SIGTERM)  # which a process group gets when its service is told to stop
    assert thumbnails.of(picture())
    thumbnails.close()
    assert children() == before


def children() -> set[int]:
    return set(children_of(os.getpid()))


def test_too_many_who_wait_are_turned_away_at_once() -> None:
    turns = RenderLimiter(Bulkhead(AT_ONCE))
    with turns.one() as first, turns.one() as second, turns.one() as third:
        assert (first, second, third) == (True, True, False)
    with turns.one() as again:
        assert again
