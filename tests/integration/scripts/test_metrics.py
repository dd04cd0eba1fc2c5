"""`./scripts/run.sh --metrics`: what the processes really serve, and the configuration for a Prometheus server."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from scripts.documentation.reference import served_metrics
from scripts.run.prometheus import ALERTS, CONTROLLER_PORT_VARIABLE, prometheus_instructions
from scripts.run.supervisor import Supervisor
from scripts.run.system import System, free_port
from tests.support.jobs import picture
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

IMAGES = 12
"""Enough for an estimate of the time for an image."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with sign-in that serves its metrics and has classified some images."""
    settings = {
        "FLEETSIGHT__FLEET__MAX_WORKERS": "1",
        CONTROLLER_PORT_VARIABLE: str(free_port()),
    }
    # Not forked: such a worker may have labelled all images before the controller has seen it boot.
    home, supervisor = tmp_path_factory.mktemp("home"), Supervisor()
    with running_system(home, settings, supervisor=supervisor, has_provider=True) as system:
        client = system.api()
        job = client.create_job("metrics")
        client.add_images(job, [(f"{number}.jpg", picture(shade=number)) for number in range(IMAGES)])
        wait_until(lambda: client.status(job)["state"] == "finished", "the images are classified")
        yield system


@pytest.fixture(scope="module")
def config(system: System) -> dict[str, Any]:
    """The configuration that is written for a Prometheus server."""
    written = prometheus_instructions(system)
    assert f"--config.file={system.state_dir / 'prometheus.yml'}" in written
    return dict(yaml.safe_load((system.state_dir / "prometheus.yml").read_text()))


def scrape(job: dict[str, Any]) -> list[Metric]:
    """Read the metrics of a job as a Prometheus server does."""
    headers = {}
    if "authorization" in job:
        token = Path(job["authorization"]["credentials_file"])
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {token.read_text()}"}
    [target] = job["static_configs"][0]["targets"]
    answer = requests.get(f"http://{target}/metrics", headers=headers, timeout=DEADLINE_SECONDS)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return list(text_string_to_metric_families(answer.text))


def value(metrics: list[Metric], name: str, **labels: str) -> float:
    return sum(
        sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_the_processes_serve_the_documented_metrics_and_no_others(config: dict[str, Any]) -> None:
    for process, job in zip(("web", "controller"), config["scrape_configs"], strict=True):
        expected = {each.name for each in served_metrics() if process == each.process}

        def differing(job: dict[str, Any] = job, expected: set[str] = expected) -> set[str]:
            return expected ^ {f"{each.name}_total" if each.type == "counter" else each.name for each in scrape(job)}

        # Two are there only once they were measured, a moment after the last result.
        wait_until(lambda: not differing(), f"{process} serves what is documented", details=lambda: str(differing()))


def test_a_batch_is_counted_where_it_passes(config: dict[str, Any]) -> None:
    web_job, controller_job = config["scrape_configs"]
    # The bill begins with the next description of the fleet, which may be later than the last result.
    controller = wait_until(
        lambda: found if value(found := scrape(controller_job), "fleetsight_cost_dollars_total") > 0 else None,
        "the instance is billed",
    )
    web = scrape(web_job)
    assert value(web, "fleetsight_images_accepted_total") == IMAGES
    results = value(controller, "fleetsight_image_results_total", outcome="done")
    assert results + value(controller, "fleetsight_image_results_total", outcome="failed") == IMAGES
    for stage in ("queued", "fetched", "decoded", "inferred", "stored"):
        assert value(controller, "fleetsight_image_stage_duration_seconds_count", stage=stage) == results
    assert value(controller, "fleetsight_image_waiting_seconds_total") > 0
    # A worker that was idle has ended, and another one may have been launched.
    assert value(controller, "fleetsight_instances_launched_total") >= 1
    assert value(controller, "fleetsight_launch_calls_total", outcome="complete") >= 1
    assert value(controller, "fleetsight_controller_leader") == 1
    assert value(web, "fleetsight_http_requests_total", route="/api/v1/jobs", status="201") == 1


def test_without_an_operators_token_the_web_tier_serves_no_metrics(system: System) -> None:
    answer = requests.get(f"{system.url}/metrics", timeout=DEADLINE_SECONDS)
    assert (answer.status_code, "fleetsight_" in answer.text) == (401, False)


def promtool(*arguments: str, stdin: str = "") -> str:
    """Run Prometheus's own checker, which must succeed."""
    if (program := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration_and_the_rules(system: System, config: dict[str, Any]) -> None:
    assert config["rule_files"] == [str(ALERTS)]
    assert "SUCCESS" in promtool("check", "config", str(system.state_dir / "prometheus.yml"))


def test_promtool_finds_no_fault_in_the_names(config: dict[str, Any]) -> None:
    web, controller = config["scrape_configs"]
    for job in (web, controller):
        [target] = job["static_configs"][0]["targets"]
        token = Path(web["authorization"]["credentials_file"]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.get(f"http://{target}/metrics", headers=headers, timeout=DEADLINE_SECONDS)
        promtool("check", "metrics", stdin=answer.text)
