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
from core.telemetry import NO_SPANS, Span, SpanExporter
from core.tracing import child_of, new_traceparent, span_id, trace_id
from scripts.aws.logs import LogQuery
from scripts.logs import LocalLogs
from tests.conftest import ROOT
from tests.support.jobs import picture
from tests.support.otlp import OtlpCollector, otlp_collector
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

START = 1_770_000_000.25
MAX_WAITING = 512
"""Spans that wait for a collector in a test: an export takes as many."""


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with otlp_collector() as started:
        yield started


def exporter(endpoint: str | None, ratio: float = 1.0) -> SpanExporter:
    return SpanExporter("fleetsight-test", TracingSettings(endpoint=endpoint, sample_ratio=ratio), {})


def test_a_collector_receives_spans_with_the_given_ids_and_times(collector: OtlpCollector) -> None:
    spans, parent = exporter(collector.url), new_traceparent(is_sampled=True)
    child = child_of(parent)
    spans.export(
        Span("whole", parent, None, START, START + 2, "SERVER", {"status": 503, "route": "/"}, is_error=True)
    )
    spans.export(Span("part", child, parent, START + 1, START + 1.5))
    spans.close()
    whole, part = collector.spans()
    assert (whole.service, whole.name, whole.trace, whole.id) == (
        "fleetsight-test",
        "whole",
        trace_id(parent),
        span_id(parent),
    )
    assert (whole.parent, whole.is_error, whole.kind) == ("", True, 2)
    assert whole.attributes == {"status": 503, "route": "/"}
    assert (whole.start, whole.end) == (int(START * 1e9), int((START + 2) * 1e9))
    assert (part.trace, part.id, part.parent, part.is_error) == (whole.trace, span_id(child), whole.id, False)


def test_spans_of_unsampled_traces_are_not_exported(collector: OtlpCollector) -> None:
    spans, unsampled, sampled = exporter(collector.url), new_traceparent(), new_traceparent(is_sampled=True)
    for traceparent in (unsampled, sampled):
        spans.export(Span("x", traceparent, None, START, START))
    spans.close()
    assert [each.trace for each in collector.spans()] == [trace_id(sampled)]
    assert (spans.wants(None), exporter(collector.url).wants(unsampled)) == (False, False)


def test_the_share_of_sampled_requests_is_configured(collector: OtlpCollector) -> None:
    assert not any(exporter(collector.url, 0).samples() for _ in range(100))
    assert all(exporter(collector.url, 1).samples() for _ in range(100))
    some = [exporter(collector.url, 0.5).samples() for _ in range(200)]
    assert True in some
    assert False in some
    assert not exporter(None, 1).samples()


@pytest.mark.parametrize(
    ("variable", "path"),
    [("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces")],
)
@pytest.mark.parametrize("setting", [None, "http://127.0.0.1:9"])
def test_the_standard_variables_for_collector_and_headers_override_the_setting(
    collector: OtlpCollector, monkeypatch: pytest.MonkeyPatch, variable: str, path: str, setting: str | None
) -> None:
    environment = {variable: collector.url + path, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spans = SpanExporter("fleetsight-test", TracingSettings(endpoint=setting), environment)
    spans.export(Span("x", new_traceparent(is_sampled=True), None, START, START))
    spans.close()
    assert len(collector.spans()) == 1
    assert collector.headers[0]["x-key"] == "secret"


def test_nothing_waits_for_a_collector_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector accepts connections and does not answer before the spans were taken and the exporter closed."""
    monkeypatch.setattr("core.telemetry.MAX_WAITING_SPANS", MAX_WAITING)
    release = threading.Event()
    with otlp_collector() as collector:
        collector.receive = lambda *_: (release.wait(DEADLINE_SECONDS), 200)[1]  # type: ignore[method-assign]
        spans = exporter(collector.url)
        for _ in range(2 * MAX_WAITING):
            spans.export(Span("x", new_traceparent(is_sampled=True), None, START, START))
        spans.close()
        exporting = [thread for thread in threading.enumerate() if thread.name == "last-spans"]
        assert exporting, "their export goes on meanwhile"
        release.set()
        for thread in exporting:  # or it would log in the next tests that the collector has gone
            thread.join(DEADLINE_SECONDS)


def test_a_refusal_of_the_collector_loses_spans_and_raises_nothing(collector: OtlpCollector) -> None:
    collector.status = 400
    spans = exporter(collector.url)
    spans.export(Span("x", new_traceparent(is_sampled=True), None, START, START))
    spans.close()
    assert collector.headers
    assert collector.spans() == []


@pytest.mark.parametrize("package", ["opentelemetry.sdk", "opentelemetry"])
def test_missing_packages_are_an_error_of_the_log_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, package: str
) -> None:
    for name in {package, *(each for each in sys.modules if each.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    spans = exporter("http://127.0.0.1:9")
    for _ in range(3):
        spans.export(Span("x", new_traceparent(is_sampled=True), None, START, START))
    assert [(each.levelno, "setup.sh run telemetry" in each.message) for each in caplog.records] == [
        (logging.ERROR, True)
    ]
    assert not spans.is_enabled


def test_an_exporter_that_cannot_be_made_is_disabled_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    spans = exporter("http://127.0.0.1:9")
    for _ in range(3):
        spans.export(Span("x", new_traceparent(is_sampled=True), None, START, START))
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in record.__dict__["reason"]
    assert not spans.is_enabled


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, app_tier.worker, web_tier.app, web_tier.controller.services\n"
        "from core.telemetry import NO_SPANS, Span\n"
        "from core.tracing import new_traceparent\n"
        "NO_SPANS.export(Span('x', new_traceparent(is_sampled=True), None, 0, 0))\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
    assert not NO_SPANS.is_enabled


@pytest.mark.processes
def test_one_trace_has_the_request_the_stages_and_the_record_of_an_image(
    collector: OtlpCollector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {
        "FLEETSIGHT__FLEET__MAX_WORKERS": "1",
        "FLEETSIGHT__TRACING__ENDPOINT": collector.url,
        **{f"FLEETSIGHT__LOGS__{process}": "warning" for process in ("WEB", "CONTROLLER", "WORKER")},
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
