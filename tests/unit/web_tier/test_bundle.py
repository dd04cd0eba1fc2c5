"""The configured bundle is known, also when it changes in its place."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from core.bundle_facts import MANIFEST_NAME, BundleFacts
from services.errors import NotFoundError
from tests.support.clocks import PlayedClock
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from web_tier.uploads.served_models import FRESH_SECONDS, BundleReader


def manifest(name: str) -> bytes:
    """Return the ``bundle.json`` of the demo bundle by another name."""
    return json.dumps({**json.loads((DEMO_BUNDLE / MANIFEST_NAME).read_bytes()), "name": name}).encode()


def build(folder: Path, name: str) -> None:
    (folder / MANIFEST_NAME).write_bytes(manifest(name))


def no_object(_bucket: str, key: str) -> bytes:
    raise NotFoundError(f"there is no object {key!r}")


def test_a_bundle_that_cannot_be_read_is_logged_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    bundle = BundleReader(tmp_path, no_object, clock=PlayedClock(lambda: now[0]))
    for _ in range(3):
        assert bundle.facts() == BundleFacts()
        now[0] += FRESH_SECONDS
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    build(tmp_path, "one")
    assert bundle.facts().name == "one"


@pytest.mark.parametrize("known", [None, "yesterday"])
def test_threads_wait_for_the_facts_that_another_thread_reads(
    known: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.uploads.served_models.MAX_WAIT_SECONDS", NEVER_SECONDS)
    now, is_slow, is_read, may_end = 100.0, known is None, threading.Event(), threading.Event()

    def get(_bucket: str, _key: str) -> bytes:
        if is_slow:
            is_read.set()
            may_end.wait(NEVER_SECONDS)
        return manifest("today" if is_slow else str(known))

    def clock() -> float:
        if is_read.is_set():
            may_end.set()  # a second thread has come
        return now

    bundle = BundleReader(Path("s3://models/signs"), get, clock=PlayedClock(clock))
    if known is not None:
        assert bundle.facts().name == known
    now, is_slow = now + FRESH_SECONDS, True
    with ThreadPoolExecutor(1) as reader:
        first = reader.submit(bundle.facts)
        assert is_read.wait(DEADLINE_SECONDS)
        assert bundle.facts().name == "today"
        assert first.result(DEADLINE_SECONDS).name == "today"


def test_an_object_of_s3_that_is_missing_is_no_error() -> None:
    assert BundleReader(Path("s3://models/signs"), no_object).facts() == BundleFacts()


def test_facts_that_could_not_be_read_are_read_again_soon(tmp_path: Path) -> None:
    now = [0.0]
    bundle = BundleReader(tmp_path, no_object, clock=PlayedClock(lambda: now[0]), fresh_seconds=300)
    assert bundle.facts() == BundleFacts()
    build(tmp_path, "one")
    now[0] += FRESH_SECONDS
    assert bundle.facts().name == "one"
    build(tmp_path, "two")
    now[0] += FRESH_SECONDS
    assert bundle.facts().name == "one"
    now[0] += 300
    assert bundle.facts().name == "two"
