"""Export of spans: what a collector receives, and that nothing waits for one that does not answer."""

import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from core.config import TracingSettings
from core.telemetry import Spans
from core.tracing import child_of, new_traceparent, span_id, trace_id
from scripts.logs import LocalLogs, LogQuery
from tests.conftest import ROOT
from tests.support.jobs import picture
from tests.support.otlp import OtlpCollector, otlp_collector
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

START = 1_770_000_000.25


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with otlp_collector() as started:
        yield started


def started(endpoint: str | None, ratio: float = 1.0) -> Spans:
    spans = Spans()
    spans.start("fleetsight-test", TracingSettings(endpoint=endpoint, sample_ratio=ratio))
    return spans


def test_a_collector_receives_spans_of_sampled_traces_with_the_given_ids_and_times(
    collector: OtlpCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    spans, parent = started(collector.url), new_traceparent(is_sampled=True)
    child = child_of(parent)
    attributes: dict[str, str | int | float] = {"status": 503, "route": "/"}
    spans.export("whole", parent, None, START, START + 2, kind="SERVER", attributes=attributes, is_error=True)
    spans.export("part", child, parent, START + 1, START + 1.5)
    spans.export("unsampled", new_traceparent(), None, START, START)
    spans.stop()
    whole, part = collector.spans()
    assert (whole.service, whole.name, whole.trace, whole.id) == (
        "fleetsight-test",
        "whole",
        trace_id(parent),
        span_id(parent),
    )
    assert (whole.parent, whole.is_error, whole.kind) == ("", True, 2)
    assert whole.attributes == attributes
    assert (whole.start, whole.end) == (int(START * 1e9), int((START + 2) * 1e9))
    assert (part.trace, part.id, part.parent, part.is_error) == (whole.trace, span_id(child), whole.id, False)
    assert collector.headers[0]["x-key"] == "secret"


def test_the_share_of_sampled_requests_is_configured(collector: OtlpCollector) -> None:
    for ratio, expected in ((0, {False}), (0.5, {True, False}), (1, {True})):
        spans = started(collector.url, ratio)
        assert {spans.samples() for _ in range(200)} == expected
        spans.stop()
    assert not started(None).samples()


def test_nothing_waits_for_a_collector_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector accepts connections and does not answer before the spans were taken and the export stopped."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "512")
    release = threading.Event()
    with otlp_collector() as collector:
        collector.receive = lambda *_: (release.wait(DEADLINE_SECONDS), 200)[1]  # type: ignore[method-assign]
        spans = started(collector.url)
        for _ in range(1024):
            spans.export("x", new_traceparent(is_sampled=True), None, START, START)
        spans.stop()
        exporting = [thread for thread in threading.enumerate() if thread.name == "last-spans"]
        assert exporting, "their export goes on meanwhile"
        release.set()
        for thread in exporting:  # or it would log in the next tests that the collector has gone
            thread.join(DEADLINE_SECONDS)


def test_missing_packages_are_an_error_of_the_log_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in {"opentelemetry", *(each for each in sys.modules if each.startswith("opentelemetry."))}:
        monkeypatch.setitem(sys.modules, name, None)
    spans = started("http://127.0.0.1:9")
    spans.export("x", new_traceparent(is_sampled=True), None, START, START)
    assert [(each.levelno, "setup.sh run telemetry" in each.message) for each in caplog.records] == [
        (logging.ERROR, True)
    ]


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, app_tier.worker, web_tier.app, web_tier.controller.services\n"
        "from core.config import TracingSettings\n"
        "from core.telemetry import SPANS\n"
        "from core.tracing import new_traceparent\n"
        "SPANS.start('x', TracingSettings())\n"
        "SPANS.export('x', new_traceparent(is_sampled=True), None, 0, 0)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


@pytest.mark.processes
def test_one_trace_has_the_request_the_stages_and_the_record_of_an_image(
    collector: OtlpCollector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {
        "FLEETSIGHT__FLEET__MAX_WORKERS": "1",
        "FLEETSIGHT__TRACING__ENDPOINT": collector.url,
        "FLEETSIGHT__LOGS__LEVEL": "warning",
    }
    began, client_span = time.time(), new_traceparent()
    with running_system(tmp_path_factory.mktemp("home"), settings) as system:
        client = system.api()
        job = client.create_job("traced")
        answer = requests.post(
            f"{system.url}/api/v1/jobs/{job}/images",
            files={"images": ("1.jpg", picture(shade=1))},
            headers={"traceparent": client_span},
            timeout=DEADLINE_SECONDS,
        )
        image = answer.json()["accepted"][0]["image_id"]
        wait_until(lambda: client.status(job)["state"] == "finished", "the image is classified")
    found = {each.name: each for each in collector.spans() if each.trace == trace_id(client_span)}
    request = found["POST /api/v1/jobs/<job_id>/images"]
    assert (request.service, request.parent) == ("fleetsight-web", span_id(client_span))
    assert request.attributes["http.response.status_code"] == 200
    whole, recorded = found["image"], found["recorded"]
    assert (whole.service, whole.parent, whole.attributes["image"]) == ("fleetsight-worker", request.id, image)
    assert (recorded.service, recorded.parent) == ("fleetsight-controller", request.id)
    stages = [found[name] for name in ("queued", "fetched", "decoded", "inferred", "stored", "responded")]
    assert {each.parent for each in stages} == {whole.id}
    assert sorted(stages, key=lambda each: each.end) == stages
    assert all(began * 1e9 < each.start <= each.end <= whole.end for each in stages[1:])
    logged = LocalLogs(system.state_dir, LogQuery(level="debug")).since(0)
    assert [line for line in logged if re.search(r" (debug|info) ", line) and not re.search(" fleet ", line)] == []
